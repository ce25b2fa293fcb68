"""Real lines beside invented texts: taken only where all personal data is marked."""

import json
from pathlib import Path

import pytest

pytest.importorskip("faker", reason="the extra `workshop` is not installed")

from agent.evaluation.examples import Example, Span
from agent.workshop.data.everyday import marked, read_lines
from agent.workshop.data.recipe import Lines

PLAIN = Lines(file="x.jsonl")


@pytest.mark.parametrize(
    "text",
    [
        "turn off the lights in the kitchen",
        "why is my transfer still pending",
        "i hope you will mark it as paid",
        "replace the hydraulic hose",
    ],
)
def test_ordinary_words_teach(text: str) -> None:
    """A line of words that are nobody's is taken, with nothing marked."""
    assert marked(Example(text=text), PLAIN) == Example(text=text, spans=())


@pytest.mark.parametrize(
    "text",
    [
        "call jennifer please",
        "what is the weather in new zealand",
        "wake me tomorrow",
        "remind me on tuesday the 12th",
        "is there a chinese restaurant",
        "does ikea deliver",
        "my account is 1234567",
        "she is 30 years old",
    ],
)
def test_what_may_be_personal_is_left_out(text: str) -> None:
    """A name, place, organisation, time or long number nobody marked is no lesson."""
    assert marked(Example(text=text), PLAIN) is None


def test_capitals_are_names_where_a_source_writes_them() -> None:
    """A capital within a sentence is a name, but not at its beginning or of an `I`."""
    source = Lines(file="x.jsonl", capitals=True)
    assert marked(Example(text="Can I pay? Where is the ATM?"), source) is not None
    assert marked(Example(text="Can I pay with Zorbo?"), source) is None


def test_labels_become_ours() -> None:
    """Spans named in the recipe are marked as ours, harmless ones not at all."""
    text = "play jazz in boston"
    spans = (Span(start=5, end=9, label="genre"), Span(start=13, end=19, label="city"))
    source = Lines(file="x.jsonl", labels={"city": "GPE"}, harmless=["genre"])
    found = marked(Example(text=text, spans=spans), source)
    assert found is not None
    assert found.spans == (Span(start=13, end=19, label="GPE"),)
    unclear = Lines(file="x.jsonl", labels={"city": "GPE"})
    assert marked(Example(text=text, spans=spans), unclear) is None


def test_a_place_that_is_not_listed_is_unclear() -> None:
    """What others call a place may be a building: only listed ones are a GPE."""
    source = Lines(file="x.jsonl", labels={"location": "GPE"})
    spans = (Span(start=6, end=16, label="location"),)
    assert marked(Example(text="at the tall tower", spans=spans), source) is None


def test_checked_patterns_are_marked() -> None:
    """An address that can be checked is marked, whoever forgot it."""
    text = "see www.example.org for more"
    found = marked(Example(text=text, spans=()), PLAIN)
    assert found is not None
    assert [span.label for span in found.spans or ()] == ["DOMAIN_NAME"]


def test_files_are_read_by_split(tmp_path: Path) -> None:
    """Training lines repeat as told, validation lines do not; labels sort out."""
    for split in ("train", "valid"):
        lines = [
            {"text": f"a good {split} joke", "label": "joke", "spans": []},
            {"text": f"an odd {split} name", "label": "name", "spans": []},
        ]
        path = tmp_path / f"{split}.jsonl"
        path.write_text("\n".join(json.dumps(line) for line in lines))
    source = Lines(file="{split}.jsonl", without=["nam*"], times=3)
    taught = read_lines(tmp_path, [source], "train")
    assert [example.text for example in taught] == ["a good train joke"] * 3
    scored = read_lines(tmp_path, [source], "valid")
    assert [example.text for example in scored] == ["a good valid joke"]


def test_a_file_for_both(tmp_path: Path) -> None:
    """Of a file without a split one line of so many validates, and never teaches."""
    lines = [{"text": f"a good joke {n}", "spans": []} for n in range(80)]
    path = tmp_path / "one.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    source = Lines(file="one.jsonl", held=8, times=2)
    taught = {e.text for e in read_lines(tmp_path, [source], "train")}
    scored = {e.text for e in read_lines(tmp_path, [source], "valid")}
    assert not taught & scored
    assert taught | scored == {line["text"] for line in lines}
    assert 2 <= len(scored) <= 20
    assert not read_lines(tmp_path, [Lines(file="one.jsonl")], "valid")


def test_a_place_that_no_list_has() -> None:
    """It is marked where the data marks nothing but places as such."""
    line = Example(text="off to grobnik", spans=(Span(start=7, end=14, label="city"),))
    labels = {"city": "GPE"}
    assert marked(line, Lines(file="x", labels=labels)) is None
    kept = marked(line, Lines(file="x", labels=labels, known_places=False))
    assert kept is not None
    assert [span.label for span in kept.marked] == ["GPE"]
