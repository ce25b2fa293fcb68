"""What a bundle is made from: the files that its recipe names, read and checked."""

import hashlib
from collections.abc import Container
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agent.evaluation.examples import Example, Span, read_examples
from agent.inference.patterns import find
from agent.workshop.data.catalogue import Catalogue, catalogue
from agent.workshop.data.everyday import read_lines
from agent.workshop.data.negatives import Negatives, negatives
from agent.workshop.data.personal import generate
from agent.workshop.data.recipe import Data, Recipe
from agent.workshop.data.vocabulary import Trimmed

VALID_SEED = 2  # generated texts to validate with are others than those that taught
OUTSIDE_FITTED = 0.1  # texts from outside that help fit the scores, as a share of valid


@dataclass(frozen=True, slots=True)
class Material:
    """The data of one bundle, read and checked."""

    train: list[Example]
    valid: list[Example]
    texts: list[str]  # the vocabulary is chosen by these
    known: Catalogue
    negatives: Negatives | None
    outside: list[Example]  # help fit the scores; never trained on

    @property
    def scope(self) -> Catalogue:
        """What there is to know, without what is outside of it."""
        return replace(self.known, outside=None)


@dataclass(frozen=True, slots=True)
class Workpiece:
    """What becomes a bundle."""

    recipe: Recipe
    material: Material
    trimmed: Trimmed


def read_material(recipe: Recipe, data: Path) -> Material:
    """Read the files a recipe names below `data`; raises ConfigError."""
    if recipe.data.generated:
        training = generate(recipe.data.generated, recipe.training.seed)
        training += read_lines(data, recipe.data.lines, "train")
        valid = generate(recipe.data.generated_valid, VALID_SEED, kept=True)
        valid += _some(read_lines(data, recipe.data.lines, "valid"), recipe.data)
        taught = {span.label for example in training for span in example.marked}
        valid = [with_found(each, set(recipe.patterns) - taught) for each in valid]
    else:
        folder = data / recipe.data.folder
        training = read_examples(folder / "train.jsonl")
        valid = read_examples(folder / "valid.jsonl")
    texts = [example.text for example in training]
    texts += texts_of(data, recipe.vocabulary.texts)
    outside = recipe.outside
    label = outside.label if outside else None
    known = catalogue(training, label, recipe.levels)
    drawn, held = None, []
    if outside:
        own = [example.text for example in training if example.label == label]
        training = [example for example in training if example.label != label]
        ours = [example.text for example in training]
        drawn = negatives(outside, data, own, ours)
        spare = negatives(outside, data, [], ours, "valid")
        held = spare.some(round(OUTSIDE_FITTED * len(valid)))
    return Material(training, valid, texts, known, drawn, held)


def with_found(example: Example, kinds: Container[str]) -> Example:
    """Return a made-up text with what patterns alone can find marked, too.

    Nobody said what of these kinds is in it, so they are neither right nor wrong.
    """
    marked = example.marked
    beside = (
        Span(start=found.start, end=found.end, label=found.label)
        for found in find(example.text, kinds)
        if all(found.end <= s.start or s.end <= found.start for s in marked)
    )
    spans = sorted((*marked, *beside), key=lambda span: span.start)
    return example.model_copy(update={"spans": tuple(spans)})


def _some(lines: list[Example], plan: Data) -> list[Example]:
    """Return as many lines as are wanted, from all files."""
    step = max(1, -(-len(lines) // max(1, plan.lines_valid)))
    return lines[::step][: plan.lines_valid]


def texts_of(data: Path, patterns: list[str]) -> list[str]:
    """Return the texts of more files: globs below the data folder."""
    return [
        example.text
        for pattern in patterns
        for path in sorted(data.glob(pattern))
        for example in read_examples(path)
    ]


def fingerprint(recipe: Recipe, material: Material) -> str:
    """Name a training: another recipe or other data must not go on from its state."""
    digest = hashlib.sha256()
    for section in (recipe.training, recipe.pretrained, recipe.vocabulary):
        digest.update(section.model_dump_json().encode())
    if recipe.outside:
        # A key that came later counts only where it is used: states stay valid.
        unused: dict[str, Any] = {"others": {"__all__": {"source"}}}
        if recipe.outside.encoder:
            unused["encoder"] = True
        digest.update(recipe.outside.model_dump_json(exclude=unused).encode())
    digest.update(bytes([recipe.levels]))
    for text in material.texts:
        digest.update(text.encode() + b"\0")
    for example in material.train:
        digest.update(example.model_dump_json().encode())
    return digest.hexdigest()[:16]
