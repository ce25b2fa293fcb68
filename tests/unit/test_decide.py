"""The decision: the table is the specification."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.expressions import compiled
from agent.core.types import (
    Entity,
    Form,
    Guarantee,
    Prediction,
    Reason,
    Resolved,
    Routing,
    Tier,
    Unresolved,
)
from agent.inference.decide import (
    OUTSIDE,
    Forms,
    LabelLimit,
    Policy,
    Rule,
    confidence,
    decide,
    passes,
    wants_upstream,
)

LABEL, ENTITIES, BOTH = Guarantee
OTHER = Routing.PREFER_LOCAL
ASKED = frozenset({Form.REQUEST, Form.QUESTION})
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
    assert passes(prediction, policy) is resolved
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
    passes_high = passes(prediction, Policy(guarantee, high))
    assert passes(prediction, Policy(guarantee, low)) or not passes_high


@given(SCORES, SCORES)
def test_both_is_never_surer_than_either(
    label: float | None, entities: float | None
) -> None:
    """To be right in both is no likelier than to be right in one."""
    prediction = guess(label, entities)
    both = confidence(prediction, BOTH)
    assert 0 <= both <= confidence(prediction, LABEL)
    assert both <= confidence(prediction, ENTITIES)


def lamp(*entities: tuple[str, str]) -> Prediction:
    """Return a sure prediction with entities of these types and words."""
    found = tuple(Entity(kind, words, 0, 1, 0.9) for kind, words in entities)
    return Prediction(Tier.ENCODER, "lamp_on", 0.9, found, 0.9)


@pytest.mark.parametrize(
    ("road", "prediction", "decision", "up"),
    [
        (Routing.PREFER_LOCAL, guess(0.9), Resolved(guess(0.9), 0.05), False),
        (Routing.PREFER_LOCAL, guess(0.1), Reason.LOW_CONFIDENCE, True),
        (Routing.NEVER_UPSTREAM, guess(0.9), Resolved(guess(0.9), 0.05), False),
        (Routing.NEVER_UPSTREAM, guess(0.1), Reason.LOW_CONFIDENCE, False),
        (Routing.ALWAYS_UPSTREAM, guess(0.9), Reason.POLICY, True),
        (Routing.ALWAYS_UPSTREAM, guess(0.1), Reason.POLICY, True),
        (Routing.ALWAYS_LOCAL, guess(0.9), Resolved(guess(0.9), 0.05), False),
        (Routing.ALWAYS_LOCAL, guess(0.1), Resolved(guess(0.1), None), False),
    ],
)
@pytest.mark.parametrize("by_label", [False, True])
def test_the_road_says_who_answers(
    road: Routing,
    prediction: Prediction,
    decision: Resolved | Reason,
    *,
    up: bool,
    by_label: bool,
) -> None:
    """A policy, of the pipeline or of the label, decides; no bound without a score."""
    policy = Policy(LABEL, 0.8, 0.05, routing=road)
    if by_label:
        policy = Policy(
            LABEL, 0.8, 0.05, routing_by_label={"lamp_on": road, "lamp_off": OTHER}
        )
    found = decide(prediction, policy)
    if isinstance(found, Unresolved):
        assert found == Unresolved(decision, prediction)  # type: ignore[arg-type]
    else:
        assert found == decision
    assert wants_upstream(found, policy) is up


def test_what_failed_goes_the_way_of_the_pipeline() -> None:
    """A text without any guess follows the pipeline's own policy."""
    failed = Unresolved(Reason.MODEL_FAILED)
    roads = {"lamp_on": Routing.NEVER_UPSTREAM}
    assert wants_upstream(failed, Policy(LABEL, 0.8, routing_by_label=roads))
    assert not wants_upstream(
        failed, Policy(LABEL, 0.8, routing=Routing.NEVER_UPSTREAM)
    )


