"""Forms of a request: what is refused is left off, and what works is kept."""

from dataclasses import replace

import pytest

from agent.protocol.cases import Repair, Request
from agent.protocol.forms import Form, Forms, Part, plainer

FIRST = Form()
ASKED = Request(
    id="m-1", device="pi", pipeline="home", text="x", labels={"a": "b"}, deadline_ms=1
)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        (Part.FORMAT, {"format": "json_object"}),
        (Part.SYSTEM, {"system": False}),
        (Part.TEMPERATURE, {"temperature": False}),
        (Part.LIMIT, {"limit": "max_completion_tokens"}),
        (Part.ANY, {"format": "text", "system": False, "temperature": False}),
    ],
)
def test_plainer(part: Part, change: dict[str, object]) -> None:
    """What is complained of is left off, or put in another way, and nothing else."""
    assert plainer(FIRST, part) == replace(FIRST, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize("part", Part)
def test_there_is_an_end(part: Part) -> None:
    """Whoever complains for ever is soon asked in no other form."""
    form: Form | None = FIRST
    for _ in range(3):
        form = form and plainer(form, part)
    assert form is None


def test_messages_without_a_system_role() -> None:
    """Without a system role its words stand first in the user's; a repair follows."""
    asked = ASKED.model_copy(update={"repair": Repair(answer="y", error="z")})
    plain = Form(system=False).messages(asked)
    assert [message["role"] for message in plain] == ["user", "assistant", "user"]
    system, user, *rest = FIRST.messages(asked)
    assert plain[0]["content"] == f"{system['content']}\n{user['content']}"
    assert plain[1:] == rest


def test_learned_step_by_step() -> None:
    """Several complaints in a row lead to the form that works, which is kept."""
    forms = Forms()
    for part in (Part.LIMIT, Part.TEMPERATURE, Part.FORMAT, Part.FORMAT):
        assert forms.refused("home", forms.now("home"), part)
    found = Form("text", "max_completion_tokens", temperature=False)
    assert forms.now("home") == found
    forms.worked("home", found)
    assert forms.now("home") == found
    assert forms.now("media") == FIRST


def test_learned_by_several_at_once() -> None:
    """Who asked in a form of before is told of another, and unlearns nothing."""
    forms = Forms()
    assert forms.refused("home", FIRST, Part.FORMAT)
    learned = forms.now("home")
    assert forms.refused("home", FIRST, Part.FORMAT)
    assert forms.now("home") == learned


def test_who_refuses_all_is_asked_one_form_at_a_time() -> None:
    """Where no form works there is one burst of them; then each call tries the next."""
    forms = Forms()
    burst = 0
    while forms.refused("home", forms.now("home"), Part.FORMAT):
        burst += 1
    assert burst == 2
    tried = set()
    for _ in range(6):
        tried.add(forms.now("home"))
        assert not forms.refused("home", forms.now("home"), Part.FORMAT)
    assert {form.format for form in tried} == {"json_schema", "json_object", "text"}
    forms.worked("home", Form("text"))
    assert forms.now("home") == Form("text")


def test_a_guess_that_does_not_help_is_forgotten() -> None:
    """Where it was not the form after all, requests are in the form of before."""
    forms = Forms()
    forms.worked("home", FIRST)
    assert forms.refused("home", FIRST, Part.ANY)
    plainest = forms.now("home")
    assert plainest != FIRST
    assert not forms.refused("home", plainest, Part.ANY)
    assert forms.now("home") == FIRST
    assert not forms.refused("home", FIRST, Part.ANY)  # it was tried
    assert forms.now("home") == FIRST
