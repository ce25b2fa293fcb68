"""Writing a bundle: manifest, probes and checksums, complete or not at all."""

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.bundle import CALIBRATION, PROBES
from agent.calibration import Calibration
from agent.fitting import Heard
from agent.manifest import MANIFEST, Manifest
from agent.types import Prediction, Tier

MODEL = "encoder.onnx"
TOKENIZER = "tokenizer.json"
CARD = "README.md"

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


def fingerprint_of(folder: Path, content: dict[str, Any]) -> str:
    """Return the fingerprint that the finished bundle will have."""
    whole = {**content, "scores": {}, "files": _listed(folder)}
    return Manifest.model_validate(whole).fingerprint()


def write_calibration(folder: Path, made: Calibration) -> None:
    """Write the calibration that the bundle ships with."""
    text = made.model_dump_json(indent=1)
    (folder / CALIBRATION).write_text(f"{text}\n", encoding="utf-8")


def write_probes(
    folder: Path,
    made: Calibration,
    tiers: Sequence[Tier],
    exact: Sequence[Heard],
    quantised: Sequence[Heard],
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
            one = calibration.judged(tier, before.guesses[number])
            other = calibration.judged(tier, after.guesses[number])
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
    """Write the manifest, with size and sha256 of every other file."""
    whole = {**content, "files": _listed(folder)}
    text = json.dumps(whole, indent=1, ensure_ascii=False)
    (folder / MANIFEST).write_text(f"{text}\n", encoding="utf-8")


def _listed(folder: Path) -> dict[str, Any]:
    """Return size and sha256 of every file but the manifest."""
    return {
        path.name: {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "bytes": path.stat().st_size,
        }
        for path in sorted(folder.iterdir())
        if path.name != MANIFEST
    }
