"""Calibration: what is read from the file is what is done to every guess."""

import json
import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agent.core.types import Entity, Guarantee, Prediction, RawPrediction, Tier
from agent.inference.calibration import (
    NEARLY,
    Calibration,
    Logistic,
    Threshold,
    TierCalibration,
    fingerprint,
    log_odds,
    sigmoid,
    with_agreement,
)

ANY = st.floats(allow_nan=False, allow_infinity=False)
KITCHEN = Entity("place", "kitchen", 0, 7, 0.9)


def opinion(label: str | None, *evidence: float) -> RawPrediction:
    """Return a guess at a label."""
    return RawPrediction(label, label_evidence=evidence)


def calibration(**tables: list[tuple[float, float]]) -> Calibration:
    """Return a calibration with these (max_error, threshold) by guarantee."""
    return Calibration(
        fingerprint="0" * 64,
        runtime="none",
        data="none",
        fitted_on=0,
        certified_on=0,
        confidence=0.95,
        tiers=[],
        tables={
            Guarantee(guarantee): [
                Threshold(max_error=e, threshold=t, coverage=0.5, error=e)
                for e, t in rows
            ]
            for guarantee, rows in tables.items()
        },
    )


@given(ANY)
def test_sigmoid(value: float) -> None:
    """It is a probability for every number, and that of the opposite is the rest."""
    assert 0 <= sigmoid(value) <= 1
    assert sigmoid(value) + sigmoid(-value) == pytest.approx(1)


@given(st.floats(0, 1))
def test_log_odds(probability: float) -> None:
    """It undoes the sigmoid, and stays finite where the probability is 0 or 1."""
    bounded = min(max(probability, NEARLY), 1 - NEARLY)
    assert sigmoid(log_odds(probability)) == pytest.approx(bounded, rel=1e-6)


def test_logistic() -> None:
    """The score is the sigmoid of the weighted evidence and the bias."""
    made = Logistic(weights=(2.0, -1.0), bias=0.5)
    assert made((1.0, 3.0)) == pytest.approx(1 / (1 + math.exp(0.5)))
    with pytest.raises(ValueError, match="argument 2 is longer"):
        made((1.0, 3.0, 0.0))


def test_judged() -> None:
    """Each score comes from its own logistic, and nothing else of a guess changes."""
    tier = TierCalibration(
        label=Logistic(weights=(1.0, 1.0), bias=0.0),
        entities=Logistic(weights=(3.0,), bias=-1.0),
        entity=Logistic(weights=(2.0,), bias=0.0),
    )
    guess = RawPrediction("lamp_on", (KITCHEN,), (0.5, 0.25), (1.0,), outside=0.125)
    # squared odds: 0.9 becomes 81 / 82
    found = Entity("place", "kitchen", 0, 7, pytest.approx(81 / 82))
    assert tier.calibrated(Tier.ENCODER, guess) == Prediction(
        by=Tier.ENCODER,
        label="lamp_on",
        score=sigmoid(0.75),
        entities=(found,),
        entities_score=sigmoid(2.0),
        outside=0.125,
    )


def test_label_and_scope_are_two_factors() -> None:
    """A label's score is how likely it is right, if in scope, times whether it is."""
    right, inside = (
        Logistic(weights=(1.0, 0.0), bias=0.0),
        Logistic(weights=(0.0, 2.0), bias=-1.0),
    )
    tier = TierCalibration(label=right, inside=inside)
    found = tier.calibrated(Tier.ENCODER, RawPrediction("a", (), (0.5, 0.25)))
    assert found.score == pytest.approx(sigmoid(0.5) * sigmoid(-0.5))
    assert (
        TierCalibration(inside=inside)
        .calibrated(Tier.ENCODER, RawPrediction(None))
        .score
        is None
    )


def test_judged_without_logistics() -> None:
    """What was never fitted has no score, and entities keep their raw one."""
    found = TierCalibration().calibrated(
        Tier.LINEAR, RawPrediction("a", (KITCHEN,), (1.0,))
    )
    assert found == Prediction(Tier.LINEAR, "a", None, (KITCHEN,))


@pytest.mark.parametrize(
    ("label", "entities", "may"),
    [
        (0.8, 0.6, True),
        (1.0, 1.0, True),
        (0.79, 1.0, False),
        (1.0, 0.59, False),
        (None, 0.6, True),
        (None, 0.5, False),
        (0.8, None, True),
        (None, None, True),
    ],
)
def test_may_answer(label: float | None, entities: float | None, *, may: bool) -> None:
    """A tier may answer where every score that it has reaches its floor."""
    tier = TierCalibration(label_floor=0.8, entities_floor=0.6)
    prediction = Prediction(Tier.LINEAR, "a", label, entities_score=entities)
    assert tier.may_answer(prediction) is may


