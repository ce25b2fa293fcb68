"""A bundle: a folder with models, tokenizer, labels, calibration, probes and a card.

Its manifest lists every file with its sha256 (agent/inference/manifest.py). Nothing is
ever unpickled.

Its tiers are a cascade, cheapest first: a text is answered by the first that is sure
enough for whoever asks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from pydantic import Field, ValidationError

from agent.core.errors import BundleError
from agent.core.types import Entity, Prediction, RawPrediction, Tier
from agent.inference.calibration import (
    Calibration,
    FrozenModel,
    TierCalibration,
    with_agreement,
)
from agent.inference.forms import ruled
from agent.inference.manifest import Manifest, read_manifest, verify
from agent.inference.patterns import find

CALIBRATION = "calibration.json"
PROBES = "probes.jsonl"
PROBE_SCORE_TOLERANCE = 0.05


class ProbeSpan(FrozenModel):
    """An entity that a probe expects."""

    start: int
    end: int
    label: str
    score: float


class Probe(FrozenModel):
    """A text and the answer that a tier gave where the bundle was made."""

    text: str
    tier: int = Field(ge=0)
    label: str | None
    score: float | None
    spans: list[ProbeSpan]


class TierModel(Protocol):
    """A loaded tier."""

    def predict(
        self, texts: Sequence[str], earlier: Sequence[RawPrediction] = ()
    ) -> list[RawPrediction]:
        """Return the guess about each text; `earlier` is the tier before's of each."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A tier at work: its model, and what its guesses are worth."""

    by: Tier
    model: TierModel
    calibration: TierCalibration


Enough = Callable[[Prediction], bool]


def never(_: Prediction) -> bool:
    """Let no tier but the last answer."""
    return False


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle, ready to be asked; it blocks, so never in the event loop.

    `calibrated` is False where its calibration was made with something else.
    `probed_with` is the calibration that the bundle came with: its probes' scores are
    by that one, whichever is in use.
    """

    manifest: Manifest
    stages: tuple[Stage, ...]
    calibration: Calibration
    probes: tuple[Probe, ...]
    probed_with: tuple[TierCalibration, ...]
    calibrated: bool

    @property
    def id(self) -> str:
        """Name and version as results carry them: `home@1.0.0`."""
        return self.manifest.id

    def predict(self, texts: Sequence[str], enough: Enough = never) -> list[Prediction]:
        """Return for each text the first prediction that is enough, else the last."""
        found: dict[int, Prediction] = {}
        before: dict[int, RawPrediction] = {}
        waiting = list(range(len(texts)))
        for number, stage in enumerate(self.stages):
            last = number == len(self.stages) - 1
            asked = [texts[index] for index in waiting]
            checked = self.manifest.patterns if last else ()
            earlier = [before[index] for index in waiting] if number else []
            said = _asked(stage.model, asked, earlier, checked)
            later = []
            for index, raw in zip(waiting, said, strict=True):
                guess = with_agreement(raw, before.get(index))
                if self.manifest.labels:
                    guess = with_form(guess, texts[index], before.get(index))
                prediction = stage.calibration.calibrated(stage.by, guess)
                before[index], found[index] = guess, prediction
                sure = stage.calibration.may_answer(prediction, len(texts[index]))
                if not (last or (sure and enough(prediction))):
                    later.append(index)
            waiting = later
            if not waiting:
                break
        return [found[index] for index in range(len(texts))]

    def guesses(self, text: str) -> list[RawPrediction]:
        """Return what every tier says of one text, uncalibrated."""
        models = [stage.model for stage in self.stages]
        return guesses(
            models, self.manifest.patterns, text, formed=bool(self.manifest.labels)
        )


def guesses(
    models: Sequence[TierModel], patterns: Sequence[str], text: str, *, formed: bool
) -> list[RawPrediction]:
    """Return what every tier says of one text, each knowing what the one before said.

    This is what a calibration is fitted on, in the workshop as on a device. `formed`:
    whether anybody asks for a label, and so which form the text has.
    """
    found: list[RawPrediction] = []
    for model in models:
        checked = patterns if model is models[-1] else ()
        before = found[-1] if found else None
        [raw] = _asked(model, [text], found[-1:], checked)
        guess = with_agreement(raw, before)
        found.append(with_form(guess, text, before) if formed else guess)
    return found


def with_form(
    guess: RawPrediction, text: str, earlier: RawPrediction | None
) -> RawPrediction:
    """Add which forms rules see in the text; an earlier tier's guess has them."""
    return replace(guess, ruled=ruled(text) if earlier is None else earlier.ruled)


