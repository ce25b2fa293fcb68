"""Is the local guess good enough? A pure function of prediction and policy."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from agent.core.expressions import Expression
from agent.core.types import (
    Decision,
    Form,
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
class Forms:
    """Which forms of utterance may be answered, and where a label allows others."""

    default: frozenset[Form] = frozenset(Form)
    labels: Mapping[str, frozenset[Form]] = field(default_factory=dict)

    def of(self, label: str | None) -> frozenset[Form]:
        """Return what an answer with this label allows."""
        return self.default if label is None else self.labels.get(label, self.default)

    def told(self) -> dict[str, list[Form]]:
        """Return them ready for JSON: the default as "", and what differs from it."""
        labels = {k: v for k, v in sorted(self.labels.items()) if v != self.default}
        return {
            label: [form for form in Form if form in allowed]
            for label, allowed in {"": self.default, **labels}.items()
        }


ANY_FORM = Forms()


@dataclass(frozen=True, slots=True)
class LabelLimit:
    """From which score on an answer stands, and what is certified of those that do.

    As in `Policy`, whose limit it is for labels that have no other.
    """

    threshold: float | None
    error_bound: float | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """When a prediction may stand.

    `threshold` applies to the calibrated score of what is guaranteed (0 to 1, reached
    when equal); None means that no threshold keeps the error the operator asked for,
    so nothing is resolved locally. `error_bound` is what is certified for what passes,
    or None. `calibrated` is False where scores may not be trusted at all. `routing`
    says who is to answer, `routing_by_label` for which labels somebody else; `rules`
    are for entities, by type; `forms` are those of the utterance that may be answered.
    `stricter` are the limits of labels that have their own.
    """

    guarantee: Guarantee
    threshold: float | None
    error_bound: float | None = None
    calibrated: bool = True
    routing: Routing = Routing.PREFER_LOCAL
    routing_by_label: Mapping[str, Routing] = field(default_factory=dict)
    rules: Mapping[str, Rule] = field(default_factory=dict)
    forms: Forms = ANY_FORM
    stricter: Mapping[str, LabelLimit] = field(default_factory=dict)

    def limit_of(self, label: str | None) -> LabelLimit:
        """Return from which score on an answer with this label stands."""
        general = LabelLimit(self.threshold, self.error_bound)
        return general if label is None else self.stricter.get(label, general)

    def routing_of(self, label: str | None) -> Routing:
        """Return who is to answer where the best local guess is this label."""
        return (
            self.routing
            if label is None
            else self.routing_by_label.get(label, self.routing)
        )


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
    threshold = policy.limit_of(prediction.label).threshold
    return (
        policy.calibrated
        and threshold is not None
        and confidence(prediction, policy.guarantee) >= threshold
    )


def decide(prediction: Prediction, policy: Policy) -> Decision:
    """Resolve the prediction if it stands, else say why it does not.

    A form that is not allowed is never resolved, whoever is to answer.
    """
    routing = policy.routing_of(prediction.label)
    if routing is Routing.ALWAYS_UPSTREAM:
        return Unresolved(Reason.POLICY, prediction)
    sure = passes(prediction, policy)
    form = unfit(prediction, policy.forms)
    if routing is Routing.ALWAYS_LOCAL:
        if form:
            return Unresolved(reason_of(form), prediction)
        bound = policy.limit_of(prediction.label).error_bound
        return Resolved(prediction, bound if sure else None)
    if not sure:
        return Unresolved(_doubt(prediction, policy, form), prediction)
    doubt = reason_of(form) if form else violated_rule(prediction, policy.rules)
    if doubt:
        return Unresolved(doubt, prediction)
    return Resolved(prediction, policy.limit_of(prediction.label).error_bound)


def _doubt(prediction: Prediction, policy: Policy, form: Form | None) -> Reason:
    """Say why a prediction does not stand."""
    if not policy.calibrated:
        return Reason.UNCALIBRATED
    if prediction.outside is not None and prediction.outside >= OUTSIDE:
        return Reason.OUT_OF_SCOPE
    return reason_of(form) if form else Reason.LOW_CONFIDENCE


def reason_of(form: Form) -> Reason:
    """Return why a text of a form that is not allowed is not resolved."""
    return Reason.CONDITIONAL if form is Form.DELAYED else Reason(form.value)


def unfit(prediction: Prediction, forms: Forms) -> Form | None:
    """Return the form for which the prediction may not be an answer; None: it may.

    Rules and the model must both see one that the label allows: any form that rules see
    is refused, and so is one for which the model leaves the allowed too little.
    """
    allowed = forms.of(prediction.label)
    for form in prediction.ruled:
        if form not in allowed:
            return form
    if not prediction.forms or len(allowed) == len(Form):
        return None
    shares = dict(zip(Form, prediction.forms, strict=True))
    fitting = sum(share for form, share in shares.items() if form in allowed)
    if fitting >= prediction.form_floor:
        return None
    return max((f for f in Form if f not in allowed), key=lambda form: shares[form])


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
    routing = policy.routing_of(guess.label if guess else None)
    return routing in {Routing.PREFER_LOCAL, Routing.ALWAYS_UPSTREAM}
