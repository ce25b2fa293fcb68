"""The decision: the table is the specification."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.decide import OUTSIDE, Policy, confidence, decide, stands
from agent.types import (
    Entity,
    Guarantee,
    Prediction,
    Reason,
    Resolved,
    Tier,
    Unresolved,
)

LABEL, ENTITIES, BOTH = Guarantee
SCORES = st.none() | st.floats(0, 1)


def guess(
    score: float | None, entities: float | None = None, outside: float | None = None
) -> Prediction:
    """Return a prediction with these scores; its one entity is as good as nothing."""
    return Prediction(
        Tier.ENCODER,
        None if score is None else "lamp_on",
        score,
        (Entity("place", "x", 0, 1, 0.01),),
        entities,
        outside,
    )


@pytest.mark.parametrize(
    ("guarantee", "threshold", "prediction", "resolved"),
    [
        (LABEL, 0.8, guess(0.9), True),
        (LABEL, 0.8, guess(0.8), True),
        (LABEL, 0.8, guess(math.nextafter(0.8, 0)), False),
        (LABEL, 0.8, guess(0.9, 0.1), True),  # judged by its label alone
        (LABEL, 0.8, guess(0.1, 0.9), False),
        (LABEL, 0.8, guess(None, 0.9), False),
        (LABEL, 0.0, guess(0.0), True),
        (LABEL, 0.0, guess(math.nan), False),
        (LABEL, None, guess(1.0), False),
        (LABEL, 0.8, guess(0.9, outside=0.7), True),  # calibration has seen that, too
        (ENTITIES, 0.8, guess(None, 0.9), True),
        (ENTITIES, 0.8, guess(None, 0.8), True),
        (ENTITIES, 0.8, guess(None, math.nextafter(0.8, 0)), False),
        (ENTITIES, 0.8, guess(0.1, 0.9), True),  # the label does not count
        (ENTITIES, 0.8, guess(0.9, None), False),
        (ENTITIES, 0.8, guess(None, math.nan), False),
        (ENTITIES, None, guess(None, 1.0), False),
        (BOTH, 0.8, guess(0.9, 0.9), True),  # 0.81
        (BOTH, 0.8, guess(0.9, 0.85), False),  # 0.765, though either alone would do
        (BOTH, 0.8, guess(1.0, None), False),
        (BOTH, 0.8, guess(None, 1.0), False),
        (BOTH, 0.0, guess(None, 1.0), True),
        (BOTH, None, guess(1.0, 1.0), False),
    ],
)
def test_decide(
    guarantee: Guarantee,
    threshold: float | None,
    prediction: Prediction,
    *,
    resolved: bool,
) -> None:
    """A guess stands if the score of what is guaranteed reaches the threshold."""
    policy = Policy(guarantee, threshold, error_bound=0.05)
    decision = decide(prediction, policy)
    assert stands(prediction, policy) is resolved
    if resolved:
        assert decision == Resolved(prediction, 0.05)
    else:
        assert isinstance(decision, Unresolved)
        assert decision.prediction is prediction


@pytest.mark.parametrize(
    ("policy", "prediction", "reason"),
    [
        (Policy(LABEL, 0.8), guess(0.5), Reason.LOW_CONFIDENCE),
        (Policy(LABEL, None), guess(1.0), Reason.LOW_CONFIDENCE),
        (Policy(LABEL, 0.8), guess(0.5, outside=0.49), Reason.LOW_CONFIDENCE),
        (Policy(LABEL, 0.8), guess(0.1, outside=OUTSIDE), Reason.OUT_OF_SCOPE),
        (Policy(LABEL, None), guess(0.1, outside=1.0), Reason.OUT_OF_SCOPE),
        (Policy(LABEL, 0.8, calibrated=False), guess(1.0), Reason.UNCALIBRATED),
        (Policy(LABEL, 0.8, calibrated=False), guess(0.1), Reason.UNCALIBRATED),
        (
            Policy(LABEL, 0.8, calibrated=False),
            guess(0.1, outside=1.0),
            Reason.UNCALIBRATED,  # an opinion on what is outside is no more trusted
        ),
    ],
)
def test_reasons(policy: Policy, prediction: Prediction, reason: Reason) -> None:
    """What does not stand says why: not to be trusted, not for us, or not sure."""
    assert decide(prediction, policy) == Unresolved(reason, prediction)


def test_no_bound_is_claimed_without_a_certificate() -> None:
    """What the policy does not certify, no decision claims."""
    assert decide(guess(1.0), Policy(LABEL, 0.5)) == Resolved(guess(1.0), None)


@given(SCORES, SCORES, st.floats(0, 1), st.floats(0, 1), st.sampled_from(Guarantee))
def test_a_higher_threshold_never_resolves_more(
    label: float | None,
    entities: float | None,
    low: float,
    high: float,
    guarantee: Guarantee,
) -> None:
    """What passes a threshold passes every lower one."""
    low, high = sorted((low, high))
    prediction = guess(label, entities)
    passes_high = stands(prediction, Policy(guarantee, high))
    assert stands(prediction, Policy(guarantee, low)) or not passes_high


@given(SCORES, SCORES)
def test_both_is_never_surer_than_either(
    label: float | None, entities: float | None
) -> None:
    """To be right in both is no likelier than to be right in one."""
    prediction = guess(label, entities)
    both = confidence(prediction, BOTH)
    assert 0 <= both <= confidence(prediction, LABEL)
    assert both <= confidence(prediction, ENTITIES)
