"""Is the local guess good enough? A pure function of prediction and policy."""

from dataclasses import dataclass

from agent.types import Decision, Prediction, Reason, Resolved, Task, Unresolved


@dataclass(frozen=True, slots=True)
class Policy:
    """When a prediction may stand.

    `threshold` applies to the calibrated score of `task` (0 to 1, reached when equal);
    None means that no threshold keeps the error the operator asked for, so nothing is
    resolved locally. `error_bound` is what is certified for what passes, or None.
    """

    task: Task
    threshold: float | None
    error_bound: float | None = None


def confidence(prediction: Prediction, task: Task) -> float:
    """Return the score that `task` is judged by: the label's, or the weakest entity's.

    An extraction that found nothing is as sure as nothing contradicts it: 1.0.
    """
    if task is Task.CLASSIFY:
        return prediction.score if prediction.score is not None else 0.0
    return min((entity.score for entity in prediction.entities), default=1.0)


def decide(prediction: Prediction, policy: Policy) -> Decision:
    """Resolve the prediction if its confidence reaches the policy's threshold."""
    if policy.threshold is None:
        return Unresolved(Reason.LOW_CONFIDENCE, prediction)
    if confidence(prediction, policy.task) >= policy.threshold:
        return Resolved(prediction, policy.error_bound)
    return Unresolved(Reason.LOW_CONFIDENCE, prediction)
