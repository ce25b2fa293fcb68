"""Writing a bundle: manifest, probes and checksums, complete or not at all."""

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.types import Prediction

MANIFEST = "manifest.json"
PROBES = "probes.jsonl"
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


def write_probes(
    folder: Path,
    texts: Sequence[str],
    exact: Sequence[Prediction],
    quantised: Sequence[Prediction],
) -> None:
    """Store the answers that another CPU must repeat.

    Only texts on which the fp32 and the int8 model agree can tell a wrong model from
    the rounding of another processor.
    """
    lines = [
        json.dumps(_probe(text, after), ensure_ascii=False)
        for text, before, after in zip(texts, exact, quantised, strict=True)
        if _agree(before, after)
    ]
    (folder / PROBES).write_text("\n".join([*lines, ""]), encoding="utf-8")


def _probe(text: str, found: Prediction) -> dict[str, Any]:
    return {
        "text": text,
        "label": found.label,
        "score": None if found.score is None else round(found.score, 6),
        "spans": [
            {
                "start": entity.start,
                "end": entity.end,
                "label": entity.label,
                "score": round(entity.score, 6),
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
    files = {
        path.name: {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "bytes": path.stat().st_size,
        }
        for path in sorted(folder.iterdir())
        if path.name != MANIFEST
    }
    text = json.dumps({**content, "files": files}, indent=1, ensure_ascii=False)
    (folder / MANIFEST).write_text(f"{text}\n", encoding="utf-8")
