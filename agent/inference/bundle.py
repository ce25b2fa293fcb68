"""A bundle: a folder with models, tokenizer, labels, calibration, probes and a card.

Its manifest lists every file with its sha256 (agent/inference/manifest.py). Nothing is
ever unpickled.

Its tiers are a cascade, cheapest first: the first tier that is sure enough for the
caller answers a text.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from pydantic import Field, ValidationError

from agent.core.errors import BundleError
from agent.core.explain import first
from agent.core.files import read_bytes
from agent.core.types import Prediction, RawPrediction, Tier
from agent.inference.calibration import (
    Calibration,
    FrozenModel,
    TierCalibration,
    with_agreement,
)
from agent.inference.forms import ruled
from agent.inference.manifest import Manifest, read_manifest, verify
from agent.inference.reconcile import reconciled

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
    """A text, and the answer that a tier gave to it where the bundle was made."""

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
        """Return a raw prediction for each text, in order.

        `earlier` has those of the tier before for the same texts; empty for the first
        tier. Raises what the libraries raise.
        """


@dataclass(frozen=True, slots=True)
class Stage:
    """A loaded tier: its model, and the calibration of its scores."""

    by: Tier
    model: TierModel
    calibration: TierCalibration


Enough = Callable[[Prediction], bool]


def never(_: Prediction) -> bool:
    """Let only the last tier answer."""
    return False


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle that can be asked. It blocks: never call it in the event loop.

    `calibrated` is False if its calibration was made with another model or runtime.
    `probed_with` is the calibration that the bundle came with; the scores of its probes
    are by that one, whichever is in use.
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
        """Return for each text the first prediction that is `enough`, else the last."""
        answers: dict[int, Prediction] = {}
        before: dict[int, RawPrediction] = {}
        waiting = list(range(len(texts)))
        for number, stage in enumerate(self.stages):
            last = number == len(self.stages) - 1
            asked = [texts[index] for index in waiting]
            checked = self.manifest.patterns if last else ()
            earlier = [before[index] for index in waiting] if number else []
            raws = _asked(stage.model, asked, earlier, checked)
            later = []
            for index, raw in zip(waiting, raws, strict=True):
                guess = with_agreement(raw, before.get(index))
                if self.manifest.labels:
                    guess = with_form(guess, texts[index], before.get(index))
                prediction = stage.calibration.calibrated(stage.by, guess)
                before[index], answers[index] = guess, prediction
                sure = stage.calibration.may_answer(prediction, len(texts[index]))
                if not (last or (sure and enough(prediction))):
                    later.append(index)
            waiting = later
            if not waiting:
                break
        return [answers[index] for index in range(len(texts))]

    def guesses(self, text: str) -> list[RawPrediction]:
        """Return the raw prediction of every tier for one text."""
        models = [stage.model for stage in self.stages]
        return guesses(
            models, self.manifest.patterns, text, formed=bool(self.manifest.labels)
        )


def guesses(
    models: Sequence[TierModel], patterns: Sequence[str], text: str, *, formed: bool
) -> list[RawPrediction]:
    """Return the raw prediction of every tier for one text, cheapest tier first.

    Each tier gets that of the tier before. Calibrations are fitted on these, in the
    workshop and on a device. `formed` says whether the rules look for forms, too: they
    do where the bundle classifies.
    """
    raws: list[RawPrediction] = []
    for model in models:
        checked = patterns if model is models[-1] else ()
        before = raws[-1] if raws else None
        [raw] = _asked(model, [text], raws[-1:], checked)
        guess = with_agreement(raw, before)
        raws.append(with_form(guess, text, before) if formed else guess)
    return raws


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
    """Return the raw predictions of a model, with entities of checked patterns."""
    raws = model.predict(texts, earlier)
    if not patterns:
        return raws
    return [
        replace(guess, entities=reconciled(text, guess.entities, patterns))
        for text, guess in zip(texts, raws, strict=True)
    ]


def open_bundle(folder: Path, threads: int, calibration: Path | None = None) -> Bundle:
    """Verify and load a bundle; raises BundleError.

    `threads` is the number of threads of one inference. `calibration` is a file to use
    instead of the bundle's own. A calibration that was made with another model or
    runtime is no error here: then the bundle has `calibrated=False`.
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
    """Return the number of evidence values that each score of each tier takes."""
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
        return Calibration.model_validate_json(read_bytes(path, BundleError))
    except ValidationError as error:
        raise BundleError(f"{path}: no calibration: {first(error)}") from error


def failed_probes(bundle: Bundle) -> list[str]:
    """Run the bundle's probes; return a line for each that differs on this machine.

    Labels and entities must be equal; scores may differ by PROBE_SCORE_TOLERANCE.
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
