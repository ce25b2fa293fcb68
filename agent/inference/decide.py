"""Is the local guess good enough? A pure function of prediction and policy."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from agent.core.expressions import Expression
from agent.core.types import (
    Decision,
    Guarantee,
    Prediction,
    Reason,
    Resolved,
    Routing,
    Unresolved,
)

OUTSIDE = 0.5  # from this probability on, a text counts as none of our business


@dataclass(frozen=True, slots=True)
class Rule:
    """What entities of one type must be for an answer to stand.

    `labels` are those that require one; empty: all do, if any is required at all.
    """

    required: bool = False
    labels: frozenset[str] = frozenset()
    pattern: Expression | None = None
    check: Callable[[str], bool] | None = None

    def requires(self, label: str | None) -> bool:
        """Tell whether an answer with this label needs such an entity."""
        return self.required and (not self.labels or label in self.labels)

    def allows(self, words: str) -> bool:
        """Tell whether these words may be such an entity."""
        return (self.pattern is None or self.pattern.is_whole(words)) and (
            self.check is None or self.check(words)
        )


@dataclass(frozen=True, slots=True)
class Policy:
    """When a prediction may stand.

    `threshold` applies to the calibrated score of what is guaranteed (0 to 1, reached
    when equal); None means that no threshold keeps the error the operator asked for,
    so nothing is resolved locally. `error_bound` is what is certified for what passes,
    or None. `calibrated` is False where scores may not be trusted at all. `road` says
    who is to answer, `roads` for which labels somebody else; `rules` are for entities,
    by type.
    """

    guarantee: Guarantee
    threshold: float | None
    error_bound: float | None = None
    calibrated: bool = True
    road: Routing = Routing.PREFER_LOCAL
    roads: Mapping[str, Routing] = field(default_factory=dict)
    rules: Mapping[str, Rule] = field(default_factory=dict)

    def routing_of(self, label: str | None) -> Routing:
        """Return who is to answer where the best local guess is this label."""
        return self.road if label is None else self.roads.get(label, self.road)


def confidence(prediction: Prediction, guarantee: Guarantee) -> float:
    """Return the calibrated score of what is guaranteed; 0 where there is none."""
    label = prediction.score if prediction.score is not None else 0.0
    entities = prediction.entities_score
    if guarantee is Guarantee.LABEL:
        return label
    if guarantee is Guarantee.ENTITIES:
        return entities if entities is not None else 0.0
    return label * (entities if entities is not None else 0.0)


def passes(prediction: Prediction, policy: Policy) -> bool:
    """Tell whether the prediction may be the answer."""
    return (
        policy.calibrated
        and policy.threshold is not None
        and confidence(prediction, policy.guarantee) >= policy.threshold
    )


def decide(prediction: Prediction, policy: Policy) -> Decision:
    """Resolve the prediction if it stands, else say why it does not."""
    road = policy.routing_of(prediction.label)
    if road is Routing.ALWAYS_UPSTREAM:
        return Unresolved(Reason.POLICY, prediction)
    sure = passes(prediction, policy)
    if road is Routing.ALWAYS_LOCAL:
        return Resolved(prediction, policy.error_bound if sure else None)
    doubt = (
        violated_rule(prediction, policy.rules) if sure else _doubt(prediction, policy)
    )
    if doubt:
        return Unresolved(doubt, prediction)
    return Resolved(prediction, policy.error_bound)


def _doubt(prediction: Prediction, policy: Policy) -> Reason:
    """Say why a prediction does not stand."""
    if not policy.calibrated:
        return Reason.UNCALIBRATED
    if prediction.outside is not None and prediction.outside >= OUTSIDE:
        return Reason.OUT_OF_SCOPE
    return Reason.LOW_CONFIDENCE


def violated_rule(prediction: Prediction, rules: Mapping[str, Rule]) -> Reason | None:
    """Return which kind of rule the entities break, if any."""
    for kind, rule in rules.items():
        words = [e.text for e in prediction.entities if e.label == kind]
        if not words and rule.requires(prediction.label):
            return Reason.MISSING_FIELD
        if not all(rule.allows(each) for each in words):
            return Reason.INVALID_FIELD
    return None


def wants_upstream(decision: Decision, policy: Policy) -> bool:
    """Tell whether the policy wants upstream to answer instead."""
    if isinstance(decision, Resolved):
        return False
    guess = decision.prediction
    road = policy.routing_of(guess.label if guess else None)
    return road in {Routing.PREFER_LOCAL, Routing.ALWAYS_UPSTREAM}
