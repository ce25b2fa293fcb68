"""Writing a bundle: manifest, probes and checksums, complete or not at all."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent.core.types import Prediction, Tier
from agent.evaluation.fitting import CalibrationSample
from agent.inference.bundle import CALIBRATION, PROBES
from agent.inference.calibration import Calibration
from agent.inference.manifest import CARD, MANIFEST, Manifest
from agent.workshop.data.recipe import BundleClaims
from agent.workshop.training.scoring import Figures

MODEL = "encoder.onnx"
HEADS = "heads.onnx"  # of a bundle that stands on a trunk
TOKENIZER = "tokenizer.json"

STEADY = 0.03  # a probe whose score moves more than this by quantising is a bad probe


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """Give an empty folder that takes the place of `folder` if all goes well."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    part.replace(folder)


@contextmanager
def replaced_together(folder: Path, name: str) -> Iterator[Path]:
    """Give an empty folder whose folders take their places in `folder` if all is well.

    A trunk and its bundles fit each other only: they lie side by side from the start.
    """
    with replaced(folder / f".{name}.set") as part:
        yield part
    for made in sorted((folder / f".{name}.set").iterdir()):
        place = folder / made.name
        shutil.rmtree(place, ignore_errors=True)
        made.replace(place)
    (folder / f".{name}.set").rmdir()


def told(about: BundleClaims) -> dict[str, Any]:
    """Return what manifests have of a recipe's words."""
    return {
        "name": about.name,
        "version": about.version,
        "description": about.description,
        "language": about.language,
        "licence": about.licence,
        "sources": about.sources,
        "created": about.created or datetime.now(UTC).date().isoformat(),
    }


def scores_of(before: Figures | None, after: Figures) -> dict[str, float]:
    """Return the figures that a manifest has: of int8, and of fp32 before it."""
    told: dict[str, Callable[[Figures], float | None]] = {
        "accuracy": lambda f: f.alone.accuracy,
        "span_f1": lambda f: f.alone.span_f1,
        "coverage": lambda f: f.cascade.coverage,
        "resolved_accuracy": lambda f: f.cascade.resolved_accuracy,
    }
    found = {name: of(after) for name, of in told.items()}
    if before is not None:
        found |= {f"{name}_fp32": of(before) for name, of in told.items()}
    found |= {
        "kept_outside": after.cascade.out_of_scope_kept,
        "label_ece": after.alone.ece,
        "entity_ece": after.alone.entity_ece,
    }
    return {name: round(value, 4) for name, value in found.items() if value is not None}


def fingerprint_of(folder: Path, content: dict[str, Any]) -> str:
    """Return the fingerprint that the finished bundle will have."""
    whole = {**content, "scores": {}, "files": _listed(folder, content)}
    return Manifest.model_validate(whole).fingerprint()


def write_calibration(folder: Path, made: Calibration) -> None:
    """Write the calibration that the bundle ships with."""
    text = made.model_dump_json(indent=1)
    (folder / CALIBRATION).write_text(f"{text}\n", encoding="utf-8")


def write_probes(
    folder: Path,
    made: Calibration,
    tiers: Sequence[Tier],
    exact: Sequence[CalibrationSample],
    quantised: Sequence[CalibrationSample],
) -> None:
    """Store the answers that another CPU must repeat.

    Only texts on which the fp32 and the int8 model agree can tell a wrong model from
    the rounding of another processor.
    """
    lines = []
    for before, after in zip(exact, quantised, strict=True):
        for number, (tier, calibration) in enumerate(
            zip(tiers, made.tiers, strict=True)
        ):
            one = calibration.calibrated(tier, before.guesses[number])
            other = calibration.calibrated(tier, after.guesses[number])
            if _agree(one, other):
                probe = _probe(after.example.text, number, other)
                lines.append(json.dumps(probe, ensure_ascii=False))
    (folder / PROBES).write_text("\n".join([*lines, ""]), encoding="utf-8")


def _probe(text: str, tier: int, found: Prediction) -> dict[str, Any]:
    return {
        "text": text,
        "tier": tier,
        "label": found.label,
        "score": None if found.score is None else round(found.score, 6),
        "spans": [
            {
                "start": entity.start,
                "end": entity.end,
                "label": entity.label,
                "score": round(entity.score or 0.0, 6),
            }
            for entity in found.entities
        ],
    }


def _agree(one: Prediction, other: Prediction) -> bool:
    return (
        one.label == other.label
        and abs((one.score or 0) - (other.score or 0)) <= STEADY
        and [(e.start, e.end, e.label) for e in one.entities]
        == [(e.start, e.end, e.label) for e in other.entities]
    )


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Write the manifest, with size and sha256 of every other file.

    Of the trunk, if the bundle stands on one, all that answers.
    """
    whole = {**content, "files": _listed(folder, content)}
    text = json.dumps(whole, indent=1, ensure_ascii=False)
    (folder / MANIFEST).write_text(f"{text}\n", encoding="utf-8")


def _listed(folder: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Return size and sha256 of every file but the manifest."""
    names = {path.name for path in folder.iterdir()} - {MANIFEST}
    for tier in content.get("tiers", []):
        if tier.get("trunk"):
            trunk = (folder / tier["trunk"]).parent
            answering = {path.name for path in trunk.iterdir()} - {MANIFEST, CARD}
            names |= {f"../{trunk.name}/{name}" for name in answering}
    return {
        name: {
            "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest(),
            "bytes": (folder / name).stat().st_size,
        }
        for name in sorted(names)
    }
