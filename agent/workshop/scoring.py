"""How good predictions are: accuracy, span F1, and whether their scores are true."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agent.types import Entity, Prediction
from agent.workshop.examples import Example, Span

BINS = 15


@dataclass(frozen=True, slots=True)
class Outcome:
    """One claim of the model: how sure it was, and whether it was right."""

    score: float
    right: bool


@dataclass(frozen=True, slots=True)
class Scores:
    """Of a whole data set; None where it has no labels, or no spans."""

    accuracy: float | None
    span_f1: float | None
    label_ece: float | None
    entity_ece: float | None


def score(examples: Sequence[Example], found: Sequence[Prediction]) -> Scores:
    """Compare predictions with the truth, pairwise."""
    labels = label_outcomes(examples, found)
    entities = entity_outcomes(examples, found)
    right = sum(outcome.right for outcome in labels)
    true = sum(len(example.spans) for example in examples)
    hits = sum(outcome.right for outcome in entities)
    return Scores(
        accuracy=right / len(labels) if labels else None,
        span_f1=2 * hits / (true + len(entities)) if true else None,
        label_ece=calibration_error(labels) if labels else None,
        entity_ece=calibration_error(entities) if entities else None,
    )


def label_outcomes(
    examples: Sequence[Example], found: Sequence[Prediction]
) -> list[Outcome]:
    """Return the claim about the label of each text that has one."""
    return [
        Outcome(prediction.score, prediction.label == example.label)
        for example, prediction in zip(examples, found, strict=True)
        if example.label is not None and prediction.score is not None
    ]


def entity_outcomes(
    examples: Sequence[Example], found: Sequence[Prediction]
) -> list[Outcome]:
    """Return the claims about entities; right means same label and boundaries."""
    return [
        Outcome(entity.score, _place(entity) in {_place(s) for s in example.spans})
        for example, prediction in zip(examples, found, strict=True)
        for entity in prediction.entities
    ]


def calibration_error(outcomes: Sequence[Outcome]) -> float:
    """Return the expected calibration error over equally wide bins of the score.

    Guo et al. 2017, "On Calibration of Modern Neural Networks".
    """
    scores = np.array([outcome.score for outcome in outcomes])
    right = np.array([outcome.right for outcome in outcomes], dtype=float)
    bins = np.minimum((scores * BINS).astype(int), BINS - 1)
    gaps = [
        abs(scores[bins == number].sum() - right[bins == number].sum())
        for number in range(BINS)
    ]
    return float(sum(gaps) / len(outcomes))


def log_loss(outcomes: Sequence[Outcome]) -> float:
    """Return the mean surprise at what was right; the smaller, the truer the scores."""
    scores = np.clip([outcome.score for outcome in outcomes], 1e-6, 1 - 1e-6)
    right = np.array([outcome.right for outcome in outcomes])
    return float(-np.log(np.where(right, scores, 1 - scores)).mean())


def _place(span: Entity | Span) -> tuple[int, int, str]:
    return span.start, span.end, span.label
