"""Build a bundle with an encoder of its own: every step, from data to card."""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from tokenizers import Tokenizer

from agent.inference.encoder import EncoderSpec
from agent.workshop.bundle import bundle_writer as bundle
from agent.workshop.bundle.card import Encoding
from agent.workshop.bundle.finishing import (
    Places,
    Report,
    feeds,
    finish_bundle,
    fitted_prior_weight,
)
from agent.workshop.data.catalogue import Catalogue
from agent.workshop.data.material import Material, Workpiece, fingerprint, read_material
from agent.workshop.data.recipe import TABLES, Pretrained, Recipe, Training
from agent.workshop.data.vocabulary import Trimmed, pretrained_folder, trim
from agent.workshop.export.export import export, quantise
from agent.workshop.export.forms import graft_forms
from agent.workshop.training.network import (
    Network,
    open_encoder,
    shorten,
)
from agent.workshop.training.scoring import Figures
from agent.workshop.training.training import Lesson, train
from agent.workshop.training.transitions import TRANSITIONS


def train_bundle(recipe: Recipe, data: Path, out: Path, report: Report) -> Figures:
    """Make the bundle `out` from the data below `data`; return its int8 figures.

    An interrupted run continues from its last epoch, kept in `<out>.training`. Raises
    ConfigError if data is missing or malformed.
    """
    piece = workpiece(recipe, read_material(recipe, data))
    work = out.with_name(f"{out.name}.training")
    work.mkdir(parents=True, exist_ok=True)
    network = _train(piece, work, report)
    with bundle.replaced(out) as part:
        scored = finish(part, piece, network, report)
    shutil.rmtree(work)
    return scored


def workpiece(recipe: Recipe, material: Material) -> Workpiece:
    """Return a recipe with its data and the vocabulary of its own encoder."""
    source = pretrained_tokenizer(recipe.pretrained)
    words = recipe.vocabulary
    return Workpiece(
        recipe, material, trim(source, material.texts, words.frequent, words.least)
    )


def pretrained_tokenizer(spec: Pretrained) -> Tokenizer:
    """Open the tokenizer of the pretrained encoder; raises ConfigError."""
    return Tokenizer.from_file(str(pretrained_folder(spec) / "tokenizer.json"))


def window(trimmed: Trimmed, spec: Pretrained) -> Tokenizer:
    """Return a tokenizer that cuts texts into the windows of `spec`."""
    tokenizer = Tokenizer.from_str(trimmed.tokenizer.to_str())
    tokenizer.enable_truncation(spec.max_tokens, stride=spec.stride)
    return tokenizer


def _train(piece: Workpiece, work: Path, report: Report) -> Network:
    """Train the teachers, if the recipe has any, then the network that ships."""
    recipe = piece.recipe
    teachers = train_teachers(piece, work, report)
    lesson = replace(_lesson(piece), teachers=teachers)
    layers = recipe.pretrained.layers
    return _taught(piece, "training", layers, recipe.training, lesson, work, report)


def train_teachers(piece: Workpiece, work: Path, report: Report) -> list[Network]:
    """Train the teachers: networks with all layers, each with its own seed."""
    plan = piece.recipe.training
    plans = [
        plan.model_copy(update={"seed": plan.seed + 100 + number, "teachers": 0})
        for number in range(plan.teachers)
    ]
    lesson = _lesson(piece)
    return [
        _taught(piece, f"teacher {number}", None, own, lesson, work, report)
        for number, own in enumerate(plans, start=1)
    ]


def _lesson(piece: Workpiece) -> Lesson:
    catalogue = _encoded(piece)
    drawn = piece.material.negatives if catalogue.outside is not None else None
    tokenizer = window(piece.trimmed, piece.recipe.pretrained)
    return Lesson(piece.material.train, tokenizer, catalogue, drawn)


def _taught(
    piece: Workpiece,
    name: str,
    layers: int | None,
    plan: Training,
    lesson: Lesson,
    work: Path,
    report: Report,
) -> Network:
    """Train one network, or continue an interrupted run of the same."""
    mark = fingerprint(piece.recipe, piece.material)
    network = _network(piece, layers, plan)
    train(
        network,
        lesson,
        plan,
        work / f"{name.replace(' ', '-')}-{mark}.pt",
        lambda done, total, detail: report(name, done, total, detail),
    )
    return network


def _network(piece: Workpiece, layers: int | None, plan: Training) -> Network:
    """Open the pretrained encoder with the piece's words, and add new heads."""
    folder = pretrained_folder(piece.recipe.pretrained)
    torch.manual_seed(plan.seed)
    encoder = open_encoder(folder, piece.trimmed.rows, plan.dropout, layers)
    return with_heads(encoder, _encoded(piece), plan)


def with_heads(encoder: object, catalogue: Catalogue, plan: Training) -> Network:
    """Return a network of an encoder and new heads."""
    width = encoder.config.hidden_size  # type: ignore[attr-defined]
    classes = catalogue.classes if catalogue.labels else 0
    levels, tags = catalogue.levels, catalogue.tags
    return Network(encoder, width, classes, tags, plan.head_dropout, levels)


def _encoded(piece: Workpiece) -> Catalogue:
    """Return the classes of the encoder, with or without the one for out of scope."""
    outside = piece.recipe.outside
    taught = outside is None or outside.encoder
    return piece.material.known if taught else piece.material.scope


def finish(part: Path, piece: Workpiece, network: Network, report: Report) -> Figures:
    """Export, quantise and calibrate; write all files of the bundle to `part`."""
    recipe, material = piece.recipe, piece.material
    tokenizer, spec = piece.trimmed.tokenizer, recipe.pretrained
    with tempfile.TemporaryDirectory() as folder:
        places = Places(Path(folder), part)
        for place in places.all:
            tokenizer.save(str(place / bundle.TOKENIZER), pretty=False)
            if recipe.lexicon:
                shutil.copyfile(TABLES / recipe.lexicon, place / bundle.LEXICON)
        report("exporting", 0, 2, "")
        shorten(network.encoder, spec.max_tokens)
        export(network, places.exact_one / bundle.MODEL)
        report("exporting", 1, 2, "")
        shown = feeds(material, tokenizer, spec.max_tokens)
        quantise(places.exact_one / bundle.MODEL, part / bundle.MODEL, shown)
        report("exporting", 2, 2, "")
        formed = material.formed
        if formed:
            graft_forms(
                part / bundle.MODEL,
                places.exact_one / bundle.MODEL,
                tokenizer,
                spec.max_tokens,
                formed,
                recipe.training.seed,
                lambda done, total: report("forms", done, total, ""),
            )
        encoder = EncoderSpec(
            family="encoder",
            model=bundle.MODEL,
            tokenizer=bundle.TOKENIZER,
            max_tokens=spec.max_tokens,
            stride=spec.stride,
            outside=_encoded(piece).outside is not None,
            levels=recipe.levels,
            forms=bool(formed),
            prior_weight=fitted_prior_weight(piece),
            words=bundle.WORDS if material.known.labels else None,
            transitions=TRANSITIONS if material.known.entities else None,
            folded=recipe.folded,
            lexicon=bundle.LEXICON if recipe.lexicon else None,
        )
        encoding = Encoding(
            package=spec.package,
            layers=network.encoder.config.num_hidden_layers,
            pieces=tokenizer.get_vocab_size(),
            max_tokens=spec.max_tokens,
        )
        return finish_bundle(piece, places, encoder, encoding, report).quantised
