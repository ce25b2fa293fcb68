"""Labelled data: texts with a label and spans, validated when read.

JSON Lines, or CSV and TSV with a heading, which have labels only.
"""

import csv
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

from agent.core.errors import ConfigError
from agent.core.jsonl import read_records, read_text
from agent.core.words import nearest

DELIMITERS = {".csv": ",", ".tsv": "\t"}


class Span(BaseModel):
    """A labelled entity in a text: character offsets, `end` exclusive."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: int = Field(ge=0)
    end: int
    label: str


class Example(BaseModel):
    """A text with its true label and spans; None if they are not known."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    label: str | None = None
    spans: tuple[Span, ...] | None = None

    @property
    def marked(self) -> tuple[Span, ...]:
        """The spans; empty if they are not known."""
        return self.spans or ()

    @model_validator(mode="after")
    def _spans_fit(self) -> "Example":
        for span in self.marked:
            if not span.start < span.end <= len(self.text):
                raise ValueError(f"span {span.start}-{span.end} is not in the text")
        return self

    def outermost(self) -> list[Span]:
        """Return the spans that lie in no other, in order: BIO tags express these."""
        outer: list[Span] = []
        for span in sorted(self.marked, key=lambda span: (span.start, -span.end)):
            if not outer or span.start >= outer[-1].end:
                outer.append(span)
        return outer


@dataclass(frozen=True, slots=True)
class Columns:
    """The headings of a table that hold texts and labels.

    None: `text`, and `label` if there is one.
    """

    text: str | None = None
    label: str | None = None


def read_examples(path: Path, columns: Columns | None = None) -> list[Example]:
    """Read examples; raises ConfigError with file and line.

    A file that ends in .csv or .tsv is read as a table; only that has `columns`.
    """
    delimiter = DELIMITERS.get(path.suffix.lower())
    if delimiter:
        return _table(path, columns or Columns(), delimiter)
    if columns and (columns.text or columns.label):
        raise ConfigError(f"{path}: has no columns; only .csv and .tsv files have")
    return read_records(path, Example, "examples")


def _table(path: Path, columns: Columns, delimiter: str) -> list[Example]:
    lines = (f"{line}\n" for line in read_text(path).split("\n"))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        heading = next(reader, [])
        text = _column(path, heading, columns.text or "text", "--text-column")
        label = None
        if columns.label or "label" in heading:
            name = columns.label or "label"
            label = _column(path, heading, name, "--label-column")
        examples = []
        for row in reader:
            if any(cell.strip() for cell in row):
                where = f"{path}:{reader.line_num}"
                examples.append(_from_row(where, heading, row, text, label))
    except csv.Error as error:
        raise ConfigError(f"{path}:{reader.line_num}: {error}") from error
    if not examples:
        raise ConfigError(f"{path}: no examples")
    return examples


def _column(path: Path, heading: Sequence[str], name: str, option: str) -> int:
    if name not in heading:
        there = ", ".join(heading) or "none"
        raise ConfigError(
            f"{path}: no column {name!r}{nearest(name, heading)}; there are: {there} "
            f"({option} names another)"
        )
    return heading.index(name)


def _from_row(
    where: str, heading: Sequence[str], row: Sequence[str], text: int, label: int | None
) -> Example:
    if len(row) != len(heading):
        raise ConfigError(
            f"{where}: {len(row)} cells, the heading has {len(heading)}; put texts "
            "with a separator in quotes"
        )
    cell = row[label].strip() if label is not None else ""
    return Example(text=row[text], label=cell or None)


def unknown_labels(
    examples: Iterable[Example], known: Collection[str]
) -> Iterator[str]:
    """Say which labels a bundle cannot give: such texts are out of scope."""
    labels = Counter(example.label for example in examples if example.label is not None)
    for label, count in labels.items():
        if label not in known:
            yield f"{count} texts are {label!r}{nearest(label, known)}: out of scope"


def unknown_entities(
    examples: Iterable[Example], known: Collection[str]
) -> Iterator[str]:
    """Say which types of entities a bundle cannot find: they are missed, always."""
    types = Counter(span.label for example in examples for span in example.marked)
    for label, count in types.items():
        if label not in known:
            yield f"{count} entities are {label!r}{nearest(label, known)}: never found"
