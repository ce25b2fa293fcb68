"""Build a trunk and its bundles: one encoder, trained for all of them.

Batches of the members take turns; members with teachers also learn from these. The
encoder never sees texts out of scope: the members' linear tiers recognise those.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from agent.core.errors import ConfigError
from agent.inference.encoder import EncoderSpec
from agent.inference.manifest import CARD
from agent.inference.onnx import HIDDEN, MASK, open_session
from agent.workshop.bundle import bundle_writer as bundle
from agent.workshop.bundle.building import (
    pretrained_tokenizer,
    train_teachers,
    window,
    with_heads,
    workpiece,
)
from agent.workshop.bundle.card import Encoding
from agent.workshop.bundle.finishing import (
    Finished,
    Places,
    Report,
    feeds,
    finish_bundle,
    fitted_prior_weight,
)
from agent.workshop.bundle.trunk_card import Taught, trunk_scores, write_trunk_card
from agent.workshop.data.material import Workpiece, fingerprint, read_material, texts_of
from agent.workshop.data.recipe import Recipe, TrunkRecipe
from agent.workshop.data.vocabulary import Trimmed, pretrained_folder, trim
from agent.workshop.export.export import export_heads, export_trunk, quantise
from agent.workshop.export.forms import graft_forms, ungraft
from agent.workshop.export.rounding import Feed
from agent.workshop.training.network import (
    SharedTrunk,
    open_encoder,
    shorten,
)
from agent.workshop.training.opinions import opinions
from agent.workshop.training.scoring import Figures
from agent.workshop.training.training import Lesson, train_together
from agent.workshop.training.transitions import TRANSITIONS

LAYERS = 6  # of the pretrained encoder


@dataclass(frozen=True, slots=True)
class TrunkPlan:
    """The recipe of a trunk, its vocabulary, and its members by name, in order."""

    recipe: TrunkRecipe
    trimmed: Trimmed
    members: Mapping[str, Workpiece]


def train_trunk(
    recipe: TrunkRecipe,
    members: Sequence[Recipe],
    data: Path,
    out: Path,
    report: Report,
) -> dict[str, Figures]:
    """Make the trunk and its members' bundles in `out`, from the data below `data`.

    Returns the members' int8 figures by name. An interrupted run continues from its
    last epoch, kept in `<out>/<trunk>.training`. Raises ConfigError if data is missing.
    """
    plan = read_plan(recipe, members, data)
    work = out / f"{recipe.about.name}.training"
    work.mkdir(parents=True, exist_ok=True)
    trunk = train_plan(plan, work, report)
    with bundle.replaced_together(out, recipe.about.name) as part:
        scored = finish_plan(part, plan, trunk, report)
    shutil.rmtree(work)
    return scored


def read_plan(recipe: TrunkRecipe, members: Sequence[Recipe], data: Path) -> TrunkPlan:
    """Read the data of all members, and choose a common vocabulary.

    Raises ConfigError.
    """
    materials = [read_material(member, data) for member in members]
    texts = [text for material in materials for text in material.texts]
    texts += texts_of(data, recipe.vocabulary.texts)
    source = pretrained_tokenizer(recipe.pretrained)
    words = recipe.vocabulary
    trimmed = trim(source, texts, words.frequent, words.least)
    pieces = {
        member.about.name: Workpiece(member, material, trimmed)
        for member, material in zip(members, materials, strict=True)
    }
    return TrunkPlan(recipe, trimmed, pieces)


def train_plan(plan: TrunkPlan, work: Path, report: Report) -> SharedTrunk:
    """Train the teachers where needed, then the trunk with all heads."""
    spec, training = plan.recipe.pretrained, plan.recipe.training
    tokenizer = window(plan.trimmed, spec)
    lessons = {
        name: Lesson(
            piece.material.train,
            tokenizer,
            piece.material.scope,
            opinions=_opinions(name, piece, work, report),
        )
        for name, piece in plan.members.items()
    }
    torch.manual_seed(training.seed)
    folder = pretrained_folder(spec)
    encoder = open_encoder(folder, plan.trimmed.rows, training.dropout, spec.layers)
    networks = {
        name: with_heads(encoder, lesson.known, training)
        for name, lesson in lessons.items()
    }
    trunk = SharedTrunk(encoder, networks)
    checkpoint = work / f"training-{_fingerprint(plan)}.pt"
    train_together(trunk, lessons, training, checkpoint, partial(report, "training"))
    return trunk


def _opinions(name: str, piece: Workpiece, work: Path, report: Report) -> Tensor | None:
    """Return the probabilities of a member's teachers; None if it has none.

    They are kept in `work`; if they are missing, the teachers are trained. A teacher is
    a network of the member's own recipe, with its own vocabulary and all layers.
    """
    if not piece.recipe.training.teachers:
        return None
    mark = fingerprint(piece.recipe, piece.material)
    kept = work / f"opinions-{mark}.pt"
    if kept.is_file():
        stored: Tensor = torch.load(kept, weights_only=True)
        return stored
    own = workpiece(piece.recipe, piece.material)
    named_report = _named(name, report)
    teachers = train_teachers(own, work, named_report)
    means = opinions(
        teachers,
        piece.material.train,
        window(own.trimmed, own.recipe.pretrained),
        piece.material.scope,
        lambda done, total: named_report("opinions", done, total, ""),
    )
    part = kept.with_suffix(".part")
    torch.save(means, part)
    part.replace(kept)
    return means


def _named(name: str, report: Report) -> Report:
    """Return a report that puts the name of a member before each stage."""

    def named_report(stage: str, done: int, total: int, detail: str) -> None:
        report(f"{name}: {stage}", done, total, detail)

    return named_report


def _fingerprint(plan: TrunkPlan) -> str:
    """Return a name of the run: another recipe or other data must not continue it."""
    digest = hashlib.sha256()
    recipe = plan.recipe
    for section in (recipe.training, recipe.pretrained, recipe.vocabulary):
        digest.update(section.model_dump_json().encode())
    for name, piece in plan.members.items():
        mark = fingerprint(piece.recipe, piece.material)
        digest.update(f"{name}/{mark}\0".encode())
    digest.update(plan.trimmed.tokenizer.to_str().encode())
    return digest.hexdigest()[:16]


def finish_plan(
    part: Path, plan: TrunkPlan, trunk: SharedTrunk, report: Report
) -> dict[str, Figures]:
    """Export, quantise and calibrate the trunk and its members, side by side."""
    recipe = plan.recipe
    with tempfile.TemporaryDirectory() as folder:
        roots = Places(Path(folder), part)
        places = roots.below(recipe.about.name)
        _export(places, plan, trunk, report)
        encoding = Encoding(
            package=recipe.pretrained.package,
            layers=trunk.encoder.config.num_hidden_layers,
            pieces=plan.trimmed.tokenizer.get_vocab_size(),
            max_tokens=recipe.pretrained.max_tokens,
            trunk=recipe.about,
        )
        finished = {
            name: _member(name, roots, plan, trunk, encoding, report)
            for name in plan.members
        }
    _write_trunk(places.quantised, plan, encoding, finished)
    return {name: figures.quantised for name, figures in finished.items()}


def _write_trunk(
    folder: Path, plan: TrunkPlan, encoding: Encoding, finished: Mapping[str, Finished]
) -> None:
    """Write card and manifest of the trunk."""
    recipe = plan.recipe
    taught = [
        Taught(piece.recipe, len(piece.material.train), finished[name])
        for name, piece in plan.members.items()
    ]
    write_trunk_card(folder / CARD, recipe, encoding, taught)
    bundle.write_manifest(
        folder,
        {"trunk": 1, **bundle.told(recipe.about), "scores": trunk_scores(taught)},
    )


def _export(
    places: Places, plan: TrunkPlan, trunk: SharedTrunk, report: Report
) -> None:
    """Write the trunk's graph and tokenizer, in both precisions."""
    report("exporting", 0, 2, "")
    tokenizer, longest = plan.trimmed.tokenizer, plan.recipe.pretrained.max_tokens
    for place in places.all:
        place.mkdir()
        tokenizer.save(str(place / bundle.TOKENIZER), pretty=False)
    shorten(trunk.encoder, longest)
    export_trunk(trunk.encoder, places.exact_one / bundle.MODEL)
    report("exporting", 1, 2, "")
    shown = [
        feed
        for piece in plan.members.values()
        for feed in feeds(piece.material, tokenizer, longest)
    ]
    quantise(places.exact_one / bundle.MODEL, places.quantised / bundle.MODEL, shown)
    report("exporting", 2, 2, "")
    _graft(places, plan, report)


