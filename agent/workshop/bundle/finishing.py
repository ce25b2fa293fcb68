"""From exported graphs to a finished bundle: all that is not training of an encoder.

These are the linear tier, transitions, calibration, probes, card and manifest. Figures
come from the inference code that ships, in fp32 and in int8.
"""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from agent.core.types import Guarantee, Tier
from agent.evaluation.examples import Example
from agent.evaluation.fitting import calibrate
from agent.evaluation.samples import CalibrationSample
from agent.inference.bundle import guesses
from agent.inference.calibration import Calibration
from agent.inference.decide import ANY_FORM
from agent.inference.encoder import EncoderSpec, runtime
from agent.inference.linear import LinearSpec
from agent.inference.manifest import CARD
from agent.workshop.bundle import bundle_writer as bundle
from agent.workshop.bundle.card import Encoding, Field, Measured, sources, write_card
from agent.workshop.data.material import Material, Workpiece, dictionary
from agent.workshop.data.recipe import Recipe
from agent.workshop.data.speech import accent
from agent.workshop.data.spelling import word_table
from agent.workshop.export.rounding import Feed
from agent.workshop.training.linear_training import train_linear, write_linear
from agent.workshop.training.scoring import Figures, certifiable, figures
from agent.workshop.training.transitions import TRANSITIONS, transitions

Report = Callable[[str, int, int, str], None]  # stage, done, total, detail

FIELD_SEED = 4
FIELD_TEXTS = 250  # that are said otherwise in each way
PROBES_FROM_DATA = 16  # where a recipe names none
ROUNDED_ON = 300  # training texts that tell how errors of rounded weights cancel


@dataclass(frozen=True, slots=True)
class Places:
    """The folders of a bundle in both precisions."""

    exact: Path | None
    """None: the graphs are those of an earlier version, which are not trained again."""
    quantised: Path

    @property
    def exact_one(self) -> Path:
        """The folder of fp32, where it is known that there is one."""
        if self.exact is None:
            raise RuntimeError("there is no fp32 of a graph that is not trained again")
        return self.exact

    @property
    def all(self) -> tuple[Path, ...]:
        """The folders that there are."""
        return tuple(place for place in (self.exact, self.quantised) if place)

    def below(self, name: str) -> "Places":
        """Return the folders of this name in both."""
        return Places(self.exact and self.exact / name, self.quantised / name)


@dataclass(frozen=True, slots=True)
class Finished:
    """The figures of a finished bundle in both precisions."""

    exact: Figures | None
    quantised: Figures


Specs = Sequence[LinearSpec | EncoderSpec]


def finish_bundle(
    piece: Workpiece,
    places: Places,
    encoder: EncoderSpec,
    encoding: Encoding,
    report: Report,
) -> Finished:
    """Make a bundle of the folder `places.quantised`, which has its graphs already.

    `places.exact` has the fp32 graphs, if there are any. `encoding` is for the card.
    """
    recipe, material, part = piece.recipe, piece.material, places.quantised
    if material.known.entities:
        follow = transitions(
            material.train, piece.trimmed.tokenizer, material.known, recipe.caution
        )
        for place in places.all:
            np.save(place / TRANSITIONS, follow, allow_pickle=False)
    if encoder.words:
        table = word_table(material.train, dictionary(recipe.pretrained))
        for place in places.all:
            (place / encoder.words).write_text(table, "utf-8")
    specs: Specs = [*_linear(piece, places, encoder.words, report), encoder]
    manifest = _manifest(piece, specs, encoding)
    made = _calibrated(piece, specs, places, manifest, report)
    bundle.write_calibration(part, made)
    of_before, of_after = _asked(piece, specs, places, made, report)
    measured = Measured(
        exact=of_before,
        quantised=of_after,
        calibration=made,
        guarantee=_wanted(piece)[0],
        max_error=_kept(piece, made),
        labels=len(material.known.labels),
        entities=len(material.known.entities),
        encoding=encoding,
        train=len(material.train),
        valid=len(material.valid),
        field=_in_the_field(piece, specs, part, made, report),
    )
    write_card(part / CARD, recipe, measured)
    scores = bundle.scores_of(of_before, of_after)
    bundle.write_manifest(part, manifest | {"scores": scores})
    return Finished(of_before, of_after)