def _asked(
    model: TierModel,
    texts: Sequence[str],
    earlier: Sequence[RawPrediction],
    patterns: Sequence[str],
) -> list[RawPrediction]:
    """Ask a model, and look for checked patterns beside it."""
    said = model.predict(texts, earlier)
    if not patterns:
        return said
    return [
        replace(guess, entities=merged(guess.entities, find(text, patterns)))
        for text, guess in zip(texts, said, strict=True)
    ]


def merged(guessed: Sequence[Entity], checked: Sequence[Entity]) -> tuple[Entity, ...]:
    """Return both in order; a checked entity replaces guesses that overlap it."""
    kept = [
        entity
        for entity in guessed
        if all(
            entity.end <= other.start or other.end <= entity.start for other in checked
        )
    ]
    return tuple(sorted((*kept, *checked), key=lambda entity: entity.start))


def open_bundle(folder: Path, threads: int, calibration: Path | None = None) -> Bundle:
    """Verify and load a bundle; raises BundleError. `threads` is for one inference.

    `calibration` is a file to use instead of the bundle's own. A calibration that was
    made with something else is no error here: the bundle says `calibrated=False`.
    """
    manifest = read_manifest(folder)
    verify(folder, manifest)
    needed = {name for tier in manifest.tiers for name in tier.needed}
    missing = sorted((needed | {CALIBRATION, PROBES}) - set(manifest.files))
    if missing:
        raise BundleError(f"{folder}: the manifest does not list {', '.join(missing)}")
    own = read_calibration(folder / CALIBRATION)
    made = read_calibration(calibration) if calibration else own
    if len(own.tiers) != len(manifest.tiers) or _shape(made) != _shape(own):
        raise BundleError(
            f"{calibration or folder / CALIBRATION}: is for other tiers or other "
            f"evidence than {manifest.id} has; remove it, or run slm-agent calibrate "
            "again"
        )
    try:
        stages = tuple(
            Stage(
                tier.by,
                tier.load(folder, manifest.labels, manifest.entities, threads),
                calibrated,
            )
            for tier, calibrated in zip(manifest.tiers, made.tiers, strict=True)
        )
        lines = (folder / PROBES).read_bytes().split(b"\n")
        probes = tuple(Probe.model_validate_json(line) for line in lines if line)
    except Exception as error:
        # Runtimes written in C++ and Rust raise anything on what they cannot open.
        raise BundleError(f"{folder}: {error}") from error
    if any(probe.tier >= len(stages) for probe in probes):
        raise BundleError(f"{folder / PROBES}: a probe is for a tier that is not there")
    fits = made.fingerprint == manifest.fingerprint()
    return Bundle(manifest, stages, made, probes, tuple(own.tiers), fits)


def _shape(made: Calibration) -> list[list[int | None]]:
    """Return how much evidence each score of each tier wants."""
    return [
        [
            None if score is None else len(score.weights)
            for score in (tier.label, tier.entities)  # `inside` has that of `label`
        ]
        for tier in made.tiers
    ]


def read_calibration(path: Path) -> Calibration:
    """Read and validate a calibration; raises BundleError."""
    try:
        return Calibration.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror or error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"{path}: no calibration: {where} {first['msg']}") from error


def failed_probes(bundle: Bundle) -> list[str]:
    """Ask the bundle its own probes; return what came out differently on this machine.

    A label or an entity may not change; scores may move by PROBE_SCORE_TOLERANCE.
    """
    failures = []
    asked: dict[str, list[RawPrediction]] = {}
    for probe in bundle.probes:
        if probe.text not in asked:
            asked[probe.text] = bundle.guesses(probe.text)
        by = bundle.stages[probe.tier].by
        guess = asked[probe.text][probe.tier]
        got = bundle.probed_with[probe.tier].calibrated(by, guess)
        spans = [(e.start, e.end, e.label) for e in got.entities]
        if got.label != probe.label:
            failures.append(f"{probe.text!r}: {got.label}, expected {probe.label}")
        elif spans != [(s.start, s.end, s.label) for s in probe.spans]:
            failures.append(f"{probe.text!r}: entities {spans} differ")
        elif abs((got.score or 0) - (probe.score or 0)) > PROBE_SCORE_TOLERANCE:
            failures.append(f"{probe.text!r}: score {got.score}, was {probe.score}")
    return failures
