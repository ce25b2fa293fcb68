"""What tiers read: a message without courtesies, with slips of the keys mended."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.inference.reading import MOST, Reading, read_words, slips

WORDS = {
    "lights": 90,
    "light": 60,
    "kitchen": 40,
    "weather": 30,
    "list": 20,
    "night": 0,
}


@pytest.fixture(scope="module")
def reading() -> Reading:
    """Return a reading by a few words."""
    return Reading(WORDS)


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        (
            "good morning, I hope you are well, could you dim the lamp",
            "could you dim the lamp",
        ),
        (
            "Sorry to bother you again, but could you possibly dim the lamp?",
            "dim the lamp",
        ),
        ("I was just wondering if you could dim the lamp", "dim the lamp"),
        ("if it isn't too much trouble, would you be so kind as to dim it", "dim it"),
        ("dim the lamp. Thank you so much, have a nice day!", "dim the lamp"),
        ("dim the lamp please, many thanks in advance", "dim the lamp please"),
        (
            "Dear team, I hope you are well. Dim it now. Kind regards, Anna",
            "Dim it now",
        ),
    ],
)
def test_courtesies_are_not_read(reading: Reading, typed: str, read: str) -> None:
    """What is said for courtesy before and behind a request is no part of it."""
    assert reading.view(typed).text == read


@pytest.mark.parametrize(
    "typed",
    [
        "thank you so much",
        "good morning",
        "hi there",
        "please dim the lamp",
        "thanks",
        "",
    ],
)
def test_what_is_only_courtesy_is_read(reading: Reading, typed: str) -> None:
    """A text that is nothing else, or has little of it, is read as it stands."""
    assert reading.view(typed).text == typed


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("turn off the lihgts", "turn off the lights"),
        ("Kichen lights", "kitchen lights"),
        ("wether tomorrow", "weather tomorrow"),
        ("the LIGHHTS", "the lights"),
    ],
)
def test_slips_are_mended(reading: Reading, typed: str, read: str) -> None:
    """A word one slip from one that was taught is read as that."""
    assert reading.view(typed).text == read


@pytest.mark.parametrize(
    "typed",
    [
        "good night",  # a word of the language
        "call Lightsy",  # a name
        "lists of things",  # the word with an ending
        "the gist of it",  # four letters, and another one first
        "don't lis't",
        "a lightsx9 b",
        "lig\N{LATIN SMALL LETTER DOTLESS I}ts",
    ],
)
def test_other_words_are_left(reading: Reading, typed: str) -> None:
    """Names, words of the language and what is not of letters stand as typed."""
    assert reading.view(typed).text == typed


@pytest.mark.parametrize("typed", ["lights off.", "lights off ?!", "lights off... "])
def test_marks_at_the_end(typed: str) -> None:
    """A mark at the end is read where texts that were taught end with it."""
    assert Reading(WORDS).view(typed).text.strip() == "lights off"
    assert Reading(WORDS | dict.fromkeys(".?!", 9)).view(typed).text == typed
    assert Reading(WORDS).view("?!").text == "?!"


def test_places_are_those_of_the_text(reading: Reading) -> None:
    """What is found in the words read lies on what was typed."""
    typed = "good morning, could you kindly set the kichen lihgts to red, thanks"
    view = reading.view(typed)
    assert view.text == "set the kitchen lights to red"
    for word, there in (("kitchen", "kichen"), ("lights", "lihgts"), ("red", "red")):
        start = view.text.index(word)
        first, last = view.span(start, start + len(word))
        assert typed[first:last] == there


@given(st.text(max_size=200))
def test_any_text_is_read(text: str) -> None:
    """Whatever is typed is read, and every part of it has its place."""
    view = Reading(WORDS).view(text)
    assert view.starts is None or len(view.starts) == len(view.text)
    for place in range(len(view.text)):
        first, last = view.span(place, place + 1)
        assert 0 <= first < last <= len(text)


def test_a_text_of_strange_words_is_little_work() -> None:
    """Of a text that nobody can mean, some words are looked at and no more."""
    view = Reading(WORDS).view("lihgts " * 10_000)
    assert view.text.split().count("lights") == MOST


def test_a_table_is_read() -> None:
    """A table has a word and its count a line; another line is refused."""
    assert read_words("lights\t3\nnight\t0\n").view("lihgts off").text == "lights off"
    with pytest.raises(ValueError, match="no line of a table of words: 'lights three'"):
        read_words("lights three\n")


def test_slips_are_one_step_away() -> None:
    """A slip drops, adds, swaps or replaces one letter."""
    assert {"at", "cat", "act", "bat", "ca"} <= {*slips("cat")}
    assert "dog" not in {*slips("cat")}
