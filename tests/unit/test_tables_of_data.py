"""Labelled data in tables, and labels that a bundle does not know."""

from pathlib import Path

import pytest

from agent.core.errors import ConfigError
from agent.evaluation.examples import (
    Columns,
    Example,
    Span,
    read_examples,
    unknown_entities,
    unknown_labels,
)


@pytest.mark.parametrize(
    ("name", "content", "columns", "examples"),
    [
        ("d.csv", "text,label\na,on\nb,\n", None, [("a", "on"), ("b", None)]),
        ("d.CSV", "\ufefftext,label\r\na,on\r\n", None, [("a", "on")]),
        ("d.tsv", "label\ttext\non\ta, b\n\n", None, [("a, b", "on")]),
        ("d.csv", "text\na\n", None, [("a", None)]),
        ("d.csv", 'text,label\n"a, ""b""\nc",on\n', None, [('a, "b"\nc', "on")]),
        (
            "d.csv",
            "id,utterance,intent\n1,a,on\n",
            Columns("utterance", "intent"),
            [("a", "on")],
        ),
        ("d.csv", "utterance,label\na,on\n", Columns("utterance"), [("a", "on")]),
        ("d.csv", "text,label\na\u2028b,on\n", None, [("a\u2028b", "on")]),
    ],
)
def test_a_table(
    tmp_path: Path,
    name: str,
    content: str,
    columns: Columns | None,
    examples: list[tuple[str, str | None]],
) -> None:
    """CSV and TSV have texts and labels by their headings; an empty label is none."""
    path = tmp_path / name
    path.write_text(content, "utf-8", newline="")
    found = read_examples(path, columns)
    assert [(example.text, example.label) for example in found] == examples
    assert all(example.spans is None for example in found)


@pytest.mark.parametrize(
    ("name", "content", "columns", "said"),
    [
        ("d.csv", "txt,label\na,on\n", None, r"no column 'text', did you mean 'txt'\?"),
        ("d.csv", "text,intent\n", Columns(None, "intnt"), "did you mean 'intent'"),
        (
            "d.csv",
            "text,label\na,b,on\n",
            None,
            r"d\.csv:2: 3 cells, the heading has 2",
        ),
        ("d.csv", "text,label\na\n", None, r"d\.csv:2: 1 cells, the heading has 2"),
        ("d.csv", "text,label\n", None, "no examples"),
        ("d.csv", "", None, "there are: none"),
        ("d.csv", 'text\n"a', None, r"d\.csv:2: unexpected end of data"),
        ("d.csv", "text\n" + "x" * 200_000, None, "field larger than field limit"),
        ("d.csv", b"text\n\xff", None, "no text in UTF-8"),
        ("d.jsonl", '{"text": "a"}', Columns("x"), "has no columns"),
    ],
)
def test_a_wrong_table(
    tmp_path: Path, name: str, content: str | bytes, columns: Columns | None, said: str
) -> None:
    """What is wrong is named with file, line and the nearest heading."""
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=said):
        read_examples(path, columns)


def test_unknown_labels() -> None:
    """A label that the bundle does not have is named, how often and the nearest."""
    examples = [Example(text="a", label=label) for label in ("on", "onn", "onn", "z")]
    assert list(unknown_labels(examples, {"on", "off"})) == [
        "2 texts are 'onn', did you mean 'on'?: out of scope",
        "1 texts are 'z': out of scope",
    ]
    spans = (Span(start=0, end=1, label="plce"), Span(start=0, end=1, label="time"))
    marked = [Example(text="a", spans=spans)]
    assert list(unknown_entities(marked, ["place", "time"])) == [
        "1 entities are 'plce', did you mean 'place'?: never found"
    ]