def _calibrated(
    piece: Workpiece,
    specs: Specs,
    places: Places,
    manifest: dict[str, Any],
    report: Report,
) -> Calibration:
    """Calibrate on the mixture that the recipe states."""
    recipe, material, part = piece.recipe, piece.material, places.quantised
    asked = partial(report, "calibrating")
    table = material.table
    return calibrate(
        _heard(specs, part, material.field, piece, asked),
        [spec.by for spec in specs],
        bundle.fingerprint_of(part, manifest),
        runtime(),
        stated(recipe, material),
        _heard(specs, part, material.outside, piece, asked),
        labels=material.known.labels,
        certified=not recipe.data.generated,
        forms=table.allowing() if material.known.labels else ANY_FORM,
    )


def stated(recipe: Recipe, material: Material) -> str:
    """Say what the calibration texts are a mixture of."""
    data = f"{recipe.data.folder}/valid"
    if not material.known.labels:
        return data
    plan, label = recipe.mixture, recipe.outside.label if recipe.outside else None
    outside = sum(one.label == label for one in material.field) / len(material.field)
    return (
        f"{data}: {1 - plan.spoken:.0%} of the texts in scope as they are, "
        f"{plan.spoken:.0%} said otherwise in one way, "
        f"and {outside:.0%} of all out of scope"
    )


def _asked(
    piece: Workpiece,
    specs: Specs,
    places: Places,
    made: Calibration,
    report: Report,
) -> tuple[Figures | None, Figures]:
    """Ask both precisions the validation texts and the probes, and write these."""
    material, names = piece.material, [spec.by for spec in specs]
    probes = [Example(text=text) for text in _probes(piece.recipe, material)]
    by_stage: list[Figures | None] = []
    pair = []
    for place, name in ((places.exact, "fp32"), (places.quantised, "int8")):
        if place is None:
            by_stage.append(None)
            continue
        asked = partial(report, f"asking {name}")
        heard = _heard(specs, place, material.valid, piece, asked)
        by_stage.append(_figures(piece, heard, made, names))
        pair.append(_heard(specs, place, probes, piece, asked))
    bundle.write_probes(places.quantised, made, names, pair[0], pair[-1])
    before, after = by_stage
    if after is None:
        raise RuntimeError("nobody asked the bundle that ships")
    return before, after


def _figures(
    piece: Workpiece,
    heard: Sequence[CalibrationSample],
    made: Calibration,
    names: Sequence[Tier],
) -> Figures:
    labels = frozenset(piece.material.known.labels)
    guarantee, floor = _wanted(piece)
    forms = piece.material.table.allowing() if labels else ANY_FORM
    kept = _kept(piece, made)
    return figures(heard, made, names, labels, guarantee, kept, floor, forms)


def _wanted(piece: Workpiece) -> tuple[Guarantee, float]:
    """Return what the card's figures are for: the guarantee, and the least score."""
    about = piece.recipe.about
    labels = bool(piece.material.known.labels)
    default = Guarantee.LABEL if labels else Guarantee.ENTITIES
    return about.guarantee or default, about.min_score


def _kept(piece: Workpiece, made: Calibration) -> float:
    wanted = piece.recipe.about.max_error
    return certifiable(made, _wanted(piece)[0], wanted) or wanted


