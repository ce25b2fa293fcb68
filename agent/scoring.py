"""How good answers are: accuracy, span F1, coverage, AURC, calibration error."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import quantiles

from agent.examples import Example, Span
from agent.types import Decision, Entity, Resolved

BINS = 15


@dataclass(frozen=True, slots=True)
class Answer:
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
    the label score (Guo et al. 2017), of `entity_ece` the entities'.
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


def scoreboard(answers: Sequence[Answer], known: frozenset[str]) -> Scoreboard:
    """Score answers; `known` are the labels the bundle can give.

    A text whose true label is not known counts as right if it was left unresolved.
    """
    resolved = [a for a in answers if isinstance(a.decision, Resolved)]
    labelled = [a for a in answers if a.example.label is not None]
    rights = [_label_right(a, known) for a in labelled]
    judged = labelled or answers
    errors = [
        not (_label_right(a, known) if labelled else _spans_right(a)) for a in judged
    ]
    claims = [
        (a.decision.prediction.score, a.decision.prediction.label == a.example.label)
        for a in labelled
        if a.decision.prediction and a.decision.prediction.score is not None
    ]
    entity_claims = [
        (entity.score, place(entity) in {place(s) for s in a.example.spans})
        for a in answers
        for entity in _entities(a)
        if entity.score is not None
    ]
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
    )


def span_f1(answers: Sequence[Answer]) -> float | None:
    """Return the micro F1 of entities: exact boundaries and label."""
    true = found = hits = 0
    for answer in answers:
        wanted = {place(span) for span in answer.example.spans}
        got = {place(entity) for entity in _entities(answer)}
        true += len(wanted)
        found += len(got)
        hits += len(wanted & got)
    return 2 * hits / (true + found) if true else None


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


def percentiles(values: Sequence[float]) -> tuple[float, float] | None:
    """Return p50 and p99, never beyond the worst value; None where there is none."""
    if not values:
        return None
    twice = [*values, *values] if len(values) == 1 else values  # Python 3.11 wants two
    steps = quantiles(twice, n=100, method="inclusive")
    return round(steps[49], 3), round(steps[98], 3)


def place(span: Entity | Span) -> tuple[int, int, str]:
    """Return what must agree for two entities to be the same."""
    return span.start, span.end, span.label


def _entities(answer: Answer) -> tuple[Entity, ...]:
    prediction = answer.decision.prediction
    return prediction.entities if prediction else ()


def _label_right(answer: Answer, known: frozenset[str]) -> bool:
    if answer.example.label not in known:
        return not isinstance(answer.decision, Resolved)
    prediction = answer.decision.prediction
    return prediction is not None and prediction.label == answer.example.label


def _spans_right(answer: Answer) -> bool:
    wanted = {place(span) for span in answer.example.spans}
    return wanted == {place(entity) for entity in _entities(answer)}


def _mean(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None
