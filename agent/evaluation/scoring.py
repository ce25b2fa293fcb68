"""How good answers are: accuracy, spans, coverage, AURC, calibration error."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from agent.core.types import Decision, Entity, Resolved
from agent.evaluation.examples import Example, Span

BINS = 15
OVERLAP = 0.7  # intersection over union from which two spans count as the same


Place = tuple[int, int, str]  # start, end and label of an entity


@dataclass(frozen=True, slots=True)
class ScoredAnswer:
    """The decision of a pipeline about one example, and its confidence (0 to 1)."""

    example: Example
    decision: Decision
    confidence: float


@dataclass(frozen=True, slots=True)
class Scoreboard:
    """The figures of a data set, each from 0 to 1; None if it has nothing to score.

    `accuracy` and `span_f1` are those of the local guess, resolved or not. `coverage`
    is the share resolved locally. `aurc` is the mean error among the k surest answers,
    averaged over all k (Geifman et al. 2019); the error is a wrong label if the data
    has labels, else any difference in the entities. `ece` is the expected calibration
    error of the label score (Guo et al. 2017), `entity_ece` that of the entities'
    scores. Texts without spans in the data do not count for entities.

    `in_scope_accuracy` and `in_scope_coverage` are of the texts whose label the bundle
    has; `out_of_scope_kept` is the share of the others that was not resolved. `span_f2`
    counts entities of the same label that overlap by `OVERLAP`; a missing one weighs
    four times as much as a wrong one. `missed` is the share of the characters of true
    entities that no predicted entity covers, `hit` the share of all other characters
    that one covers. `error_at_outside` is the share of wrong answers among all resolved
    where this share of the texts is out of scope; any answer to those is wrong.
    """

    n: int
    accuracy: float | None
    span_f1: float | None
    coverage: float
    resolved_accuracy: float | None
    resolved_span_f1: float | None
    aurc: float | None
    ece: float | None
    entity_ece: float | None
    by_tier: dict[str, int]
    in_scope_accuracy: float | None
    in_scope_coverage: float | None
    out_of_scope_kept: float | None
    span_f2: float | None
    missed: float | None
    hit: float | None
    error_at_outside: dict[str, float] | None


OUTSIDE_SHARES = (0.0, 0.2, 0.5)  # of texts out of scope, for which errors are told


def scoreboard(answers: Sequence[ScoredAnswer], labels: frozenset[str]) -> Scoreboard:
    """Score answers; `labels` are those of the bundle.

    A text with another true label counts as right if it was left unresolved.
    """
    resolved = [a for a in answers if isinstance(a.decision, Resolved)]
    labelled = [a for a in answers if a.example.label is not None]
    rights = [label_right(a, labels) for a in labelled]
    with_spans = marked(answers)
    judged = labelled or with_spans
    errors = [
        not (label_right(a, labels) if labelled else spans_right(a)) for a in judged
    ]
    claims = [
        (a.decision.prediction.score, a.decision.prediction.label == a.example.label)
        for a in labelled
        if a.decision.prediction and a.decision.prediction.score is not None
    ]
    entity_claims = [
        (entity.score, place(entity) in {place(s) for s in a.example.marked})
        for a in with_spans
        for entity in predicted_entities(a)
        if entity.score is not None
    ]
    inside = [a for a in labelled if a.example.label in labels]
    outside = [a for a in labelled if a.example.label not in labels]
    missed, hit = characters(answers)
    return Scoreboard(
        n=len(answers),
        accuracy=_mean(rights),
        span_f1=span_f1(answers),
        coverage=len(resolved) / len(answers) if answers else 0.0,
        resolved_accuracy=_mean(
            [label_right(a, labels) for a in resolved if a.example.label is not None]
        ),
        resolved_span_f1=span_f1(resolved),
        aurc=aurc([a.confidence for a in judged], errors),
        ece=calibration_error(claims),
        entity_ece=calibration_error(entity_claims),
        by_tier=dict(
            Counter(
                a.decision.prediction.by.value if a.decision.prediction else "none"
                for a in answers
            )
        ),
        in_scope_accuracy=_mean([label_right(a, labels) for a in inside]),
        in_scope_coverage=_mean([isinstance(a.decision, Resolved) for a in inside]),
        out_of_scope_kept=_mean([label_right(a, labels) for a in outside]),
        span_f2=span_f2(answers),
        missed=missed,
        hit=hit,
        error_at_outside=errors_at_outside(inside, outside, labels),
    )


def errors_at_outside(
    inside: Sequence[ScoredAnswer],
    outside: Sequence[ScoredAnswer],
    known: frozenset[str],
) -> dict[str, float] | None:
    """Return the share of wrong labels among all resolved, by the share of outside."""
    answered = [a for a in inside if isinstance(a.decision, Resolved)]
    strays = sum(isinstance(a.decision, Resolved) for a in outside)
    if not answered or not outside:
        return None
    wrong = sum(not label_right(a, known) for a in answered)
    errors = {}
    for share in OUTSIDE_SHARES:
        ours, theirs = (1 - share) / len(inside), share / len(outside)
        resolved = ours * len(answered) + theirs * strays
        errors[f"{share:g}"] = round((ours * wrong + theirs * strays) / resolved, 4)
    return errors


def span_f1(answers: Sequence[ScoredAnswer]) -> float | None:
    """Return the micro F1 of entities: exact boundaries and label; None without any."""
    counts = span_counts(answers)
    true, predicted, hits = (sum(count[n] for count in counts) for n in range(3))
    return 2 * hits / (true + predicted) if true else None


def span_counts(answers: Sequence[ScoredAnswer]) -> list[tuple[int, int, int]]:
    """Return of each text with known spans: true entities, predicted ones, and hits."""
    return [
        (len(wanted), len(got), len(wanted & got)) for wanted, got in _places(answers)
    ]


def span_f2(answers: Sequence[ScoredAnswer]) -> float | None:
    """Return the micro F2 of entities: the same label, overlap of at least OVERLAP.

    Like the span evaluation of presidio-research, except that no entities are merged
    and no words are skipped. None without true entities.
    """
    true = predicted = hits = 0
    for wanted, got in _places(answers):
        true += len(wanted)
        predicted += len(got)
        for one in sorted(wanted):
            same = next(
                (other for other in sorted(got) if _much_the_same(one, other)), None
            )
            if same:
                got.remove(same)
                hits += 1
    return 5 * hits / (4 * true + predicted) if true else None


def _places(answers: Sequence[ScoredAnswer]) -> Iterator[tuple[set[Place], set[Place]]]:
    """Yield the true and the predicted entities of each text with known spans."""
    for answer in marked(answers):
        yield (
            {place(span) for span in answer.example.marked},
            {place(entity) for entity in predicted_entities(answer)},
        )


def _much_the_same(one: Place, other: Place) -> bool:
    shared = min(one[1], other[1]) - max(one[0], other[0])
    union = one[1] - one[0] + other[1] - other[0] - shared
    return one[2] == other[2] and shared >= OVERLAP * union


def characters(answers: Sequence[ScoredAnswer]) -> tuple[float | None, float | None]:
    """Return `missed` and `hit` of the Scoreboard.

    The shares of the characters of true entities that were not found, and of all other
    characters that were.
    """
    true = missed = others = hit = 0
    for answer in marked(answers):
        wanted, got = (
            {position for span in spans for position in range(span.start, span.end)}
            for spans in (answer.example.marked, predicted_entities(answer))
        )
        true += len(wanted)
        missed += len(wanted - got)
        others += len(answer.example.text) - len(wanted)
        hit += len(got - wanted)
    return missed / true if true else None, hit / others if others else None


def aurc(confidences: Sequence[float], errors: Sequence[bool]) -> float | None:
    """Return the area under the risk-coverage curve; 0 without any errors.

    `errors[i]` says whether the answer with `confidences[i]` is wrong. Answers with
    equal confidence share their errors, so that their order does not matter. None
    without answers.
    """
    if not errors:
        return None
    groups: dict[float, list[bool]] = {}
    for confidence, error in zip(confidences, errors, strict=True):
        groups.setdefault(confidence, []).append(error)
    shared = [
        sum(group) / len(group)
        for _, group in sorted(groups.items(), reverse=True)
        for _ in group
    ]
    risks = [wrong / k for k, wrong in enumerate(accumulate(shared), start=1)]
    return sum(risks) / len(risks)


def calibration_error(claims: Sequence[tuple[float, bool]]) -> float | None:
    """Return the expected calibration error over BINS equally wide bins of the score.

    `claims` are pairs of a score and whether the answer is right. None without any.
    """
    if not claims:
        return None
    gaps = [0.0] * BINS
    for score, right in claims:
        gaps[min(int(score * BINS), BINS - 1)] += score - right
    return sum(abs(gap) for gap in gaps) / len(claims)


def place(span: Entity | Span) -> Place:
    """Return what must agree for two entities to be the same."""
    return span.start, span.end, span.label


def marked(answers: Sequence[ScoredAnswer]) -> list[ScoredAnswer]:
    """Return the answers to texts whose entities are known."""
    return [answer for answer in answers if answer.example.spans is not None]


def predicted_entities(answer: ScoredAnswer) -> tuple[Entity, ...]:
    """Return the entities of an answer; none where it has no prediction."""
    prediction = answer.decision.prediction
    return prediction.entities if prediction else ()


def label_right(answer: ScoredAnswer, labels: frozenset[str]) -> bool:
    """Tell whether the label is right, or a text out of scope was left unresolved."""
    if answer.example.label not in labels:
        return not isinstance(answer.decision, Resolved)
    prediction = answer.decision.prediction
    return prediction is not None and prediction.label == answer.example.label


def spans_right(answer: ScoredAnswer) -> bool:
    """Tell whether the entities are the true ones, and no others."""
    wanted = {place(span) for span in answer.example.marked}
    return wanted == {place(entity) for entity in predicted_entities(answer)}


def _mean(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None
