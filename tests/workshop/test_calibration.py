"""Thresholds and temperatures do what the manifest says of them."""

import random

import pytest

from agent.certify import Claim
from agent.examples import Example
from agent.families.encoder import EncoderSpec
from agent.scoring import calibration_error
from agent.types import Prediction, Tier
from agent.workshop.calibration import halves, temperatures, thresholds

SPEC = EncoderSpec(
    family="encoder",
    model="m",
    tokenizer="t",
    max_tokens=64,
    stride=16,
    label_temperature=1,
    entity_temperature=1,
)


def _honest(n: int) -> list[Claim]:
    chance = random.Random(1)  # noqa: S311
    scores = [chance.uniform(0.5, 1) for _ in range(n)]
    return [Claim(score, right=chance.random() < score) for score in scores]


def test_thresholds_are_certificates() -> None:
    """The table has a row for each error that the data can carry, and no other."""
    table = thresholds([Claim(0.9, right=True)] * 150)
    assert [row.max_error for row in table] == [0.03, 0.05, 0.07, 0.10, 0.15, 0.20]


def test_halves_part_the_data_for_good() -> None:
    """Each example is in one half, in the same one whatever stands around it."""
    examples = [Example(text=f"text {number}", label="a") for number in range(200)]
    fitted, held = halves(examples)
    assert sorted([*fitted, *held], key=lambda e: e.text) == sorted(
        examples, key=lambda e: e.text
    )
    assert min(len(fitted), len(held)) > 60
    assert halves(examples[::-1])[0] == fitted[::-1]


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
