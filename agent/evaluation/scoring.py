"""How good answers are: accuracy, spans, coverage, AURC, calibration error."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from agent.core.types import Decision, Entity, Resolved
from agent.evaluation.examples import Example, Span

BINS = 15
OVERLAP = 0.7  # of two spans, intersection over union, that counts as the same


Place = tuple[int, int, str]  # start, end and label of an entity


@dataclass(frozen=True, slots=True)
class ScoredAnswer:
    """What a pipeline said to one example, and how sure it was (0 to 1)."""

    example: Example
    decision: Decision
    confidence: float


@dataclass(frozen=True, slots=True)
class Scoreboard:
    """Of a whole data set; None where it has nothing to score.

    `accuracy` and `span_f1` are those of the local guess, resolved or not. `coverage`
    is the share resolved locally. `aurc`: the mean error among the k surest answers,
    over all k (Geifman et al. 2019); the error is that of the label, where there are
    labels, else any difference in the entities. `ece`: expected calibration error of
    the label score (Guo et al. 2017), of `entity_ece` the entities'. Texts without
    spans in the data say nothing of entities.

    `in_scope_accuracy` and `in_scope_coverage` are of the texts whose label the bundle
    knows, `out_of_scope_kept` is the share of the others that was not resolved.
    `span_f2` counts entities of the same label that overlap by `OVERLAP`, and what is
    missing four times. `missed` is the share of the characters of true entities that
    are in none found, `hit` the share of all others that are in one.
    `error_at_outside`: how many of all resolved are wrong where this share of the texts
    is out of scope, as far as the data has any: any answer to those is wrong.
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


def scoreboard(answers: Sequence[ScoredAnswer], known: frozenset[str]) -> Scoreboard:
    """Score answers; `known` are the labels the bundle can give.

    A text whose true label is not known counts as right if it was left unresolved.
    """
    resolved = [a for a in answers if isinstance(a.decision, Resolved)]
    labelled = [a for a in answers if a.example.label is not None]
    rights = [_label_right(a, known) for a in labelled]
    marked = _marked(answers)
    judged = labelled or marked
    errors = [
        not (_label_right(a, known) if labelled else _spans_right(a)) for a in judged
    ]
    claims = [
        (a.decision.prediction.score, a.decision.prediction.label == a.example.label)
        for a in labelled
        if a.decision.prediction and a.decision.prediction.score is not None
    ]
    entity_claims = [
        (entity.score, place(entity) in {place(s) for s in a.example.marked})
        for a in marked
        for entity in _entities(a)
        if entity.score is not None
    ]
    inside = [a for a in labelled if a.example.label in known]
    outside = [a for a in labelled if a.example.label not in known]
    missed, hit = characters(answers)
    return Scoreboard(
        n=len(answers),
        accuracy=_mean(rights),
        span_f1=span_f1(answers),
        coverage=len(resolved) / len(answers) if answers else 0.0,
        resolved_accuracy=_mean(
            [_label_right(a, known) for a in resolved if a.example.label is not None]
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
        in_scope_accuracy=_mean([_label_right(a, known) for a in inside]),
        in_scope_coverage=_mean([isinstance(a.decision, Resolved) for a in inside]),
        out_of_scope_kept=_mean([_label_right(a, known) for a in outside]),
        span_f2=span_f2(answers),
        missed=missed,
        hit=hit,
        error_at_outside=errors_at_outside(inside, outside, known),
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
    wrong = sum(not _label_right(a, known) for a in answered)
    found = {}
    for share in OUTSIDE_SHARES:
        ours, theirs = (1 - share) / len(inside), share / len(outside)
        resolved = ours * len(answered) + theirs * strays
        found[f"{share:g}"] = round((ours * wrong + theirs * strays) / resolved, 4)
    return found


def span_f1(answers: Sequence[ScoredAnswer]) -> float | None:
    """Return the micro F1 of entities: exact boundaries and label."""
    true = found = hits = 0
    for wanted, got in _places(answers):
        true += len(wanted)
        found += len(got)
        hits += len(wanted & got)
    return 2 * hits / (true + found) if true else None


def span_f2(answers: Sequence[ScoredAnswer]) -> float | None:
    """Return the micro F2 of entities: the same label, and most of the same words.

    Much like the span evaluation of presidio-research, but no entities are merged and
    no words passed over.
    """
    true = found = hits = 0
    for wanted, got in _places(answers):
        true += len(wanted)
        found += len(got)
        for one in sorted(wanted):
            same = next(
                (other for other in sorted(got) if _much_the_same(one, other)), None
            )
            if same:
                got.remove(same)
                hits += 1
    return 5 * hits / (4 * true + found) if true else None


def _places(answers: Sequence[ScoredAnswer]) -> Iterator[tuple[set[Place], set[Place]]]:
    """Yield where the entities of a text are, and where they were found."""
    for answer in _marked(answers):
        yield (
            {place(span) for span in answer.example.marked},
            {place(entity) for entity in _entities(answer)},
        )


def _much_the_same(one: Place, other: Place) -> bool:
    shared = min(one[1], other[1]) - max(one[0], other[0])
    union = one[1] - one[0] + other[1] - other[0] - shared
    return one[2] == other[2] and shared >= OVERLAP * union


def characters(answers: Sequence[ScoredAnswer]) -> tuple[float | None, float | None]:
    """Return the share of true entities' characters not found, and of others found."""
    true = missed = others = hit = 0
    for answer in _marked(answers):
        wanted, got = (
            {position for span in spans for position in range(span.start, span.end)}
            for spans in (answer.example.marked, _entities(answer))
        )
        true += len(wanted)
        missed += len(wanted - got)
        others += len(answer.example.text) - len(wanted)
        hit += len(got - wanted)
    return missed / true if true else None, hit / others if others else None


def aurc(confidences: Sequence[float], errors: Sequence[bool]) -> float | None:
    """Return the area under the risk-coverage curve; 0 is perfect ranking, no errors.

    Equally sure answers share their errors, so that their order does not matter.
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
    """Return how far scores are from truth, over 15 equally wide bins of the score."""
    if not claims:
        return None
    gaps = [0.0] * BINS
    for score, right in claims:
        gaps[min(int(score * BINS), BINS - 1)] += score - right
    return sum(abs(gap) for gap in gaps) / len(claims)


def place(span: Entity | Span) -> Place:
    """Return what must agree for two entities to be the same."""
    return span.start, span.end, span.label


def _marked(answers: Sequence[ScoredAnswer]) -> list[ScoredAnswer]:
    """Return the answers to texts whose entities are known."""
    return [answer for answer in answers if answer.example.spans is not None]


def _entities(answer: ScoredAnswer) -> tuple[Entity, ...]:
    prediction = answer.decision.prediction
    return prediction.entities if prediction else ()


def _label_right(answer: ScoredAnswer, known: frozenset[str]) -> bool:
    if answer.example.label not in known:
        return not isinstance(answer.decision, Resolved)
    prediction = answer.decision.prediction
    return prediction is not None and prediction.label == answer.example.label


def _spans_right(answer: ScoredAnswer) -> bool:
    wanted = {place(span) for span in answer.example.marked}
    return wanted == {place(entity) for entity in _entities(answer)}


def _mean(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None
