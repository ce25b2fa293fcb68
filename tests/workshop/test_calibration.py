"""Thresholds and temperatures do what the manifest says of them."""

import random

import pytest

from agent.examples import Example
from agent.families.encoder import EncoderSpec
from agent.scoring import calibration_error
from agent.types import Prediction, Tier
from agent.workshop.calibration import temperatures, thresholds
from agent.workshop.scoring import Outcome

SPEC = EncoderSpec(
    family="encoder",
    model="m",
    tokenizer="t",
    max_tokens=64,
    stride=16,
    label_temperature=1,
    entity_temperature=1,
)


def _honest(n: int) -> list[Outcome]:
    chance = random.Random(1)  # noqa: S311
    scores = [chance.uniform(0.5, 1) for _ in range(n)]
    return [Outcome(score, chance.random() < score) for score in scores]


def test_thresholds_hold_on_their_own_data() -> None:
    """Above each threshold the share of errors is what the table says, and allowed."""
    outcomes = _honest(2000)
    table = thresholds(outcomes)
    assert table
    for row in table:
        passing = [o for o in outcomes if o.score >= row["threshold"]]
        error = sum(not o.right for o in passing) / len(passing)
        assert error == pytest.approx(row["error"], abs=1e-4)
        assert error <= row["max_error"]
        assert len(passing) / len(outcomes) == pytest.approx(row["coverage"], abs=1e-4)


def test_thresholds_are_the_lowest() -> None:
    """No lower score would also keep the level."""
    outcomes = [Outcome(0.9, right=True)] * 8 + [Outcome(0.8, right=False)] * 2
    levels = {row["max_error"]: row for row in thresholds(outcomes)}
    assert levels[0.15]["threshold"] == pytest.approx(0.9)
    assert levels[0.20]["threshold"] == pytest.approx(0.8)


def test_equal_scores_stay_together() -> None:
    """A threshold cannot separate texts of the same score, so none is promised."""
    outcomes = [Outcome(0.9, right=True), Outcome(0.9, right=False)]
    assert thresholds(outcomes) == []


def test_temperature_is_found() -> None:
    """Scores that are too sure are cooled until they say how often they are right."""
    outcomes = _honest(2000)
    examples = [Example(text="x", label="a" if o.right else "b") for o in outcomes]

    def ask(spec: EncoderSpec) -> list[Prediction]:
        power = 2.0 / spec.label_temperature  # two is how much too sure they are
        return [
            Prediction(Tier.ENCODER, "a", _sharpened(o.score, power)) for o in outcomes
        ]

    found = temperatures(SPEC, examples, ask)
    assert found.label_temperature == pytest.approx(2.0, rel=0.1)


def test_calibration_error() -> None:
    """It is the mean gap between claimed and true, and nothing for honest scores."""
    assert calibration_error([(0.9, False)]) == pytest.approx(0.9)
    honest = [(outcome.score, outcome.right) for outcome in _honest(20_000)]
    assert (calibration_error(honest) or 0) < 0.02


def _sharpened(score: float, power: float) -> float:
    return score**power / (score**power + (1 - score) ** power)
