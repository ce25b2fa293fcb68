"""Write a bundle: manifest, probes and checksums, as a whole or not at all."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent.core.types import Prediction, Tier
from agent.evaluation.samples import CalibrationSample
from agent.inference.bundle import CALIBRATION, PROBES
from agent.inference.calibration import Calibration
from agent.inference.manifest import CARD, MANIFEST, Manifest
from agent.workshop.data.recipe import BundleClaims
from agent.workshop.training.scoring import Figures

MODEL = "encoder.onnx"
HEADS = "heads.onnx"  # of a bundle on a trunk
TOKENIZER = "tokenizer.json"
LEXICON = "lexicon.tsv"
WORDS = "words.tsv"

STEADY = 0.03  # a text whose score changes more by quantising is no probe


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """Yield an empty folder, which replaces `folder` if the context raises nothing."""
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
    """Yield an empty folder, whose folders replace those in `folder` if all goes well.

    A trunk fits only the bundles made with it, so they lie side by side from the start.
    """
    with replaced(folder / f".{name}.set") as part:
        yield part
    for made in sorted((folder / f".{name}.set").iterdir()):
        place = folder / made.name
        shutil.rmtree(place, ignore_errors=True)
        made.replace(place)
    (folder / f".{name}.set").rmdir()


def told(about: BundleClaims) -> dict[str, Any]:
    """Return the fields of a manifest that a recipe states."""
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
    """Return the scores of a manifest: of int8, and of fp32 as `..._fp32`."""
    figures_by_name: dict[str, Callable[[Figures], float | None]] = {
        "accuracy": lambda f: f.alone.accuracy,
        "span_f1": lambda f: f.alone.span_f1,
        "coverage": lambda f: f.cascade.coverage,
        "resolved_accuracy": lambda f: f.cascade.resolved_accuracy,
    }
    scores = {name: of(after) for name, of in figures_by_name.items()}
    if before is not None:
        scores |= {f"{name}_fp32": of(before) for name, of in figures_by_name.items()}
    scores |= {
        "kept_outside": after.cascade.out_of_scope_kept,
        "label_ece": after.alone.ece,
        "entity_ece": after.alone.entity_ece,
    }
    return {n: round(value, 4) for n, value in scores.items() if value is not None}


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
    """Write the answers that the bundle must give on every machine.

    Only texts on which fp32 and int8 agree are used: they tell a wrong model from the
    rounding of another processor.
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


def _probe(text: str, tier: int, answer: Prediction) -> dict[str, Any]:
    return {
        "text": text,
        "tier": tier,
        "label": answer.label,
        "score": None if answer.score is None else round(answer.score, 6),
        "spans": [
            {
                "start": entity.start,
                "end": entity.end,
                "label": entity.label,
                "score": round(entity.score or 0.0, 6),
            }
            for entity in answer.entities
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

    For a bundle on a trunk that includes the trunk's files, except manifest and card.
    """
    whole = {**content, "files": _listed(folder, content)}
    text = json.dumps(whole, indent=1, ensure_ascii=False)
    (folder / MANIFEST).write_text(f"{text}\n", encoding="utf-8")


def _listed(folder: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Return size and sha256 of every file except the manifest."""
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
