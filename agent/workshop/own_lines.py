"""The labelled lines of an own pipeline: read, split by their hash, and surveyed."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from agent.core.errors import ConfigError, Unreadable
from agent.evaluation.examples import Columns, Example, read_examples
from agent.evaluation.samples import LEAST, CalibrationSample, parted
from agent.protocol.payload import checked

Warn = Callable[[str], None]

OUT_OF_SCOPE = "oos"  # the label of lines that are none of the pipeline's business
LEAST_LINES = 200
THIN = 10  # examples; a label or an entity with fewer is learnt badly
# Validation takes so many of the lines, but more where they are few: certificates need
# numbers (docs/own-models.md), and a share between these.
VALID_LINES = 200
SHARES = (0.3, 0.45)


def read_lines(lines: Path, columns: Columns | None = None) -> list[Example]:
    """Read the labelled lines; raises ConfigError for a text that no model may see."""
    examples = read_examples(lines, columns)
    for number, example in enumerate(examples, start=1):
        try:
            checked(example.text, 10_000)
        except Unreadable as why:
            raise ConfigError(f"{lines}: example {number}: {why}") from why
    return examples


def text_key(text: str) -> str:
    """Return what makes two texts the same; they must not part."""
    return " ".join(text.casefold().split())


def once(examples: Sequence[Example]) -> list[Example]:
    """Return the first example of each text."""
    by_text: dict[str, Example] = {}
    for example in examples:
        by_text.setdefault(text_key(example.text), example)
    return list(by_text.values())


def warn_of_repeats(examples: Sequence[Example], lines: Path, warn: Warn) -> None:
    """Warn of repeated texts whose labels differ."""
    labels = {text_key(example.text): example.label for example in once(examples)}
    differing = [
        example.text
        for example in examples
        if labels[text_key(example.text)] != example.label
    ]
    if differing:
        warn(
            f"{lines}: {len(differing)} repeated texts have another label than the "
            f"first time, such as {differing[0]!r}; the first is taught"
        )


def split(examples: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """Return examples to train and to validate with: by their texts, in their order.

    A label of which all texts would validate is taught by the last of them.
    """
    few, many = SHARES
    share = min(many, max(few, VALID_LINES / max(1, len(examples))))
    latest: dict[str | None, float] = {}
    for example in once(examples):
        place = _place(example.text)
        latest[example.label] = max(place, latest.get(example.label, 0.0))
    taught = {
        text_key(example.text)
        for example in once(examples)
        if _place(example.text) >= min(share, latest[example.label])
    }
    parts: tuple[list[Example], list[Example]] = ([], [])
    for example in examples:
        parts[text_key(example.text) not in taught].append(example)
    return parts


def _place(text: str) -> float:
    """Return a number from 0 to 1 that is the text's own.

    Not that by which `evaluation.samples.parted` parts the validation texts again.
    """
    digest = hashlib.sha256(f"split\0{text_key(text)}".encode()).digest()
    return float(int.from_bytes(digest[:6]) / 2**48)


def label_counts(examples: Sequence[Example]) -> Counter[str]:
    """Count the examples of each label, out of scope left out."""
    labels = (example.label for example in examples if example.label is not None)
    return Counter(label for label in labels if label != OUT_OF_SCOPE)


def entity_counts(examples: Sequence[Example]) -> Counter[str]:
    """Count the entities of each type."""
    return Counter(span.label for example in examples for span in example.marked)


def survey(
    lines: Path,
    examples: Sequence[Example],
    taught: Sequence[Example],
    held: Sequence[Example],
    warn: Warn,
) -> None:
    """Refuse lines of which nothing can come; warn of what will not be good."""
    labels, entities = label_counts(examples), entity_counts(examples)
    if not labels and not entities:
        raise ConfigError(f"{lines}: the lines have neither labels nor spans")
    if len(examples) < LEAST_LINES:
        raise ConfigError(
            f"{lines}: {len(examples)} different texts are too few; give at least "
            f"{LEAST_LINES}, better 500"
        )
    once = sorted(label for label, count in labels.items() if count == 1)
    if once:
        raise ConfigError(
            f"{lines}: labels with one example: {', '.join(once)}; give each at least "
            f"2, better {THIN} and more (out of scope is {OUT_OF_SCOPE!r})"
        )
    least = min(
        len(part) for part in parted([CalibrationSample(one, ()) for one in held])
    )
    if least < LEAST // 2:
        raise ConfigError(
            f"{lines}: {len(held)} of {len(examples)} lines validate, and {least} of "
            f"these fit the scores; {LEAST // 2} are needed: give some more"
        )
    if labels and all(example.label != OUT_OF_SCOPE for example in examples):
        warn(
            f"{lines}: no line is out of scope (label {OUT_OF_SCOPE!r}): what is, is "
            "made up here; of real texts that look like yours and are none, more will "
            "be resolved, and wrong"
        )
    for what, counts in (("label", labels), ("entity", entities)):
        thin = [f"{name} {count}" for name, count in counts.items() if count < THIN]
        if thin:
            warn(f"{lines}: a few examples only of {what} {', '.join(sorted(thin))}")
    unproved = sorted(labels.keys() - label_counts(held).keys())
    if unproved:
        warn(f"{lines}: no line validates label {', '.join(unproved)}")
    untaught = sorted(entities.keys() - entity_counts(taught).keys())
    if untaught:
        warn(f"{lines}: no line teaches entity {', '.join(untaught)}")
