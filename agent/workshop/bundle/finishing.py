"""From exported graphs to a finished bundle: all that is not training of an encoder.

These are the linear tier, transitions, calibration, probes, card and manifest. Figures
come from the inference code that ships, in fp32 and in int8.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from agent.core.types import Guarantee
from agent.evaluation.examples import Example
from agent.evaluation.fitting import CalibrationSample, calibrate
from agent.inference.bundle import guesses
from agent.inference.encoder import EncoderSpec, runtime
from agent.inference.linear import LinearSpec
from agent.inference.manifest import CARD
from agent.workshop.bundle import bundle_writer as bundle
from agent.workshop.bundle.card import Encoding, Measured, sources, write_card
from agent.workshop.data.material import Material, Workpiece
from agent.workshop.data.recipe import Recipe
from agent.workshop.export.rounding import Feed
from agent.workshop.training.linear_training import train_linear, write_linear
from agent.workshop.training.scoring import Figures, certifiable, figures
from agent.workshop.training.transitions import TRANSITIONS, transitions

Report = Callable[[str, int, int, str], None]  # stage, done, total, detail

PROBES_FROM_DATA = 16  # where a recipe names none
ROUNDED_ON = 300  # training texts that tell how errors of rounded weights cancel


@dataclass(frozen=True, slots=True)
class Places:
    """The folders of a bundle in both precisions."""

    exact: Path
    quantised: Path

    @property
    def both(self) -> tuple[Path, Path]:
        """The two folders."""
        return (self.exact, self.quantised)

    def below(self, name: str) -> "Places":
        """Return the folders of this name in both."""
        return Places(self.exact / name, self.quantised / name)


@dataclass(frozen=True, slots=True)
class Finished:
    """The figures of a finished bundle in both precisions."""

    exact: Figures
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

    `places.exact` has the fp32 graphs. `encoding` is for the card.
    """
    recipe, material, part = piece.recipe, piece.material, places.quantised
    if material.known.entities:
        follow = transitions(
            material.train, piece.trimmed.tokenizer, material.known, recipe.caution
        )
        for place in places.both:
            np.save(place / TRANSITIONS, follow, allow_pickle=False)
    specs: Specs = [*_linear(piece, places, report), encoder]
    hearing = [partial(report, f"asking {name}") for name in ("fp32", "int8")]
    before, after = (
        _heard(specs, place, material.valid, piece, asked)
        for place, asked in zip(places.both, hearing, strict=True)
    )
    outside = _heard(specs, part, material.outside, piece, hearing[1])
    probes = [Example(text=text) for text in _probes(recipe, material)]
    pair = [
        _heard(specs, place, probes, piece, asked)
        for place, asked in zip(places.both, hearing, strict=True)
    ]
    names = [spec.by for spec in specs]
    manifest = _manifest(piece, specs, encoding)
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
    default = Guarantee.LABEL if labels else Guarantee.ENTITIES
    guarantee = recipe.about.guarantee or default
    wanted = recipe.about.max_error
    kept = certifiable(made, guarantee, wanted) or wanted
    of_before, of_after = (
        figures(heard, made, names, labels, guarantee, kept, recipe.about.min_score)
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
        encoding=encoding,
        train=len(material.train),
        valid=len(material.valid),
    )
    write_card(part / CARD, recipe, measured)
    scores = bundle.scores_of(of_before, of_after)
    bundle.write_manifest(part, manifest | {"scores": scores})
    return Finished(of_before, of_after)


def fitted_prior_weight(piece: Workpiece) -> float:
    """Return the weight of the linear tier's opinion on the label; 0: it has none."""
    linear = piece.recipe.linear
    return linear.heeded if linear and piece.material.known.labels else 0.0


def feeds(material: Material, tokenizer: Tokenizer, longest: int) -> list[Feed]:
    """Return model inputs of ROUNDED_ON training texts, one text each."""
    some = material.train[:: max(1, len(material.train) // ROUNDED_ON)][:ROUNDED_ON]
    inputs: list[Feed] = []
    for example in some:
        ids = np.array([tokenizer.encode(example.text).ids[:longest]], dtype=np.int64)
        inputs.append({"input_ids": ids, "attention_mask": np.ones_like(ids)})
    return inputs


def _linear(piece: Workpiece, places: Places, report: Report) -> list[LinearSpec]:
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
    )
    for place in places.both:
        write_linear(place, arrays)
    report("linear", 1, 1, "")
    return [spec]


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
    found = []
    for number, example in enumerate(examples):
        said = guesses(models, piece.recipe.patterns, example.text)
        found.append(CalibrationSample(example, said))
        if number % 50 == 0 or number == len(examples) - 1:
            asked(number + 1, len(examples), "")
    return found


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
        "tiers": [json.loads(spec.model_dump_json()) for spec in specs],
    }
