"""Utterances of every form: made of requests, by templates that teach or validate."""

import random
import re

import pytest

pytest.importorskip("torch", reason="the extra `workshop` is not installed")

from agent.core.types import Form
from agent.evaluation.examples import Example
from agent.workshop.data.forms import (
    allowed,
    form_of_data,
    imperative,
    joined,
    lessons,
    read_templates,
    speaker,
)
from agent.workshop.data.recipe import FormsPlan

REQUESTS = [
    "please turn off the lights",
    "could you dim the lamp in the hall?",
    "play some jazz",
    "call my mother please",
    "the lights, please",
]


@pytest.mark.parametrize(
    ("text", "request_"),
    [
        ("Could you please turn off the lights?", "turn off the lights"),
        ("hey olly play some jazz now", "play some jazz"),
        ("lights off", None),
        ("turn", None),
    ],
)
def test_a_request_without_its_politeness(text: str, request_: str | None) -> None:
    """Only what begins with a verb is made something of, and without its politeness."""
    assert imperative(text) == request_


def test_what_validates_did_not_teach() -> None:
    """No template of one split stands in the other, and both have all forms."""
    taught, kept = (speaker(REQUESTS, split).templates for split in ("train", "valid"))
    assert set(taught) == set(kept) == set(Form)
    for form, kinds in taught.items():
        for kind, some in kinds.items():
            assert some
            assert kept[form][kind]
            assert not set(some) & set(kept[form][kind]) - {"{vp}", "{vp} and {other}"}


def test_two_texts_become_one() -> None:
    """Two texts with different labels, of whatever form, are joined by other words."""
    texts = [
        Example(text="where is my card?", label="card"),
        Example(text="how do I top up", label="top"),
        Example(text=" ".join(["a", "text", "too", "long"] * 5), label="long"),
    ]
    taught, kept = (
        {*joined(texts, 200, random.Random(1), split)}  # noqa: S311
        for split in ("train", "valid")
    )
    assert "where is my card and how do I top up" in taught
    assert "how do I top up; where is my card?" in taught
    assert not any("long" in text for text in taught | kept)
    assert kept - taught
    assert not [*joined(texts[:1], 3, random.Random(1), "train")]  # noqa: S311


@pytest.mark.parametrize("form", Form)
def test_every_utterance_is_whole(form: Form) -> None:
    """All slots are filled, with a request of ours or of the file, in its form."""
    maker, chance = speaker(REQUESTS), random.Random(1)  # noqa: S311
    for _ in range(200):
        assert not re.search(r"[{}]", maker.one(form, chance))
    past = Form.STATEMENT
    if form is past:
        said = [maker.one(past, chance) for _ in range(2000)]
        assert any("turned off the lights" in text for text in said)


def test_all_templates_have_known_slots() -> None:
    """Every template is filled from slots that exist."""
    known = {"vp", "past", "done", "ing", "other", "other_past", "other_done"}
    known |= {"other_ing", "third", "who", "when", "when2", "delay", "title", "thing"}
    known |= {"state", "be", "was", "has", "do"}
    for form in Form:
        for some in read_templates()[form.value].values():
            assert {
                slot for one in some for slot in re.findall(r"\{(\w+)\}", one)
            } <= known


def examples(label: str, *texts: str) -> list[Example]:
    """Return examples of a label."""
    return [Example(text=text, label=label, spans=()) for text in texts]


ASKED = examples("weather", *["what is the weather"] * 5, *["tell me the weather"] * 5)
NEGATED = examples("mute", *["don't make a noise"] * 5, *["mute the tv"] * 5)
TIMED = examples("alarm", *["set an alarm for seven at noon tomorrow"] * 10)


def test_what_labels_allow_follows_from_their_texts() -> None:
    """A label allows what it is usually asked with, but never what is negated."""
    table = allowed(FormsPlan(), [*ASKED, *NEGATED, *TIMED])
    assert table.default == [Form.REQUEST]
    assert table.labels == {"weather": [Form.QUESTION], "alarm": [Form.DELAYED]}


def test_the_recipe_says_more_or_less() -> None:
    """A recipe may allow a label more, and hold it to that whatever its texts are."""
    plan = FormsPlan(strict=["w*"], labels={"mute": [Form.NEGATED]})
    table = allowed(plan, [*ASKED, *NEGATED])
    assert table.labels == {"mute": [Form.NEGATED]}


def test_a_time_that_belongs_to_a_request_teaches_a_request() -> None:
    """What a label allows as a later time is part of its plain request."""
    table = allowed(FormsPlan(), [*ASKED, *TIMED, *NEGATED])
    [other] = examples("mute", "mute the tv at noon")
    assert form_of_data(TIMED[0], table) is Form.REQUEST
    assert form_of_data(other, table) is None  # not clear
    assert form_of_data(ASKED[0], table) is Form.QUESTION
    assert form_of_data(NEGATED[0], table) is None


def test_lessons_are_those_of_their_seed() -> None:
    """The same data and seed teach the same; another seed something else."""
    plan = FormsPlan(made=50)
    table = allowed(plan, ASKED)
    one, same, other = (
        lessons(plan, ASKED, table, random.Random(seed))  # noqa: S311
        for seed in (1, 1, 2)
    )
    assert one == same != other
    assert {lesson.form for lesson in one} >= {Form.NEGATED, Form.QUESTION}
