"""The decision: the table is the specification."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.decide import Policy, confidence, decide
from agent.types import Entity, Prediction, Reason, Resolved, Task, Tier, Unresolved


def guess(score: float | None, *entities: float) -> Prediction:
    """Return a prediction with these scores."""
    return Prediction(
        Tier.ENCODER,
        None if score is None else "lamp_on",
        score,
        tuple(Entity("place", "x", 0, 1, s) for s in entities),
    )


@pytest.mark.parametrize(
    ("task", "threshold", "prediction", "resolved"),
    [
        (Task.CLASSIFY, 0.8, guess(0.9), True),
        (Task.CLASSIFY, 0.8, guess(0.8), True),
        (Task.CLASSIFY, 0.8, guess(math.nextafter(0.8, 0)), False),
        (Task.CLASSIFY, 0.8, guess(0.9, 0.1), True),  # judged by its label alone
        (Task.CLASSIFY, 0.8, guess(None), False),
        (Task.CLASSIFY, 0.0, guess(0.0), True),
        (Task.CLASSIFY, 0.0, guess(math.nan), False),
        (Task.CLASSIFY, None, guess(1.0), False),
        (Task.EXTRACT, 0.8, guess(None, 0.9, 0.8), True),
        (Task.EXTRACT, 0.8, guess(None, 0.9, 0.7), False),  # the weakest counts
        (Task.EXTRACT, 0.8, guess(0.1, 0.9), True),  # the label does not
        (Task.EXTRACT, 0.8, guess(None), True),  # nothing found, nothing to doubt
        (Task.EXTRACT, 0.8, guess(None, math.nan), False),
        (Task.EXTRACT, None, guess(None), False),
    ],
)
def test_decide(
    task: Task, threshold: float | None, prediction: Prediction, *, resolved: bool
) -> None:
    """A guess stands if the score its task is judged by reaches the threshold."""
    decision = decide(prediction, Policy(task, threshold, error_bound=0.05))
    if resolved:
        assert decision == Resolved(prediction, 0.05)
    else:
        assert decision == Unresolved(Reason.LOW_CONFIDENCE, prediction)


def test_no_bound_is_claimed_without_a_certificate() -> None:
    """What the policy does not certify, no decision claims."""
    assert decide(guess(1.0), Policy(Task.CLASSIFY, 0.5)) == Resolved(guess(1.0), None)


@given(st.lists(st.floats(0, 1)), st.floats(0, 1), st.floats(0, 1))
def test_a_higher_threshold_never_resolves_more(
    scores: list[float], low: float, high: float
) -> None:
    """What passes a threshold passes every lower one."""
    low, high = sorted((low, high))
    prediction = guess(None, *scores)
    passes_high = isinstance(decide(prediction, Policy(Task.EXTRACT, high)), Resolved)
    passes_low = isinstance(decide(prediction, Policy(Task.EXTRACT, low)), Resolved)
    assert passes_low or not passes_high


@given(st.lists(st.floats(0, 1), min_size=1))
def test_confidence_of_an_extraction(scores: list[float]) -> None:
    """An extraction is as sure as its weakest entity."""
    assert confidence(guess(0.5, *scores), Task.EXTRACT) == min(scores)
