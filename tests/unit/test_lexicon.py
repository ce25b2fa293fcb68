"""Work orders as typed: what is read for them, and where it stands."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.inference.lexicon import Lexicon, read_lexicon, tags
from agent.workshop.data.recipe import TABLES

SHORT = read_lexicon(
    "# a comment\nc/o\tchange out\nl/h\tleft hand\nrep\trepair\ninv\tinvestigate\n"
    "brg\tbearing\nnil\t\n#\tnumber\n"
)
SHIPPED = read_lexicon((TABLES / "maintenance.tsv").read_text("utf-8"))


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("c/o l/h mirror", "change out left hand mirror"),
        ("C/O L/H Mirror.", "change out left hand Mirror."),
        ("inv/rep pump", "investigate / repair pump"),
        ("(brg) hot, nil", "(bearing) hot, "),
        ("hose/fitting", "hose / fitting"),
        ("x-over, o-ring, 3-way", "x-over, o-ring, 3-way"),
        ("auto-lube", "auto-lube"),
        ("PH639 brg", "<id> bearing"),
        ("7897 brg on CV-203", "<id> bearing on <id>"),
        ("pump 2 of 1234", "pump <num> of <num>"),
        ("250hr, 24V, 1.5mm", "<num> hour, <num> v, <num> mm"),
        ("no.2 #3 pos4", "number <num> number <num> position <num>"),
        ("due 12/03/2024", "due <date>"),
        ("<id> c/o <num>", "<id> change out <num>"),
        ("6205-2RS M12x50", "6205-2RS M12x50"),
        ("", ""),
        ("brg-", "bearing-"),
    ],
)
def test_reading(typed: str, read: str) -> None:
    """Abbreviations are written out, numbers and tags masked, other words kept."""
    assert SHORT.expanded(typed).text == read


@pytest.mark.parametrize(
    ("typed", "words", "stands"),
    [
        ("c/o l/h mirror", "change", "c/o"),
        ("c/o l/h mirror", "left hand mirror", "l/h mirror"),
        ("inv/rep pump", "repair", "rep"),
        ("inv/rep pump", "investigate", "inv"),
        ("x-over pipe", "over", "x-over"),
        ("on CV-203.", "<id>", "CV-203"),
        ("c/o mirror", "irr", "irr"),
        ("24V pump", "v pump", "24V pump"),
    ],
)
def test_what_is_read_lies_on_what_was_typed(
    typed: str, words: str, stands: str
) -> None:
    """A part of what was written out is the whole token; plain words keep letters."""
    view = SHORT.expanded(typed)
    start = view.text.index(words)
    first, last = view.span(start, start + len(words))
    assert typed[first:last] == stands


@given(st.text("aAbrg1/-.&# \n<>é", max_size=60))
def test_places_are_in_order(text: str) -> None:
    """Whatever the text, places rise and stay in it."""
    view = SHORT.expanded(text)
    spans = [view.span(at, at + 1) for at in range(len(view.text))]
    assert spans == sorted(spans)
    assert all(0 <= start < end <= len(text) for start, end in spans)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("P-101A seal, CV-203; 12-PU-1034", ["P-101A", "CV-203", "12-PU-1034"]),
        ("6205-2RS A-frame 24-V o-ring 165-3765", []),
        ("CV-203-4, cv-203, XCV-2034567", []),
    ],
)
def test_tags(text: str, found: list[str]) -> None:
    """Capitals, a hyphen and a number are a tag of equipment, as a whole word."""
    assert [text[start:end] for start, end in tags(text)] == found


def test_a_line_that_is_none_is_refused() -> None:
    """A table without a tab is an error that quotes the line."""
    with pytest.raises(ValueError, match="change out"):
        read_lexicon("c/o change out")


def test_the_shipped_table() -> None:
    """Every line is read, in small letters, and no entry is its own reading."""
    entries = SHIPPED._entries
    assert len(entries) > 400
    assert all(short == short.lower() and short != entries[short] for short in entries)
    wanted = {"u/s", "c/o", "l/h", "r/h", "rep", "inv", "insp", "chk", "brg"}
    assert wanted <= entries.keys()
    assert entries["nil"] == entries["tba"] == ""


def test_hostile_texts_take_no_longer() -> None:
    """Long tokens and many of them are read in a moment."""
    begun = time.perf_counter()
    for unit in ("a/", "a-", "1", "((", "c/o ", "-", "a" * 60 + " "):
        Lexicon({"a": "b"}).expanded((unit * 100_000)[:100_000])
    assert time.perf_counter() - begun < 20
