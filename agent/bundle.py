"""A bundle: a folder with models, tokenizer, labels, calibration, probes and a card.

`manifest.json` lists every file with its sha256; a bundle that differs is refused.
Nothing is ever unpickled.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agent.errors import BundleError
from agent.families.encoder import EncoderSpec
from agent.types import Prediction

MANIFEST = "manifest.json"
PROBE_SCORE_TOLERANCE = 0.05


class Frozen(BaseModel):
    """Written by the workshop, only read here; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class File(Frozen):
    """A file of the bundle."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class Threshold(Frozen):
    """The lowest score from which on at most `max_error` is wrong.

    `coverage` and `error` are those on the calibration data.
    """

    max_error: float = Field(gt=0, lt=1)
    threshold: float = Field(ge=0, le=1)
    coverage: float = Field(ge=0, le=1)
    error: float = Field(ge=0, le=1)


class Calibration(Frozen):
    """Thresholds by allowed error, and what they were chosen on.

    `fixed_sequence` is certified (agent/certify.py); `threshold` was tuned.
    """

    method: Literal["threshold", "fixed_sequence"]
    certified: bool
    confidence: float | None = Field(default=None, gt=0, lt=1)
    on: Literal["label"]
    data: str
    n: int = Field(ge=0)
    table: list[Threshold]


class Manifest(Frozen):
    """`manifest.json`."""

    format: Literal[1]
    name: str
    version: str
    description: str
    language: str
    licence: str
    sources: list[str]
    created: str
    labels: list[str]
    entities: list[str]
    tiers: list[EncoderSpec] = Field(min_length=1, max_length=1)
    calibration: Calibration
    scores: dict[str, float]
    files: dict[str, File]


class ProbeSpan(Frozen):
    """An entity that a probe expects."""

    start: int
    end: int
    label: str
    score: float


class Probe(Frozen):
    """A text and the answer the bundle gave where it was made."""

    text: str
    label: str | None
    score: float | None
    spans: list[ProbeSpan]


class Model(Protocol):
    """A loaded tier."""

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        """Return the prediction of each text."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle, ready to be asked."""

    manifest: Manifest
    model: Model
    probes: tuple[Probe, ...]

    @property
    def id(self) -> str:
        """Name and version as results carry them: `home@1.0.0`."""
        return f"{self.manifest.name}@{self.manifest.version}"

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        """Return the prediction of each text; blocks, never in the event loop."""
        return self.model.predict(texts)


def read_manifest(folder: Path) -> Manifest:
    """Read and validate a bundle's manifest; raises BundleError."""
    path = folder / MANIFEST
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise BundleError(f"{path}: no such bundle") from None
    except (OSError, ValidationError) as error:
        raise BundleError(f"{path}: {error}") from error


def verify(folder: Path, manifest: Manifest) -> None:
    """Compare every file with the manifest; raises BundleError where one differs.

    A file that is not listed is refused too: a graph may take its weights from it.
    """
    unlisted = sorted(_files(folder) - {MANIFEST, *manifest.files})
    if unlisted:
        raise BundleError(f"{folder / unlisted[0]}: not listed in the manifest")
    for name, expected in manifest.files.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise BundleError(f"{path}: a manifest may only list files of its bundle")
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise BundleError(f"{path}: {error.strerror or error}") from error
        if found != expected.sha256:
            raise BundleError(
                f"{path}: sha256 is {found[:12]}..., the manifest says "
                f"{expected.sha256[:12]}...; the file is damaged or was replaced"
            )


def _files(folder: Path) -> set[str]:
    found = (path for path in folder.rglob("*") if not path.is_dir())
    return {path.relative_to(folder).as_posix() for path in found}


def open_bundle(folder: Path, threads: int) -> Bundle:
    """Verify and load a bundle; raises BundleError. `threads` is for one inference."""
    manifest = read_manifest(folder)
    verify(folder, manifest)
    [tier] = manifest.tiers
    listed = {tier.model, tier.tokenizer, "probes.jsonl"}
    missing = sorted(listed - set(manifest.files))
    if missing:
        raise BundleError(f"{folder}: the manifest does not list {', '.join(missing)}")
    try:
        model = tier.load(folder, manifest.labels, manifest.entities, threads)
        lines = (folder / "probes.jsonl").read_bytes().split(b"\n")
        probes = tuple(Probe.model_validate_json(line) for line in lines if line)
    except Exception as error:
        # Runtimes written in C++ and Rust raise anything on what they cannot open.
        raise BundleError(f"{folder}: {error}") from error
    return Bundle(manifest, model, probes)


def failed_probes(bundle: Bundle) -> list[str]:
    """Ask the bundle its own probes; return what came out differently on this machine.

    A label or an entity may not change; scores may move by PROBE_SCORE_TOLERANCE.
    """
    failures = []
    for probe in bundle.probes:
        [got] = bundle.predict([probe.text])
        spans = [(e.start, e.end, e.label) for e in got.entities]
        if got.label != probe.label:
            failures.append(f"{probe.text!r}: {got.label}, expected {probe.label}")
        elif spans != [(s.start, s.end, s.label) for s in probe.spans]:
            failures.append(f"{probe.text!r}: entities {spans} differ")
        elif abs((got.score or 0) - (probe.score or 0)) > PROBE_SCORE_TOLERANCE:
            failures.append(f"{probe.text!r}: score {got.score}, was {probe.score}")
    return failures
