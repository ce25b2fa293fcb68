"""Labelled data: JSON Lines of texts with a label and spans, checked when read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from agent.errors import ConfigError


class Span(BaseModel):
    """An entity in a text; character offsets, `end` exclusive."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: int = Field(ge=0)
    end: int
    label: str


class Example(BaseModel):
    """A text and what is true of it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    text: str
    label: str | None = None
    spans: tuple[Span, ...] = ()

    @model_validator(mode="after")
    def _spans_fit(self) -> "Example":
        for span in self.spans:
            if not span.start < span.end <= len(self.text):
                raise ValueError(f"span {span.start}-{span.end} is not in the text")
        return self

    def outermost(self) -> list[Span]:
        """Return the spans that lie in no other, in order: what BIO tags can say."""
        found: list[Span] = []
        for span in sorted(self.spans, key=lambda span: (span.start, -span.end)):
            if not found or span.start >= found[-1].end:
                found.append(span)
        return found


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The labels and entities that a data set has, in their order in the model."""

    labels: tuple[str, ...]
    entities: tuple[str, ...]

    @property
    def tags(self) -> int:
        """O, and B- and I- for each entity; 0 where there are no entities."""
        return 1 + 2 * len(self.entities) if self.entities else 0


def read_examples(path: Path) -> list[Example]:
    """Read a JSON Lines file; raises ConfigError with file and line."""
    examples = []
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            examples.append(Example.model_validate_json(line))
        except ValidationError as error:
            raise ConfigError(f"{path}:{number}: {error}") from error
    if not examples:
        raise ConfigError(f"{path}: no examples")
    return examples


def catalogue(examples: Sequence[Example]) -> Catalogue:
    """Return what the examples are labelled with, sorted; raises ConfigError."""
    labels = {example.label for example in examples if example.label is not None}
    entities = {span.label for example in examples for span in example.spans}
    if not labels and not entities:
        raise ConfigError("the examples have neither labels nor spans")
    return Catalogue(tuple(sorted(labels)), tuple(sorted(entities)))
