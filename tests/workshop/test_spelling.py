"""The words by which a bundle reads its texts, made of those that teach."""

import pytest

pytest.importorskip("torch", reason="the extra `workshop` is not installed")

from agent.evaluation.examples import Example, Span
from agent.inference.reading import read_words
from agent.workshop.data.spelling import NAMED, TAUGHT, word_table


def test_taught_words_and_their_likes() -> None:
    """Words that were taught often are read for slips, words like them are not."""
    texts = [Example(text=f"Turn the lights off {n}") for n in range(TAUGHT)]
    table = word_table(texts, ["tights", "burn", "elephant"])
    assert dict(line.split("\t") for line in table.splitlines()) == {
        "turn": str(TAUGHT),
        "lights": str(TAUGHT),
        "tights": "0",
        "burn": "0",
    }
    read = read_words(table).view
    assert read("tunr the lihgts").text == "turn the lights"
    assert read("burn the tights").text == "burn the tights"


def test_names_are_taught_late() -> None:
    """A word that stands in entities only is read for slips where it is frequent."""
    spans = (Span(start=5, end=9, label="artist"),)
    texts = [Example(text="play Boon", spans=spans)] * (NAMED - 1)
    assert "boon" not in word_table(texts, [])
    assert f"boon\t{NAMED}" in word_table([*texts, texts[0]], [])


def test_marks_that_are_usual() -> None:
    """A final mark is read where one text in twenty ends with it."""
    texts = [Example(text="is it on?"), *[Example(text="turn it on.")] * 19]
    assert {"?\t1", ".\t19"} <= {*word_table(texts, []).splitlines()}
    assert "?" not in word_table([*texts, texts[1]], [])
