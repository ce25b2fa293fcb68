"""Building a bundle: every step of the workshop, in order, from data to card."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from agent.certify import DELTA, Claim
from agent.examples import Example, read_examples
from agent.families.encoder import EncoderSpec
from agent.scoring import Scoreboard
from agent.types import Prediction
from agent.workshop import bundle_writer as bundle
from agent.workshop.calibration import halves, temperatures, thresholds
from agent.workshop.card import Measured, write_card
from agent.workshop.catalogue import Catalogue, catalogue
from agent.workshop.export import export, quantise
from agent.workshop.network import Network, open_encoder, pretrained_folder
from agent.workshop.recipe import Recipe
from agent.workshop.scoring import label_outcomes, score
from agent.workshop.training import Lesson, train
from agent.workshop.vocabulary import trim

Report = Callable[[str, int, int, str], None]  # stage, done, total, detail

PROBES_FROM_DATA = 20  # where a recipe names none
MOST_PASSES = 28  # over the validation texts, to find both temperatures


@dataclass(frozen=True, slots=True)
class Material:
    """The data of one bundle, read and checked."""

    train: list[Example]
    valid: list[Example]
    texts: list[str]  # the vocabulary is chosen by these
    known: Catalogue


@dataclass(frozen=True, slots=True)
class Workpiece:
    """What becomes a bundle."""

    recipe: Recipe
    material: Material
    network: Network
    tokenizer: Tokenizer


@dataclass(frozen=True, slots=True)
class Pair:
    """The folders of the same model before and after quantising."""

    exact: Path
    quantised: Path


def train_bundle(recipe: Recipe, data: Path, out: Path, report: Report) -> Scoreboard:
    """Make the bundle `out` from the data below `data`; return its int8 scores.

    An interrupted run goes on from its last epoch, kept in `<out>.training`.
    """
    material = read_material(recipe, data)
    piece = _start(recipe, material)
    work = out.with_name(f"{out.name}.training")
    work.mkdir(parents=True, exist_ok=True)
    train(
        piece.network,
        Lesson(material.train, _windowed(recipe, piece.tokenizer), material.known),
        recipe.training,
        work / f"{_fingerprint(recipe, material)}.pt",
        lambda done, total, detail: report("training", done, total, detail),
    )
    with bundle.replaced(out) as part:
        scores = finish(part, piece, report)
    shutil.rmtree(work)
    return scores


def read_material(recipe: Recipe, data: Path) -> Material:
    """Read the files a recipe names below `data`; raises ConfigError."""
    folder = data / recipe.data.folder
    training = read_examples(folder / "train.jsonl")
    valid = read_examples(folder / "valid.jsonl")
    texts = [example.text for example in training]
    for pattern in recipe.vocabulary.texts:
        for path in sorted(data.glob(pattern)):
            texts += [example.text for example in read_examples(path)]
    return Material(training, valid, texts, catalogue(training))


def _start(recipe: Recipe, material: Material) -> Workpiece:
    """Trim the pretrained tokenizer and encoder, and put fresh heads on it."""
    folder = pretrained_folder(recipe.pretrained)
    source = Tokenizer.from_file(str(folder / "tokenizer.json"))
    trimmed = trim(source, material.texts, recipe.vocabulary.frequent)
    plan, known = recipe.training, material.known
    torch.manual_seed(plan.seed)
    encoder = open_encoder(folder, trimmed.rows, plan.dropout)
    width = encoder.config.hidden_size
    network = Network(encoder, width, len(known.labels), known.tags, plan.head_dropout)
    return Workpiece(recipe, material, network, trimmed.tokenizer)


def _windowed(recipe: Recipe, tokenizer: Tokenizer) -> Tokenizer:
    window = Tokenizer.from_str(tokenizer.to_str())
    spec = recipe.pretrained
    window.enable_truncation(spec.max_tokens, stride=spec.stride)
    return window


def _fingerprint(recipe: Recipe, material: Material) -> str:
    """Name a training: another recipe or other data must not go on from its state."""
    digest = hashlib.sha256()
    for section in (recipe.training, recipe.pretrained, recipe.vocabulary):
        digest.update(section.model_dump_json().encode())
    for text in material.texts:
        digest.update(text.encode() + b"\0")
    for example in material.train:
        digest.update(example.model_dump_json().encode())
    return digest.hexdigest()[:16]


def finish(part: Path, piece: Workpiece, report: Report) -> Scoreboard:
    """Export, quantise, calibrate, and write all that belongs to the bundle."""
    recipe, material = piece.recipe, piece.material
    with tempfile.TemporaryDirectory() as folder:
        pair = Pair(exact=Path(folder), quantised=part)
        for place in (pair.exact, pair.quantised):
            piece.tokenizer.save(str(place / bundle.TOKENIZER), pretty=False)
        report("exporting", 0, 2, "")
        export(piece.network, pair.exact / bundle.MODEL)
        report("exporting", 1, 2, "")
        quantise(pair.exact / bundle.MODEL, pair.quantised / bundle.MODEL)
        report("exporting", 2, 2, "")
        spec = _calibrated(pair, recipe, material, report)
        texts = [example.text for example in material.valid]
        exact = _answers(pair.exact, spec, material.known, texts)
        found = _answers(pair.quantised, spec, material.known, texts)
        held = _only(halves(material.valid)[1], material.valid, found)
        _write_probes(pair, spec, recipe, material)
    measured = Measured(
        exact=score(material.valid, exact),
        quantised=score(material.valid, found),
        table=thresholds(held),
        certified_on=len(held),
        labels=len(material.known.labels),
        entities=len(material.known.entities),
        pieces=piece.tokenizer.get_vocab_size(),
        train=len(material.train),
        valid=len(material.valid),
    )
    write_card(part / bundle.CARD, recipe, measured)
    bundle.write_manifest(part, _manifest(recipe, material, spec, measured))
    return measured.quantised


def _calibrated(
    pair: Pair, recipe: Recipe, material: Material, report: Report
) -> EncoderSpec:
    """Return the tier with its temperatures, fitted on the int8 model."""
    asked = 0
    fitted, _ = halves(material.valid)
    texts = [example.text for example in fitted]

    def ask(spec: EncoderSpec) -> list[Prediction]:
        nonlocal asked
        found = _answers(pair.quantised, spec, material.known, texts)
        asked += 1
        report("calibrating", asked, max(asked, MOST_PASSES), "")
        return found

    spec = EncoderSpec(
        family="encoder",
        model=bundle.MODEL,
        tokenizer=bundle.TOKENIZER,
        max_tokens=recipe.pretrained.max_tokens,
        stride=recipe.pretrained.stride,
        label_temperature=1.0,
        entity_temperature=1.0,
    )
    best = temperatures(spec, fitted, ask)
    report("calibrating", asked, asked, "")
    return best


def _only(
    part: Sequence[Example], whole: Sequence[Example], found: Sequence[Prediction]
) -> list[Claim]:
    """Return the claims about the labels of some of the examples."""
    wanted = {id(example) for example in part}
    chosen = [(e, p) for e, p in zip(whole, found, strict=True) if id(e) in wanted]
    return label_outcomes([e for e, _ in chosen], [p for _, p in chosen])


def _answers(
    folder: Path, spec: EncoderSpec, known: Catalogue, texts: list[str]
) -> list[Prediction]:
    """Ask one text at a time: int8 scales are those of the whole batch."""
    model = spec.load(folder, list(known.labels), list(known.entities), threads=1)
    return [model.predict([text])[0] for text in texts]


def _write_probes(
    pair: Pair, spec: EncoderSpec, recipe: Recipe, material: Material
) -> None:
    data = [example.text for example in material.valid[:PROBES_FROM_DATA]]
    texts = recipe.probes or data
    bundle.write_probes(
        pair.quantised,
        texts,
        _answers(pair.exact, spec, material.known, texts),
        _answers(pair.quantised, spec, material.known, texts),
    )


def _manifest(
    recipe: Recipe, material: Material, spec: EncoderSpec, measured: Measured
) -> dict[str, Any]:
    about = recipe.about
    created = about.created or datetime.now(UTC).date().isoformat()
    return {
        "format": 1,
        "name": about.name,
        "version": about.version,
        "description": about.description,
        "language": about.language,
        "licence": about.licence,
        "sources": about.sources,
        "created": created,
        "labels": list(material.known.labels),
        "entities": list(material.known.entities),
        "tiers": [json.loads(spec.model_dump_json())],
        "calibration": {
            "method": "fixed_sequence",
            "certified": True,
            "confidence": 1 - DELTA,
            "on": "label",
            "data": f"{recipe.data.folder}/valid, the half that no score was fitted to",
            "n": measured.certified_on,
            "table": [asdict(certificate) for certificate in measured.table],
        },
        "scores": _scores(measured),
    }


def _scores(measured: Measured) -> dict[str, float]:
    found = {
        "accuracy": measured.quantised.accuracy,
        "span_f1": measured.quantised.span_f1,
        "accuracy_fp32": measured.exact.accuracy,
        "span_f1_fp32": measured.exact.span_f1,
        "label_ece": measured.quantised.ece,
        "entity_ece": measured.quantised.entity_ece,
    }
    return {name: round(value, 4) for name, value in found.items() if value is not None}
