"""Labelled data: JSON Lines of texts with a label and spans, checked when read."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

from agent.core.jsonl import read_records


class Span(BaseModel):
    """An entity in a text; character offsets, `end` exclusive."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    start: int = Field(ge=0)
    end: int
    label: str


class Example(BaseModel):
    """A text and what is true of it; None says nothing of the label, or the spans."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    text: str
    label: str | None = None
    spans: tuple[Span, ...] | None = None

    @property
    def marked(self) -> tuple[Span, ...]:
        """The spans; none where nothing is said of them."""
        return self.spans or ()

    @model_validator(mode="after")
    def _spans_fit(self) -> "Example":
        for span in self.marked:
            if not span.start < span.end <= len(self.text):
                raise ValueError(f"span {span.start}-{span.end} is not in the text")
        return self

    def outermost(self) -> list[Span]:
        """Return the spans that lie in no other, in order: what BIO tags can say."""
        found: list[Span] = []
        for span in sorted(self.marked, key=lambda span: (span.start, -span.end)):
            if not found or span.start >= found[-1].end:
                found.append(span)
        return found


def read_examples(path: Path) -> list[Example]:
    """Read a JSON Lines file of examples; raises ConfigError with file and line."""
    return read_records(path, Example, "examples")
