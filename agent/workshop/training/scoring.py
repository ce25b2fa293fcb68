"""Score a finished bundle: its last tier alone, and the cascade with its policy."""

from collections.abc import Sequence
from dataclasses import dataclass

from agent.core.types import Decision, Guarantee, Prediction, Resolved, Tier
from agent.evaluation.samples import CalibrationSample
from agent.evaluation.scoring import Scoreboard, ScoredAnswer, scoreboard
from agent.inference.calibration import Calibration
from agent.inference.decide import (
    ANY_FORM,
    Forms,
    Policy,
    confidence,
    decide,
    passes,
    unfit,
)


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of one precision.

    `alone` scores the last tier as if it answered every text, on texts in scope.
    `cascade` scores all tiers with the policy on all texts, as `slm-agent eval` does.
    """

    alone: Scoreboard
    cascade: Scoreboard


def figures(
    heard: Sequence[CalibrationSample],
    calibration: Calibration,
    tiers: Sequence[Tier],
    labels: frozenset[str],
    guarantee: Guarantee,
    max_error: float,
    min_score: float = 0.0,
    forms: Forms = ANY_FORM,
) -> Figures:
    """Score the raw predictions of the tiers for labelled texts."""
    row = calibration.threshold(guarantee, max_error)
    threshold = max(row.threshold, min_score) if row else None
    policy = Policy(guarantee, threshold, max_error, forms=forms)
    decisions = [decided(one, calibration, tiers, policy) for one in heard]
    return Figures(
        alone=scoreboard(
            [
                _answer(one, Resolved(_last(one, calibration, tiers), None), guarantee)
                for one in heard
                if one.example.label is None or one.example.label in labels
            ],
            labels,
        ),
        cascade=scoreboard(
            [
                _answer(one, decision, guarantee)
                for one, decision in zip(heard, decisions, strict=True)
            ],
            labels,
        ),
    )


def certifiable(
    calibration: Calibration, guarantee: Guarantee, wanted: float
) -> float | None:
    """Return `wanted` if it is certified, else the smallest certified error.

    None if no error is certified.
    """
    if calibration.threshold(guarantee, wanted):
        return wanted
    return calibration.least_error(guarantee)


def decided(
    heard: CalibrationSample,
    calibration: Calibration,
    tiers: Sequence[Tier],
    policy: Policy,
) -> Decision:
    """Return the decision of a bundle with these raw predictions."""
    for number, made in enumerate(calibration.tiers[:-1]):
        prediction = made.calibrated(tiers[number], heard.guesses[number])
        length = len(heard.example.text)
        sure = passes(prediction, policy) and not unfit(prediction, policy.forms)
        if sure and made.may_answer(prediction, length):
            return decide(prediction, policy)
    return decide(_last(heard, calibration, tiers), policy)


def _last(
    heard: CalibrationSample, calibration: Calibration, tiers: Sequence[Tier]
) -> Prediction:
    return calibration.tiers[-1].calibrated(tiers[-1], heard.guesses[-1])


def _answer(
    heard: CalibrationSample, decision: Decision, guarantee: Guarantee
) -> ScoredAnswer:
    prediction = decision.prediction
    sure = confidence(prediction, guarantee) if prediction else 0.0
    return ScoredAnswer(heard.example, decision, sure)
