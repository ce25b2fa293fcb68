"""The rules for forms: what they see, leave alone, and how much work they are."""

import sys

import pytest

from agent.core.types import Form
from agent.inference.forms import ruled
from agent.inference.utterance import plain

SEEN = [
    ("don't turn off the lights", Form.NEGATED),
    ("please do not ever call my boss", Form.NEGATED),
    ("turn off the lights, no wait, don't", Form.NEGATED),
    ("order a pizza... nevermind", Form.NEGATED),
    ("make sure you don't delete the list", Form.NEGATED),
    ("I don\N{RIGHT SINGLE QUOTATION MARK}t want you to play music", Form.NEGATED),
    ("instead of calling tom text anna", Form.NEGATED),
    ("could you please not turn on the heating", Form.NEGATED),
    ("turn on the lights and turn off the heating", Form.SEVERAL),
    ("can you play jazz and then dim the lights please", Form.SEVERAL),
    ("turn the fan on. Also, lock the door.", Form.SEVERAL),
    ("where is my card and how do I activate it", Form.SEVERAL),
    ("what's the weather in Oslo and do I have meetings today", Form.SEVERAL),
    ("turn the fan off and the lights on", Form.SEVERAL),
    ("tell me a joke and then define sarcasm", Form.SEVERAL),
    ("I am not asking you to change my PIN", Form.NEGATED),
    ("there is no need to order a card", Form.NEGATED),
    ("i don't think you should turn off the heating", Form.NEGATED),
    ("can the lights do purple", Form.QUESTION),
    ("the minimum to pay is what", Form.QUESTION),
    ("if I travel to Peru, do I need a visa", Form.QUESTION),
    ("my card has not arrived", Form.STATEMENT),
    ("next time I play jazz turn the volume up", Form.CONDITIONAL),
    ("how do I freeze my account", Form.QUESTION),
    ("did you turn off the lights yesterday", Form.QUESTION),
    ("are the lights on in the kitchen", Form.QUESTION),
    ("can you tell me if the door is locked", Form.QUESTION),
    ("hello, is there a way to change my pin", Form.QUESTION),
    ("my wife turned off the lights already", Form.STATEMENT),
    ("I just paid the bill", Form.STATEMENT),
    ("the lights are on again", Form.STATEMENT),
    ("turn on the heating if it gets cold", Form.CONDITIONAL),
    ("when I get home turn on the lights", Form.CONDITIONAL),
    ("turn off the tv once the movie ends", Form.CONDITIONAL),
    ("turn off the lights in ten minutes", Form.DELAYED),
    ("start the coffee machine at 7 am", Form.DELAYED),
    ("dim the lamp tomorrow evening", Form.DELAYED),
]
LEFT = [
    "turn off the lights",
    "can you turn off the light",
    "would you be so kind as to turn off the lights in the kitchen please",
    "could you do me a favor and call my mother",
    "if it's not too much trouble, could you dim the lights",
    "when you have a moment please order a pizza",
    "don't forget to water the plants",
    "don't let me forget to call tom",
    "why don't you play some jazz",
    "my hands are full, turn on the light",
    "add milk and eggs to the shopping list",
    "play rock and roll",
    "turn off the lights in the kitchen and in the bedroom",
    "play don't stop me now",
    "remind me not to call tom",
    "text anna that i don't have time",
    "send tom a message saying i turned off the lights",
    "no problem, just open the door",
    "good evening, I hope I'm not asking too much, could you play some jazz",
    "my coffee is cold, please make more coffee",
    "a top up that is not working",
    "text anna and ask her where she is",
    "i would like you to close the blinds",
]


@pytest.mark.parametrize(("text", "form"), SEEN)
def test_what_rules_see(text: str, form: Form) -> None:
    """The gravest form that the rules see in a text is the one it has."""
    assert ruled(text)[:1] == (form,)


@pytest.mark.parametrize("text", LEFT)
def test_plain_requests_are_left_alone(text: str) -> None:
    """However polite a plain request is, whatever it quotes, no rule sees a form."""
    assert ruled(text) == ()


def test_a_request_is_told_from_its_politeness() -> None:
    """What stands before and behind a request is taken off."""
    said = "Hey Olly, would you please turn off the lights? Thanks!"
    assert plain(said) == "turn off the lights"


@pytest.mark.parametrize("text", ["", "...", "please", "\N{SNOWMAN}", ", , ,"])
def test_nothing_is_seen_in_nothing(text: str) -> None:
    """A text without a request has no form that rules could see."""
    assert ruled(text) == ()


@pytest.mark.parametrize(
    "part", ["don't ", ", ", "please ", "in ten ", "turn and ", "i ", "if ", "wait "]
)
def test_the_work_grows_with_the_text_alone(part: str) -> None:
    """Ten times the text takes no more than ten times the steps, whatever is in it."""

    def steps(times: int) -> int:
        count = 0

        def counted(*_: object) -> object:
            nonlocal count
            count += 1
            return counted

        before = sys.gettrace()
        sys.settrace(counted)  # type: ignore[arg-type]
        try:
            ruled(part * times)
        finally:
            sys.settrace(before)
        return count

    assert steps(1000) <= 11 * steps(100)