def _graft(places: Places, plan: TrunkPlan, report: Report) -> None:
    """Teach the trunk's head for forms, by the texts of all members."""
    quantised = places.quantised / bundle.MODEL
    graft_forms(
        quantised,
        places.exact and places.exact / bundle.MODEL,
        plan.trimmed.tokenizer,
        plan.recipe.pretrained.max_tokens,
        [one for piece in plan.members.values() for one in piece.material.formed],
        plan.recipe.training.seed,
        lambda done, total: report("forms", done, total, ""),
    )


def _hidden(trunk: Path, plan: TrunkPlan, piece: Workpiece) -> list[Feed]:
    """Return the finished trunk's outputs for some training texts of a member."""
    session = open_session(trunk / bundle.MODEL, threads=1)
    longest = plan.recipe.pretrained.max_tokens
    return [
        {HIDDEN: session.run([HIDDEN], dict(feed))[0], MASK: feed[MASK]}
        for feed in feeds(piece.material, plan.trimmed.tokenizer, longest)
    ]


def _member(
    name: str,
    roots: Places,
    plan: TrunkPlan,
    trunk: SharedTrunk,
    encoding: Encoding,
    report: Report,
) -> Finished:
    """Finish the bundle of one member."""
    piece = plan.members[name]
    places = roots.below(name)
    for place in places.all:
        place.mkdir()
    export_heads(trunk.member(name), places.exact_one / bundle.HEADS)
    seen = _hidden(roots.below(plan.recipe.about.name).quantised, plan, piece)
    quantise(places.exact_one / bundle.HEADS, places.quantised / bundle.HEADS, seen)
    return _finished(name, places, plan, encoding, report)