@pytest.mark.parametrize(
    ("asked", "row"),
    [
        (0.01, None),
        (0.02, (0.02, 0.9)),
        (0.04, (0.02, 0.9)),
        (0.05, (0.05, 0.5)),
        (0.99, (0.3, 0.6)),
    ],
)
def test_threshold(asked: float, row: tuple[float, float] | None) -> None:
    """The row of the largest error that is still allowed is used, in any order."""
    made = calibration(label=[(0.05, 0.5), (0.3, 0.6), (0.02, 0.9)])
    found = made.threshold(Guarantee.LABEL, asked)
    assert (found and (found.max_error, found.threshold)) == row
    assert made.threshold(Guarantee.BOTH, asked) is None


def test_least_error() -> None:
    """The smallest error of a table is known, where there is one."""
    made = calibration(label=[(0.05, 0.5), (0.02, 0.9)], entities=[])
    assert made.least_error(Guarantee.LABEL) == 0.02
    assert made.least_error(Guarantee.ENTITIES) is None
    assert made.least_error(Guarantee.BOTH) is None


def test_agreement() -> None:
    """An earlier tier that says the same speaks for a guess, another against it."""
    guess = opinion("on", 1.0, 2.0)
    agrees = with_agreement(guess, opinion("on", 3.0, 9.0))
    differs = with_agreement(guess, opinion("off", 3.0, 9.0))
    weight = math.log1p(math.exp(3.0))
    assert agrees.label_evidence == pytest.approx((1.0, 2.0, weight))
    assert differs.label_evidence == pytest.approx((1.0, 2.0, -weight))
    assert agrees.label == differs.label == "on"


@pytest.mark.parametrize(
    ("odds", "weight"), [(-1000.0, 0.0), (0.0, math.log(2)), (1000.0, 30.0)]
)
def test_agreement_is_bounded(odds: float, weight: float) -> None:
    """One that is unsure says next to nothing, one that is sure no more than 30."""
    found = with_agreement(opinion("on", 1.0), opinion("off", odds))
    assert found.label_evidence == pytest.approx((1.0, -weight))


@pytest.mark.parametrize("earlier", [None, opinion(None)])
def test_no_agreement(earlier: RawPrediction | None) -> None:
    """Where no earlier tier has an opinion, nothing is added."""
    guess = opinion("on", 1.0)
    assert with_agreement(guess, earlier) is guess


def name(**changes: object) -> str:
    """Return a fingerprint of ordinary ingredients, but for the changes."""
    ordinary = {
        "files": {"a.onnx": "1" * 64, "b.json": "2" * 64},
        "labels": ["on", "off"],
        "entities": ["place"],
        "runtime": "onnxruntime 1.23",
    }
    return fingerprint(**(ordinary | changes))  # type: ignore[arg-type]


def test_fingerprint_is_stable() -> None:
    """It is the same for ever, and the order in which files are listed is no matter."""
    assert name() == "ac714577201707c9f334c882f168e310c31f1830e739f39dc638b7bc343d4936"
    assert name(files={"b.json": "2" * 64, "a.onnx": "1" * 64}) == name()


@pytest.mark.parametrize(
    "changes",
    [
        {"files": {"a.onnx": "1" * 64, "b.json": "3" * 64}},
        {"files": {"a.onnx": "1" * 64, "c.json": "2" * 64}},
        {"files": {"a.onnx": "1" * 64}},
        {"labels": ["off", "on"]},
        {"labels": ["on"]},
        {"entities": []},
        {"labels": ["on"], "entities": ["off", "place"]},
        {"runtime": "onnxruntime 1.24"},
    ],
)
def test_fingerprint_names_each_ingredient(changes: dict[str, object]) -> None:
    """Another model, tokenizer, name, order or runtime: another fingerprint."""
    assert name(**changes) != name()


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda made: made.update(format=2), "format"),
        (lambda made: made.update(fingerprint="x"), "fingerprint"),
        (lambda made: made.update(tabels={}), "tabels"),
        (lambda made: made.update(tables={"lable": []}), "tables.lable"),
        (lambda made: made["tables"]["label"][0].update(threshold=1.5), "threshold"),
        (lambda made: made["tables"]["label"][0].update(max_error=0), "max_error"),
        (lambda made: made.update(tiers=[{"label_floor": -1}]), "label_floor"),
        (lambda made: made.update(tiers=[{"label": {"weights": [1]}}]), "bias"),
    ],
)
def test_wrong_file(break_it: Callable[[dict[str, object]], None], said: str) -> None:
    """A file of another shape is refused, and the key is named."""
    made = json.loads(calibration(label=[(0.05, 0.5)]).model_dump_json())
    assert Calibration.model_validate_json(json.dumps(made))
    break_it(made)
    with pytest.raises(ValidationError, match=said):
        Calibration.model_validate_json(json.dumps(made))
