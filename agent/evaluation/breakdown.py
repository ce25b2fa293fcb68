"""Where answers are wrong: labels, confusions, entities, texts; and the curve."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from agent.core.types import Resolved
from agent.evaluation.intervals import wilson
from agent.evaluation.scoring import (
    ScoredAnswer,
    label_right,
    marked,
    place,
    predicted_entities,
    spans_right,
)

MOST = 10  # rows of each kind
POINTS = 100  # of the curve
NOTHING = "nothing"  # instead of a label


@dataclass(frozen=True, slots=True)
class LabelRow:
    """How a true label fares; `taken_for` is what it is most often taken for."""

    label: str
    n: int
    right: int
    resolved: int
    taken_for: str


@dataclass(frozen=True, slots=True)
class EntityRow:
    """How a type of entities fares: `hits` have the same label and boundaries."""

    label: str
    true: int
    predicted: int
    hits: int

    @property
    def f1(self) -> float:
        """The F1 of this type."""
        return 2 * self.hits / (self.true + self.predicted)

    @property
    def errors(self) -> int:
        """How many are missing, or too many."""
        return self.true + self.predicted - 2 * self.hits


@dataclass(frozen=True, slots=True)
class WorstText:
    """A text whose answer is wrong, though the pipeline is sure."""

    text: str
    true: str
    said: str
    confidence: float
    resolved: bool


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Were the surest `coverage` of the texts resolved, `error` of them were wrong."""

    coverage: float
    error: float
    confidence: float


@dataclass(frozen=True, slots=True)
class Breakdown:
    """What a report shows beside the figures; the worst first."""

    labels: tuple[LabelRow, ...]
    entities: tuple[EntityRow, ...]
    confusions: tuple[tuple[str, str, int], ...]  # true, said, how often
    texts: tuple[WorstText, ...]
    curve: tuple[CurvePoint, ...]


def breakdown(answers: Sequence[ScoredAnswer], labels: frozenset[str]) -> Breakdown:
    """Return where answers are wrong; `labels` are those of the bundle.

    Wrong is a wrong label where the data has labels, else any difference in the
    entities. A text with a label that the bundle does not have is wrong if resolved.
    """
    labelled = [a for a in answers if a.example.label is not None]
    judged = labelled or marked(answers)

    def wrong(answer: ScoredAnswer) -> bool:
        if labelled:
            return not label_right(answer, labels)
        return not spans_right(answer)

    mistakes = Counter(
        (str(a.example.label), _said_label(a)) for a in labelled if wrong(a)
    )
    return Breakdown(
        labels=_label_rows(labelled, labels),
        entities=_entity_rows(answers),
        confusions=tuple(
            (true, given, count) for (true, given), count in mistakes.most_common(MOST)
        ),
        texts=_worst_texts([a for a in judged if wrong(a)], of_labels=bool(labelled)),
        curve=_curve([(a.confidence, wrong(a)) for a in judged]),
    )


def _said_label(answer: ScoredAnswer) -> str:
    prediction = answer.decision.prediction
    return (prediction.label if prediction else None) or NOTHING


def _label_rows(
    labelled: Sequence[ScoredAnswer], labels: frozenset[str]
) -> tuple[LabelRow, ...]:
    """Return the labels that are surely bad first: by the end of their interval."""
    by_label: dict[str, list[ScoredAnswer]] = defaultdict(list)
    for answer in labelled:
        by_label[str(answer.example.label)].append(answer)
    rows = []
    for label, answers in by_label.items():
        missed = [a for a in answers if not label_right(a, labels)]
        taken = Counter(map(_said_label, missed)).most_common(1)
        rows.append(
            LabelRow(
                label=label,
                n=len(answers),
                right=len(answers) - len(missed),
                resolved=sum(isinstance(a.decision, Resolved) for a in answers),
                taken_for=taken[0][0] if taken else "",
            )
        )
    flawed = [row for row in rows if row.right < row.n]
    return tuple(sorted(flawed, key=lambda row: (_highest(row), row.label))[:MOST])


def _highest(row: LabelRow) -> float:
    interval = wilson(row.right, row.n)
    return interval[1] if interval else 1.0


def _entity_rows(answers: Sequence[ScoredAnswer]) -> tuple[EntityRow, ...]:
    true: Counter[str] = Counter()
    predicted: Counter[str] = Counter()
    hits: Counter[str] = Counter()
    for answer in marked(answers):
        wanted = {place(span) for span in answer.example.marked}
        got = {place(entity) for entity in predicted_entities(answer)}
        true.update(label for _, _, label in wanted)
        predicted.update(label for _, _, label in got)
        hits.update(label for _, _, label in wanted & got)
    rows = [
        EntityRow(label, true[label], predicted[label], hits[label])
        for label in {*true, *predicted}
    ]
    flawed = [row for row in rows if row.f1 < 1]
    return tuple(sorted(flawed, key=lambda row: (-row.errors, row.label))[:MOST])


def _worst_texts(
    wrong: Sequence[ScoredAnswer], *, of_labels: bool
) -> tuple[WorstText, ...]:
    rows = [
        WorstText(
            text=answer.example.text,
            true=str(answer.example.label) if of_labels else _shown_spans(answer)[0],
            said=_said_label(answer) if of_labels else _shown_spans(answer)[1],
            confidence=answer.confidence,
            resolved=isinstance(answer.decision, Resolved),
        )
        for answer in wrong
    ]
    rows.sort(key=lambda row: (not row.resolved, -row.confidence))
    return tuple(rows[:MOST])


def _shown_spans(answer: ScoredAnswer) -> tuple[str, str]:
    """Return the true and the predicted entities in words, those that differ."""
    text = answer.example.text
    true = {place(span) for span in answer.example.marked}
    predicted = {place(entity) for entity in predicted_entities(answer)}
    return (
        _words(text, sorted(true - predicted)),
        _words(text, sorted(predicted - true)),
    )


def _words(text: str, places: Sequence[tuple[int, int, str]]) -> str:
    named = [f"{label}={text[start:end]}" for start, end, label in places]
    return ", ".join(named) or NOTHING


def _curve(claims: Sequence[tuple[float, bool]]) -> tuple[CurvePoint, ...]:
    """Return the error among the surest answers, over how many are taken.

    Equally sure answers are taken together: no threshold parts them.
    """
    points: list[CurvePoint] = []
    taken = wrong = 0
    ordered = sorted(claims, key=lambda claim: -claim[0])
    for confidence, group in groupby(ordered, key=lambda claim: claim[0]):
        errors = [error for _, error in group]
        taken += len(errors)
        wrong += sum(errors)
        points.append(CurvePoint(taken / len(claims), wrong / taken, confidence))
    step = max(1, -(-len(points) // POINTS))
    return tuple(points[i] for i in range(len(points)) if _is_kept(i, step, points))


def _is_kept(index: int, step: int, points: Sequence[CurvePoint]) -> bool:
    return index % step == 0 or index == len(points) - 1