@pytest.mark.parametrize(
    ("rule", "prediction", "reason"),
    [
        (Rule(), lamp(), None),
        (Rule(required=True), lamp(), Reason.MISSING_FIELD),
        (Rule(required=True), lamp(("place", "hall")), None),
        (Rule(required=True), lamp(("time", "noon")), Reason.MISSING_FIELD),
        (
            Rule(required=True, labels=frozenset({"lamp_on"})),
            lamp(),
            Reason.MISSING_FIELD,
        ),
        (Rule(required=True, labels=frozenset({"lamp_off"})), lamp(), None),
        (Rule(pattern=compiled("[a-z]+")), lamp(("place", "hall")), None),
        (Rule(pattern=compiled("[a-z]+")), lamp(), None),
        (Rule(pattern=compiled("h")), lamp(("place", "hall")), Reason.INVALID_FIELD),
        (
            Rule(pattern=compiled("[a-z]+")),
            lamp(("place", "hall"), ("place", "7")),
            Reason.INVALID_FIELD,
        ),
        (Rule(check=str.isdigit), lamp(("place", "7")), None),
        (Rule(check=str.isdigit), lamp(("place", "x")), Reason.INVALID_FIELD),
    ],
)
def test_rules_for_entities(
    rule: Rule, prediction: Prediction, reason: Reason | None
) -> None:
    """A sure answer that breaks a rule does not stand, and goes upstream."""
    policy = Policy(LABEL, 0.8, 0.05, rules={"place": rule})
    found = decide(prediction, policy)
    if reason is None:
        assert found == Resolved(prediction, 0.05)
    else:
        assert found == Unresolved(reason, prediction)
        assert wants_upstream(found, policy)


REQUESTS = Policy(
    LABEL, 0.8, 0.05, forms=Forms(frozenset({Form.REQUEST}), {"lamp_on": ASKED})
)


def formed(
    label: str, *ruled: Form, score: float = 0.9, floor: float = 0.5, **share: float
) -> Prediction:
    """Return a prediction about a text of which rules and the model see these forms."""
    forms = tuple(share.get(form.name, 0.0) for form in Form) if share else ()
    return Prediction(
        Tier.ENCODER, label, score, forms=forms, ruled=ruled, form_floor=floor
    )


@pytest.mark.parametrize(
    ("prediction", "reason"),
    [
        (formed("lamp_off"), None),  # nobody sees a form
        (formed("lamp_off", REQUEST=0.9, NEGATED=0.1), None),
        (formed("lamp_off", Form.NEGATED), Reason.NEGATED),
        (formed("lamp_off", Form.NEGATED, REQUEST=1.0), Reason.NEGATED),  # both must
        (formed("lamp_off", REQUEST=0.4, SEVERAL=0.6), Reason.SEVERAL_REQUESTS),
        (formed("lamp_off", REQUEST=0.8, NEGATED=0.2, floor=0.9), Reason.NEGATED),
        (formed("lamp_off", REQUEST=0.9, NEGATED=0.1, floor=0.9), None),
        (formed("lamp_off", Form.DELAYED), Reason.CONDITIONAL),
        (formed("lamp_off", Form.QUESTION), Reason.QUESTION),
        (formed("lamp_on", Form.QUESTION), None),  # which allows it
        (formed("lamp_on", REQUEST=0.3, QUESTION=0.6, NEGATED=0.1), None),
        (formed("lamp_on", Form.QUESTION, Form.NEGATED), Reason.NEGATED),
        (formed("lamp_off", Form.NEGATED, score=0.1), Reason.NEGATED),
        (formed("lamp_off", score=0.1), Reason.LOW_CONFIDENCE),
    ],
)
def test_forms(prediction: Prediction, reason: Reason | None) -> None:
    """A form that rules or the model see and the label does not allow is refused."""
    decision = decide(prediction, REQUESTS)
    found = decision.reason if isinstance(decision, Unresolved) else None
    assert found == reason


def test_a_form_is_refused_whoever_answers() -> None:
    """A road that takes any local guess takes none of a form that is not allowed."""
    policy = replace(REQUESTS, routing=Routing.ALWAYS_LOCAL)
    for score in (0.1, 0.9):
        decision = decide(formed("lamp_off", Form.NEGATED, score=score), policy)
        assert decision.reason is Reason.NEGATED
        assert not wants_upstream(decision, policy)


def test_a_stricter_limit_is_for_its_label() -> None:
    """A label with an error of its own has its own threshold, and its own bound."""
    own = {"lamp_on": LabelLimit(0.95, 0.01), "chat": LabelLimit(None)}
    policy = Policy(LABEL, 0.8, 0.05, stricter=own)
    for label, score, bound in (
        ("lamp_off", 0.8, 0.05),
        ("lamp_on", 0.9, None),
        ("lamp_on", 0.95, 0.01),
        ("chat", 1.0, None),
    ):
        decision = decide(formed(label, score=score), policy)
        found = decision.error_bound if isinstance(decision, Resolved) else None
        assert found == bound
    assert isinstance(decide(formed("chat", score=1.0), policy), Unresolved)
