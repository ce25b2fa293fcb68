"""Forms of a request: what is refused is left off, and what works is kept."""

from dataclasses import replace

import pytest

from agent.protocol.cases import Repair, Request
from agent.protocol.forms import PromptForm, PromptForms, PromptPart, plainer

FIRST = PromptForm()
ASKED = Request(
    id="m-1", device="pi", pipeline="home", text="x", labels={"a": "b"}, deadline_ms=1
)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        (PromptPart.FORMAT, {"format": "json_object"}),
        (PromptPart.SYSTEM, {"system": False}),
        (PromptPart.TEMPERATURE, {"temperature": False}),
        (PromptPart.LIMIT, {"limit": "max_completion_tokens"}),
        (PromptPart.ANY, {"format": "text", "system": False, "temperature": False}),
    ],
)
def test_plainer(part: PromptPart, change: dict[str, object]) -> None:
    """What is complained of is left off, or put in another way, and nothing else."""
    assert plainer(FIRST, part) == replace(FIRST, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize("part", PromptPart)
def test_there_is_an_end(part: PromptPart) -> None:
    """Whoever complains for ever is soon asked in no other form."""
    form: PromptForm | None = FIRST
    for _ in range(3):
        form = form and plainer(form, part)
    assert form is None


def test_messages_without_a_system_role() -> None:
    """Without a system role its words stand first in the user's; a repair follows."""
    asked = ASKED.model_copy(update={"repair": Repair(answer="y", error="z")})
    plain = PromptForm(system=False).messages(asked)
    assert [message["role"] for message in plain] == ["user", "assistant", "user"]
    system, user, *rest = FIRST.messages(asked)
    assert plain[0]["content"] == f"{system['content']}\n{user['content']}"
    assert plain[1:] == rest


def test_learned_step_by_step() -> None:
    """Several complaints in a row lead to the form that works, which is kept."""
    forms = PromptForms()
    for part in (
        PromptPart.LIMIT,
        PromptPart.TEMPERATURE,
        PromptPart.FORMAT,
        PromptPart.FORMAT,
    ):
        assert forms.refused("home", forms.now("home"), part)
    found = PromptForm("text", "max_completion_tokens", temperature=False)
    assert forms.now("home") == found
    forms.worked("home", found)
    assert forms.now("home") == found
    assert forms.now("media") == FIRST


def test_learned_by_several_at_once() -> None:
    """Who asked in a form of before is told of another, and unlearns nothing."""
    forms = PromptForms()
    assert forms.refused("home", FIRST, PromptPart.FORMAT)
    learned = forms.now("home")
    assert forms.refused("home", FIRST, PromptPart.FORMAT)
    assert forms.now("home") == learned


def test_who_refuses_all_is_asked_one_form_at_a_time() -> None:
    """Where no form works there is one burst of them; then each call tries the next."""
    forms = PromptForms()
    burst = 0
    while forms.refused("home", forms.now("home"), PromptPart.FORMAT):
        burst += 1
    assert burst == 2
    tried = set()
    for _ in range(6):
        tried.add(forms.now("home"))
        assert not forms.refused("home", forms.now("home"), PromptPart.FORMAT)
    assert {form.format for form in tried} == {"json_schema", "json_object", "text"}
    forms.worked("home", PromptForm("text"))
    assert forms.now("home") == PromptForm("text")


def test_a_guess_that_does_not_help_is_forgotten() -> None:
    """Where it was not the form after all, requests are in the form of before."""
    forms = PromptForms()
    forms.worked("home", FIRST)
    assert forms.refused("home", FIRST, PromptPart.ANY)
    plainest = forms.now("home")
    assert plainest != FIRST
    assert not forms.refused("home", plainest, PromptPart.ANY)
    assert forms.now("home") == FIRST
    assert not forms.refused("home", FIRST, PromptPart.ANY)  # it was tried
    assert forms.now("home") == FIRST