def _finished(
    name: str, places: Places, plan: TrunkPlan, encoding: Encoding, report: Report
) -> Finished:
    """Make a bundle of a folder in which the heads lie."""
    piece, spec = plan.members[name], plan.recipe.pretrained
    below = f"../{plan.recipe.about.name}"
    encoder = EncoderSpec(
        family="encoder",
        model=bundle.HEADS,
        tokenizer=f"{below}/{bundle.TOKENIZER}",
        trunk=f"{below}/{bundle.MODEL}",
        max_tokens=spec.max_tokens,
        stride=spec.stride,
        levels=piece.recipe.levels,
        forms=True,
        prior_weight=fitted_prior_weight(piece),
        words=bundle.WORDS if piece.material.known.labels else None,
        transitions=TRANSITIONS if piece.material.known.entities else None,
    )
    return finish_bundle(piece, places, encoder, encoding, _named(name, report))


# -- without training the encoder again


def refit_trunk(
    recipe: TrunkRecipe,
    members: Sequence[Recipe],
    data: Path,
    out: Path,
    report: Report,
) -> dict[str, Figures]:
    """Make all anew but the encoder and the heads for labels and entities in `out`.

    The head for forms, the linear tiers, calibrations, cards: minutes instead of hours.
    """
    plan = _kept_plan(recipe, members, data, out)
    with bundle.replaced_together(out, recipe.about.name) as part:
        roots = Places(None, part)
        places = roots.below(recipe.about.name)
        _copied(out, places.quantised, (bundle.MODEL, f"{bundle.MODEL}.data"))
        _copied(out, places.quantised, (bundle.TOKENIZER,))
        ungraft(places.quantised / bundle.MODEL)
        _graft(places, plan, report)
        encoding = Encoding(
            package=recipe.pretrained.package,
            layers=recipe.pretrained.layers or LAYERS,
            pieces=plan.trimmed.tokenizer.get_vocab_size(),
            max_tokens=recipe.pretrained.max_tokens,
            trunk=recipe.about,
        )
        finished = {}
        for name in plan.members:
            folder = roots.below(name)
            _copied(out, folder.quantised, (bundle.HEADS, f"{bundle.HEADS}.data"))
            member_report = _named(name, report)
            finished[name] = _finished(name, folder, plan, encoding, member_report)
        _write_trunk(places.quantised, plan, encoding, finished)
    return {name: figures.quantised for name, figures in finished.items()}


def _kept_plan(
    recipe: TrunkRecipe, members: Sequence[Recipe], data: Path, out: Path
) -> TrunkPlan:
    """Read the data of all members, and the words of the trunk that is there."""
    file = out / recipe.about.name / bundle.TOKENIZER
    if not file.is_file():
        raise ConfigError(f"{file}: no trunk to keep; train it first")
    trimmed = Trimmed(Tokenizer.from_file(str(file)), [])
    pieces = {
        member.about.name: Workpiece(member, read_material(member, data), trimmed)
        for member in members
    }
    return TrunkPlan(recipe, trimmed, pieces)


def _copied(out: Path, folder: Path, names: Sequence[str]) -> None:
    """Copy files of a bundle that is there into the folder of its next version."""
    folder.mkdir(exist_ok=True)
    for name in names:
        if (out / folder.name / name).is_file():
            shutil.copyfile(out / folder.name / name, folder / name)