def _in_the_field(
    piece: Workpiece,
    specs: Specs,
    part: Path,
    made: Calibration,
    report: Report,
) -> Field | None:
    """Return how the bundle does on texts said otherwise, and with others about it."""
    material, recipe = piece.material, piece.recipe
    if not material.known.labels:
        return None
    names = [spec.by for spec in specs]
    chance = random.Random(FIELD_SEED)  # noqa: S311  no secret
    say = accent("valid")
    label = recipe.outside.label if recipe.outside else None
    ours = [one for one in material.valid if one.label != label]
    ours = ours[:: max(1, len(ours) // FIELD_TEXTS)][:FIELD_TEXTS]
    asked = partial(report, "in the field")
    ways = {}
    for name in say.names:
        texts = [say.by(name, one, chance) for one in ours]
        heard = _heard(specs, part, texts, piece, asked)
        ways[name] = _figures(piece, heard, made, names).cascade
    heard = _heard(specs, part, material.field, piece, asked)
    return Field(ways, _figures(piece, heard, made, names).cascade.error_at_outside)


def fitted_prior_weight(piece: Workpiece) -> float:
    """Return the weight of the linear tier's opinion on the label; 0: it has none."""
    linear = piece.recipe.linear
    return linear.prior_weight if linear and piece.material.known.labels else 0.0


def feeds(material: Material, tokenizer: Tokenizer, longest: int) -> list[Feed]:
    """Return model inputs of ROUNDED_ON training texts, one text each."""
    some = material.train[:: max(1, len(material.train) // ROUNDED_ON)][:ROUNDED_ON]
    inputs: list[Feed] = []
    for example in some:
        ids = np.array([tokenizer.encode(example.text).ids[:longest]], dtype=np.int64)
        inputs.append({"input_ids": ids, "attention_mask": np.ones_like(ids)})
    return inputs


def _linear(
    piece: Workpiece, places: Places, words: str | None, report: Report
) -> list[LinearSpec]:
    """Train the linear tier, if the recipe has one."""
    recipe, material = piece.recipe, piece.material
    if recipe.linear is None:
        return []
    report("linear", 0, 1, "")
    spec, arrays = train_linear(
        recipe.linear,
        material.train,
        material.known,
        material.negatives,
        recipe.training.seed,
        material.formed,
    )
    for place in places.all:
        write_linear(place, arrays)
    report("linear", 1, 1, "")
    return [spec.model_copy(update={"words": words})]


def _heard(
    specs: Specs,
    folder: Path,
    examples: Sequence[Example],
    piece: Workpiece,
    asked: Callable[[int, int, str], None],
) -> list[CalibrationSample]:
    """Run every tier on one text at a time: in a batch int8 answers differ."""
    known = piece.material.known
    models = [
        spec.load(folder, list(known.labels), list(known.entities), threads=1)
        for spec in specs
    ]
    samples = []
    for number, example in enumerate(examples):
        raws = guesses(
            models, piece.recipe.patterns, example.text, formed=bool(known.labels)
        )
        samples.append(CalibrationSample(example, raws))
        if number % 50 == 0 or number == len(examples) - 1:
            asked(number + 1, len(examples), "")
    return samples


def _probes(recipe: Recipe, material: Material) -> list[str]:
    texts = dict.fromkeys(example.text for example in material.valid)
    return recipe.probes or list(texts)[:PROBES_FROM_DATA]


def _manifest(piece: Workpiece, specs: Specs, encoding: Encoding) -> dict[str, Any]:
    known = piece.material.known
    return {
        "format": 2,
        **bundle.told(piece.recipe.about),
        "sources": sources(piece.recipe, encoding),
        "labels": list(known.labels),
        "entities": list(known.entities),
        "patterns": piece.recipe.patterns,
        **_forms(piece.material),
        "tiers": [json.loads(spec.model_dump_json()) for spec in specs],
    }


def _forms(material: Material) -> dict[str, Any]:
    """Return which forms the labels allow, for the manifest."""
    if not material.known.labels:
        return {}
    return {"forms": json.loads(material.table.model_dump_json())}
