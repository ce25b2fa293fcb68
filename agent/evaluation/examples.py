"""Labelled data: JSON Lines of texts with a label and spans, validated when read."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

from agent.core.jsonl import read_records


class Span(BaseModel):
    """A labelled entity in a text: character offsets, `end` exclusive."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    start: int = Field(ge=0)
    end: int
    label: str


class Example(BaseModel):
    """A text with its true label and spans; None if they are not known."""

    model_config = ConfigDict(frozen=True, extra="ignore")

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


def read_examples(path: Path) -> list[Example]:
    """Read a JSON Lines file of examples; raises ConfigError with file and line."""
    return read_records(path, Example, "examples")
