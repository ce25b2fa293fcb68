"""Is the local guess good enough? A pure function of prediction and policy."""

from dataclasses import dataclass

from agent.types import (
    Decision,
    Guarantee,
    Prediction,
    Reason,
    Resolved,
    Unresolved,
)

OUTSIDE = 0.5  # from this probability on, a text counts as none of our business


@dataclass(frozen=True, slots=True)
class Policy:
    """When a prediction may stand.

    `threshold` applies to the calibrated score of what is guaranteed (0 to 1, reached
    when equal); None means that no threshold keeps the error the operator asked for,
    so nothing is resolved locally. `error_bound` is what is certified for what passes,
    or None. `calibrated` is False where scores may not be trusted at all.
    """

    guarantee: Guarantee
    threshold: float | None
    error_bound: float | None = None
    calibrated: bool = True


def confidence(prediction: Prediction, guarantee: Guarantee) -> float:
    """Return the calibrated score of what is guaranteed; 0 where there is none."""
    label = prediction.score if prediction.score is not None else 0.0
    entities = prediction.entities_score
    if guarantee is Guarantee.LABEL:
        return label
    if guarantee is Guarantee.ENTITIES:
        return entities if entities is not None else 0.0
    return label * (entities if entities is not None else 0.0)


def stands(prediction: Prediction, policy: Policy) -> bool:
    """Tell whether the prediction may be the answer."""
    return (
        policy.calibrated
        and policy.threshold is not None
        and confidence(prediction, policy.guarantee) >= policy.threshold
    )


def decide(prediction: Prediction, policy: Policy) -> Decision:
    """Resolve the prediction if it stands, else say why it does not."""
    if stands(prediction, policy):
        return Resolved(prediction, policy.error_bound)
    if not policy.calibrated:
        return Unresolved(Reason.UNCALIBRATED, prediction)
    if prediction.outside is not None and prediction.outside >= OUTSIDE:
        return Unresolved(Reason.OUT_OF_SCOPE, prediction)
    return Unresolved(Reason.LOW_CONFIDENCE, prediction)
