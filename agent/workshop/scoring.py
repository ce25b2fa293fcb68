"""What training and calibration ask of predictions: scores, and claims about truth."""

from collections.abc import Sequence

import numpy as np

from agent.certify import Claim
from agent.examples import Example
from agent.scoring import Answer, Scoreboard, place, scoreboard
from agent.types import Prediction, Resolved


def score(examples: Sequence[Example], found: Sequence[Prediction]) -> Scoreboard:
    """Score predictions as if all of them stood, pairwise."""
    answers = [
        Answer(example, Resolved(prediction, None), prediction.score or 0.0)
        for example, prediction in zip(examples, found, strict=True)
    ]
    known = {example.label for example in examples if example.label is not None}
    return scoreboard(answers, frozenset(known))


def label_outcomes(
    examples: Sequence[Example], found: Sequence[Prediction]
) -> list[Claim]:
    """Return the claim about the label of each text that has one."""
    return [
        Claim(prediction.score, prediction.label == example.label)
        for example, prediction in zip(examples, found, strict=True)
        if example.label is not None and prediction.score is not None
    ]


def entity_outcomes(
    examples: Sequence[Example], found: Sequence[Prediction]
) -> list[Claim]:
    """Return the claims about entities; right means same label and boundaries."""
    return [
        Claim(entity.score, place(entity) in {place(s) for s in example.spans})
        for example, prediction in zip(examples, found, strict=True)
        for entity in prediction.entities
    ]


def log_loss(outcomes: Sequence[Claim]) -> float:
    """Return the mean surprise at what was right; the smaller, the truer the scores."""
    scores = np.clip([outcome.score for outcome in outcomes], 1e-6, 1 - 1e-6)
    right = np.array([outcome.right for outcome in outcomes])
    return float(-np.log(np.where(right, scores, 1 - scores)).mean())
