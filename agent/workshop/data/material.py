"""What a bundle is made from: the files that its recipe names, read and checked."""

import hashlib
import random
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from agent.core.types import Form
from agent.evaluation.examples import Example, Span, read_examples
from agent.inference.manifest import FormTable
from agent.inference.patterns import find
from agent.workshop.data.catalogue import Catalogue, catalogue
from agent.workshop.data.everyday import read_lines
from agent.workshop.data.forms import Formed, allowed, joined, lessons, speaker
from agent.workshop.data.negatives import Negatives, negatives
from agent.workshop.data.personal import generate
from agent.workshop.data.recipe import Data, Pretrained, Recipe
from agent.workshop.data.speech import accent
from agent.workshop.data.vocabulary import Trimmed, pretrained_folder

MIXTURE_SEED = 3
NOBODYS = "oos"  # the label of what is outside, where the recipe teaches none
FORMED = 0.25  # of what is outside in the mixture is of a form that nobody wants
NEVER = (Form.NEGATED, Form.SEVERAL, Form.CONDITIONAL)
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
    field: list[Example]  # calibrate: `valid` as it will come, and what is outside
    table: FormTable  # which forms the labels allow
    formed: list[Formed]  # teach forms

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
    drawn, held, spare = None, [], None
    if outside:
        own = [example.text for example in training if example.label == label]
        training = [example for example in training if example.label != label]
        ours = [example.text for example in training]
        name, words = recipe.about.name, dictionary(recipe.pretrained)
        drawn = negatives(outside, data, own, ours, bundle=name, dictionary=words)
        spare = negatives(outside, data, [], ours, "valid", name, words)
        held = spare.some(round(OUTSIDE_FITTED * len(valid)))
    table, formed = FormTable(), []
    if known.labels:
        chance = random.Random(f"{recipe.training.seed}/forms")  # noqa: S311
        table = allowed(recipe.forms, training)
        formed = lessons(recipe.forms, training, table, chance)
    field = mixed(recipe, valid, spare) if known.labels else valid
    return Material(training, valid, texts, known, drawn, held, field, table, formed)


def mixed(
    recipe: Recipe, valid: Sequence[Example], spare: Negatives | None
) -> list[Example]:
    """Return validation texts as the recipe's mixture has them, each text once.

    Some are said otherwise; beside them stand texts from outside, and utterances of a
    form that no label allows, which must not be answered either.
    """
    plan = recipe.mixture
    chance = random.Random(MIXTURE_SEED)  # noqa: S311  no secret
    say = accent("valid")
    label = recipe.outside.label if recipe.outside else NOBODYS
    mixture = [
        say.once(one, chance) if chance.random() < plan.spoken else one for one in valid
    ]
    inside = sum(one.label != label for one in valid)
    wanted = round(plan.outside / (1 - plan.outside) * inside)
    missing = max(0, wanted - (len(valid) - inside))
    if spare is None or not missing:
        return mixture
    made = round(FORMED * missing)
    ours = [one for one in valid if one.label != label]
    maker = speaker([one.text for one in ours], "valid")
    two = [*joined(ours, made // 5, chance, "valid")]
    rest = range(made - len(two))
    texts = [*two, *(maker.one(chance.choice(NEVER), chance) for _ in rest)]
    outside = [Example(text=text, label=label) for text in texts]
    return [*mixture, *outside, *spare.some(missing - made, MIXTURE_SEED)]


def dictionary(spec: Pretrained) -> list[str]:
    """Return whole words that the pretrained tokenizer knows."""
    folder = pretrained_folder(spec)
    known = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
    return sorted(word for word in known if word.isalpha() and word.isascii())


def with_found(example: Example, kinds: Container[str]) -> Example:
    """Return a made-up text with what patterns alone can find marked, too.

    Nobody said what of these kinds is in it, so they are neither right nor wrong.
    """
    marked = example.marked
    beside = (
        Span(start=entity.start, end=entity.end, label=entity.label)
        for entity in find(example.text, kinds)
        if all(entity.end <= s.start or s.end <= entity.start for s in marked)
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
