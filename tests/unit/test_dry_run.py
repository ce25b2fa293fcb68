"""The dry run: what it shows is what leaves, and where nothing does it says why."""

from dataclasses import replace

import pytest
from test_upstream import Patterns, plan

from agent.core.types import Guarantee, Routing, Task
from agent.escalation.dry_run import Leaving, Staying, would_leave
from agent.inference.bundle import Bundle
from agent.inference.decide import Policy
from agent.inference.pipeline import Pipeline
from agent.protocol.payload import Reader

SURE_OF_NOTHING = Policy(Guarantee.LABEL, 2.0)


@pytest.fixture
def pipeline(bundle: Bundle) -> Pipeline:
    """Return a pipeline that is sure of nothing, and asks upstream."""
    return Pipeline(
        name="home",
        tasks=frozenset(Task),
        filters=("home/+",),
        reader=Reader(max_chars=40),
        bundle=bundle,
        policy=SURE_OF_NOTHING,
        result_topic="result/home",
        dead_letter_topic="dead/home",
        plan=plan(redacts=True),
    )


def test_what_leaves_is_hidden_as_the_gate_hides_it(pipeline: Pipeline) -> None:
    """The request has placeholders, and the real id of nothing."""
    left = would_leave(pipeline, "write to ann@lee.org", Patterns(), "pi")
    assert isinstance(left, Leaving)
    assert left.request.text == "write to [EMAIL_ADDRESS_1]"
    assert "ann" not in left.request.model_dump_json()
    assert dict(left.hidden.hidden) == {"[EMAIL_ADDRESS_1]": "ann@lee.org"}
    shown = replace(pipeline, plan=plan())
    left = would_leave(shown, "write to ann@lee.org", None, "pi")
    assert isinstance(left, Leaving)
    assert left.request.text == "write to ann@lee.org"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("a\x01b", "control_characters"),
        ("caf\udce9", "not_utf8"),
        ("x" * 41, "too_long"),
    ],
)
def test_what_cannot_be_read_does_not_leave(
    pipeline: Pipeline, text: str, reason: str
) -> None:
    """The daemon would make a dead letter of it."""
    left = would_leave(pipeline, text, Patterns(), "pi")
    assert isinstance(left, Staying)
    assert f"dead letter ({reason}" in left.why


def test_who_keeps_it(pipeline: Pipeline) -> None:
    """What is resolved stays, and so does what policy or configuration keep."""
    text = "turn on the lamp"
    for changes, why in (
        ({"policy": Policy(Guarantee.LABEL, 0.0)}, "resolved here"),
        ({"plan": None}, "no upstream"),
        (
            {"policy": replace(SURE_OF_NOTHING, routing=Routing.NEVER_UPSTREAM)},
            "policy",
        ),
    ):
        left = would_leave(replace(pipeline, **changes), text, Patterns(), "pi")  # type: ignore[arg-type]
        assert isinstance(left, Staying)
        assert why in left.why
