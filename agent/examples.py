"""Labelled data: JSON Lines of texts with a label and spans, checked when read."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from agent.errors import ConfigError


class Span(BaseModel):
    """An entity in a text; character offsets, `end` exclusive."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    start: int = Field(ge=0)
    end: int
    label: str


class Example(BaseModel):
    """A text and what is true of it; a `label` of None says nothing about the label."""

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


def read_examples(path: Path) -> list[Example]:
    """Read a JSON Lines file; raises ConfigError with file and line."""
    examples = []
    try:
        lines = path.read_text("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            examples.append(Example.model_validate_json(line))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ConfigError(f"{path}:{number}: {where} {first['msg']}") from error
    if not examples:
        raise ConfigError(f"{path}: no examples")
    return examples
