"""Building a bundle: every step of the workshop, in order, from data to card."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from agent.bundle import guesses
from agent.examples import Example, read_examples
from agent.families.encoder import EncoderSpec, runtime
from agent.families.linear import LinearSpec
from agent.fitting import Heard, calibrate
from agent.types import Guarantee
from agent.workshop import bundle_writer as bundle
from agent.workshop.card import Measured, write_card
from agent.workshop.catalogue import Catalogue, catalogue
from agent.workshop.export import export, quantise
from agent.workshop.linear_training import train_linear, write_linear
from agent.workshop.negatives import Negatives, negatives
from agent.workshop.network import (
    Network,
    open_encoder,
    pretrained_folder,
    shorten,
)
from agent.workshop.personal import generate
from agent.workshop.recipe import Recipe, Training
from agent.workshop.rounding import Feed
from agent.workshop.scoring import Figures, certifiable, figures
from agent.workshop.training import Lesson, train
from agent.workshop.transitions import TRANSITIONS, transitions
from agent.workshop.vocabulary import Trimmed, trim

Report = Callable[[str, int, int, str], None]  # stage, done, total, detail

PROBES_FROM_DATA = 16  # where a recipe names none
VALID_SEED = 2  # generated texts to validate with are others than those that taught
ROUNDED_ON = 300  # training texts that tell how errors of rounded weights cancel
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


@dataclass(frozen=True, slots=True)
class Workpiece:
    """What becomes a bundle."""

    recipe: Recipe
    material: Material
    trimmed: Trimmed


@dataclass(frozen=True, slots=True)
class Tiers:
    """The specs of a cascade, and where each precision of it lies."""

    specs: Sequence[LinearSpec | EncoderSpec]
    exact: Path
    quantised: Path


def train_bundle(recipe: Recipe, data: Path, out: Path, report: Report) -> Figures:
    """Make the bundle `out` from the data below `data`; return its int8 figures.

    An interrupted run goes on from its last epoch, kept in `<out>.training`.
    """
    material = read_material(recipe, data)
    folder = pretrained_folder(recipe.pretrained)
    source = Tokenizer.from_file(str(folder / "tokenizer.json"))
    trimmed = trim(
        source, material.texts, recipe.vocabulary.frequent, recipe.vocabulary.least
    )
    piece = Workpiece(recipe, material, trimmed)
    work = out.with_name(f"{out.name}.training")
    work.mkdir(parents=True, exist_ok=True)
    network = _train(piece, work, report)
    with bundle.replaced(out) as part:
        found = finish(part, piece, network, report)
    shutil.rmtree(work)
    return found


def read_material(recipe: Recipe, data: Path) -> Material:
    """Read the files a recipe names below `data`; raises ConfigError."""
    if recipe.data.generated:
        training = generate(recipe.data.generated, recipe.training.seed)
        valid = generate(recipe.data.generated_valid, VALID_SEED)
    else:
        folder = data / recipe.data.folder
        training = read_examples(folder / "train.jsonl")
        valid = read_examples(folder / "valid.jsonl")
    texts = [example.text for example in training]
    for pattern in recipe.vocabulary.texts:
        for path in sorted(data.glob(pattern)):
            texts += [example.text for example in read_examples(path)]
    outside = recipe.outside
    label = outside.label if outside else None
    known = catalogue(training, label, recipe.levels)
    drawn, held = None, []
    if outside:
        own = [example.text for example in training if example.label == label]
        training = [example for example in training if example.label != label]
        drawn = negatives(outside, data, own, len(training))
        spare = negatives(outside, data, [], len(valid), "valid")
        held = spare.some(round(OUTSIDE_FITTED * len(valid)))
    return Material(training, valid, texts, known, drawn, held)


def _train(piece: Workpiece, work: Path, report: Report) -> Network:
    """Train the teachers, if there are to be any, and then what ships."""
    recipe, material = piece.recipe, piece.material
    window = Tokenizer.from_str(piece.trimmed.tokenizer.to_str())
    window.enable_truncation(
        recipe.pretrained.max_tokens, stride=recipe.pretrained.stride
    )
    known = _encoded(recipe, material)
    drawn = material.negatives if known.outside is not None else None
    lesson = Lesson(material.train, window, known, drawn)
    mark = _fingerprint(recipe, material)

    def taught(name: str, layers: int | None, plan: Training, said: Lesson) -> Network:
        network = _network(piece, layers, plan)
        train(
            network,
            said,
            plan,
            work / f"{name.replace(' ', '-')}-{mark}.pt",
            lambda done, total, detail: report(name, done, total, detail),
        )
        return network

    plan = recipe.training
    teachers = [
        taught(
            f"teacher {number + 1}",
            None,
            plan.model_copy(update={"seed": plan.seed + 100 + number, "teachers": 0}),
            lesson,
        )
        for number in range(plan.teachers)
    ]
    said = replace(lesson, teachers=teachers)
    return taught("training", recipe.pretrained.layers, plan, said)


def _network(piece: Workpiece, layers: int | None, plan: Training) -> Network:
    """Open the pretrained encoder with our words, and put fresh heads on it."""
    known = _encoded(piece.recipe, piece.material)
    folder = pretrained_folder(piece.recipe.pretrained)
    torch.manual_seed(plan.seed)
    encoder = open_encoder(folder, piece.trimmed.rows, plan.dropout, layers)
    width = encoder.config.hidden_size
    classes = known.classes if known.labels else 0
    return Network(encoder, width, classes, known.tags, plan.head_dropout, known.levels)


def _encoded(recipe: Recipe, material: Material) -> Catalogue:
    """Return the classes of the encoder, which may not learn what is outside."""
    taught = recipe.outside is None or recipe.outside.encoder
    return material.known if taught else replace(material.known, outside=None)


def _fingerprint(recipe: Recipe, material: Material) -> str:
    """Name a training: another recipe or other data must not go on from its state."""
    digest = hashlib.sha256()
    for section in (recipe.training, recipe.pretrained, recipe.vocabulary):
        digest.update(section.model_dump_json().encode())
    if recipe.outside:
        digest.update(recipe.outside.model_dump_json().encode())
    digest.update(bytes([recipe.levels]))
    for text in material.texts:
        digest.update(text.encode() + b"\0")
    for example in material.train:
        digest.update(example.model_dump_json().encode())
    return digest.hexdigest()[:16]


def finish(part: Path, piece: Workpiece, network: Network, report: Report) -> Figures:
    """Export, quantise, calibrate, and write all that belongs to the bundle."""
    recipe, material = piece.recipe, piece.material
    tokenizer = piece.trimmed.tokenizer
    with tempfile.TemporaryDirectory() as folder:
        exact = Path(folder)
        for place in (exact, part):
            tokenizer.save(str(place / bundle.TOKENIZER), pretty=False)
        report("exporting", 0, 2, "")
        shorten(network.encoder, recipe.pretrained.max_tokens)
        export(network, exact / bundle.MODEL)
        report("exporting", 1, 2, "")
        feeds = _feeds(material, tokenizer, recipe.pretrained.max_tokens)
        quantise(exact / bundle.MODEL, part / bundle.MODEL, feeds)
        report("exporting", 2, 2, "")
        if material.known.entities:
            follow = transitions(
                material.train, tokenizer, material.known, recipe.caution
            )
            for place in (exact, part):
                np.save(place / TRANSITIONS, follow, allow_pickle=False)
        tiers = Tiers(_specs(piece, (exact, part), report), exact, part)
        before = _heard(tiers, exact, material.valid, piece, report)
        after = _heard(tiers, part, material.valid, piece, report)
        outside = _heard(tiers, part, material.outside, piece, report)
        probes = [Example(text=text) for text in _probes(recipe, material)]
        pair = [_heard(tiers, place, probes, piece, report) for place in (exact, part)]
    names = [spec.by for spec in tiers.specs]
    manifest = _manifest(piece, tiers)
    made = calibrate(
        after,
        names,
        bundle.fingerprint_of(part, manifest),
        runtime(),
        f"{recipe.data.folder}/valid",
        outside,
        labels=material.known.labels,
        certified=not recipe.data.generated,
    )
    bundle.write_calibration(part, made)
    bundle.write_probes(part, made, names, *pair)
    labels = frozenset(material.known.labels)
    guarantee = Guarantee.LABEL if labels else Guarantee.ENTITIES
    wanted = recipe.about.max_error
    kept = certifiable(made, guarantee, wanted) or wanted
    of_before, of_after = (
        figures(heard, made, names, labels, guarantee, kept)
        for heard in (before, after)
    )
    measured = Measured(
        exact=of_before,
        quantised=of_after,
        calibration=made,
        guarantee=guarantee,
        max_error=kept,
        labels=len(labels),
        entities=len(material.known.entities),
        pieces=tokenizer.get_vocab_size(),
        layers=network.encoder.config.num_hidden_layers,
        train=len(material.train),
        valid=len(material.valid),
    )
    write_card(part / bundle.CARD, recipe, measured)
    bundle.write_manifest(part, manifest | {"scores": _scores(measured)})
    return measured.quantised


def _feeds(material: Material, tokenizer: Tokenizer, longest: int) -> list[Feed]:
    """Return some training texts as the model gets them, one at a time."""
    some = material.train[:: max(1, len(material.train) // ROUNDED_ON)][:ROUNDED_ON]
    found: list[Feed] = []
    for example in some:
        ids = np.array([tokenizer.encode(example.text).ids[:longest]], dtype=np.int64)
        found.append({"input_ids": ids, "attention_mask": np.ones_like(ids)})
    return found


def _specs(
    piece: Workpiece, places: Sequence[Path], report: Report
) -> list[LinearSpec | EncoderSpec]:
    """Train the linear tier, if there is to be one, and name the tiers."""
    recipe, material = piece.recipe, piece.material
    specs: list[LinearSpec | EncoderSpec] = []
    if recipe.linear:
        report("linear", 0, 1, "")
        spec, arrays = train_linear(
            recipe.linear,
            material.train,
            material.known,
            material.negatives,
            recipe.training.seed,
        )
        for place in places:
            write_linear(place, arrays)
        specs.append(spec)
        report("linear", 1, 1, "")
    specs.append(
        EncoderSpec(
            family="encoder",
            model=bundle.MODEL,
            tokenizer=bundle.TOKENIZER,
            max_tokens=recipe.pretrained.max_tokens,
            stride=recipe.pretrained.stride,
            outside=_encoded(recipe, material).outside is not None,
            levels=recipe.levels,
            transitions=TRANSITIONS if material.known.entities else None,
        )
    )
    return specs


def _heard(
    tiers: Tiers,
    folder: Path,
    examples: Sequence[Example],
    piece: Workpiece,
    report: Report,
) -> list[Heard]:
    """Ask every tier one text at a time: int8 scales are those of the whole batch."""
    known = piece.material.known
    models = [
        spec.load(folder, list(known.labels), list(known.entities), threads=1)
        for spec in tiers.specs
    ]
    stage = "asking int8" if folder == tiers.quantised else "asking fp32"
    found = []
    for number, example in enumerate(examples):
        said = guesses(models, piece.recipe.patterns, example.text)
        found.append(Heard(example, said))
        if number % 50 == 0 or number == len(examples) - 1:
            report(stage, number + 1, len(examples), "")
    return found


def _probes(recipe: Recipe, material: Material) -> list[str]:
    data = [example.text for example in material.valid[:PROBES_FROM_DATA]]
    return recipe.probes or data


def _manifest(piece: Workpiece, tiers: Tiers) -> dict[str, Any]:
    about = piece.recipe.about
    known = piece.material.known
    return {
        "format": 2,
        "name": about.name,
        "version": about.version,
        "description": about.description,
        "language": about.language,
        "licence": about.licence,
        "sources": about.sources,
        "created": about.created or datetime.now(UTC).date().isoformat(),
        "labels": list(known.labels),
        "entities": list(known.entities),
        "patterns": piece.recipe.patterns,
        "tiers": [json.loads(spec.model_dump_json()) for spec in tiers.specs],
    }


def _scores(measured: Measured) -> dict[str, float]:
    before, after = measured.exact, measured.quantised
    found = {
        "accuracy": after.alone.accuracy,
        "accuracy_fp32": before.alone.accuracy,
        "span_f1": after.alone.span_f1,
        "span_f1_fp32": before.alone.span_f1,
        "coverage": after.cascade.coverage,
        "coverage_fp32": before.cascade.coverage,
        "resolved_accuracy": after.cascade.resolved_accuracy,
        "resolved_accuracy_fp32": before.cascade.resolved_accuracy,
        "kept_outside": after.kept_outside,
        "label_ece": after.alone.ece,
        "entity_ece": after.alone.entity_ece,
    }
    return {name: round(value, 4) for name, value in found.items() if value is not None}
