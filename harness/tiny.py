"""A real bundle of a few kilobytes: an ONNX graph written by hand, a real tokenizer.

The graph looks every token up in two tables: label logits are the sum over the tokens
that the attention mask lets through, tag logits are those of the token alone. So what
the model must say of a text can be read off the text, and both traps are armed: padding
shouts a wrong label, and a word's second sub-token shouts a wrong tag.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

from agent.core.types import (
    DeadLetter,
    Guarantee,
    Message,
    Prediction,
    Reason,
    Resolved,
    Result,
    Tier,
    Timing,
)
from agent.inference.manifest import read_manifest

Table = NDArray[np.float32]

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
WORDS = (
    "turn",
    "on",
    "off",
    "the",
    "lamp",
    "in",
    "kitchen",
    "bed",
    "room",
    "noon",
    "hello",
    "cafe",
    "s",
    "日本",
)
PIECES = ("##s", "##ette", "日", "本")
VOCABULARY = {word: n for n, word in enumerate((*SPECIAL, *WORDS, *PIECES))}
LABELS = ["lamp_off", "lamp_on", "chat"]
ENTITIES = ["place", "time"]
TAGS = ["O", "B-place", "I-place", "B-time", "I-time"]

OUTSIDE = "outside"
NOTHING = "nothing"
BITS = 12  # of the linear tier's table

LABEL_LOGITS = {
    ("off", "lamp_off"): 6.0,
    ("on", "lamp_on"): 6.0,
    ("hello", "chat"): 6.0,
    ("[PAD]", "chat"): 1000.0,
    ("[UNK]", OUTSIDE): 6.0,
}
TAG_LOGITS = {
    ("kitchen", "B-place"): 12.0,
    ("bed", "B-place"): 12.0,
    ("room", "I-place"): 12.0,
    ("cafe", "B-place"): 12.0,
    ("日", "B-place"): 12.0,
    ("本", "I-place"): 12.0,
    ("noon", "B-time"): 12.0,
    ("##s", "B-time"): 1000.0,
    ("##ette", "B-time"): 1000.0,
}
# Of the second level: what lies inside the entities of the first.
INNER_LOGITS = {
    ("room", "B-time"): 12.0,
    ("noon", "B-time"): 12.0,  # the first level has it, too
}
LINEAR_WEIGHTS = {
    ("off", "lamp_off"): 127,
    ("on", "lamp_on"): 127,
    ("hello", "chat"): 127,
    ("zebra", OUTSIDE): 127,
    ("kitchen", NOTHING): -127,
    ("bed", NOTHING): -127,
    ("noon", NOTHING): -127,
}


def arrived(
    payload: bytes = b"turn on the lamp",
    *,
    topic: str = "home/kitchen/utterance",
    qos: int = 1,
    number: int = 1,
    epoch: int = 1,
    content_type: str | None = None,
    acked: list[int] | None = None,
) -> Message:
    """Return a message as it arrives; its acknowledgement adds `number` to `acked`."""
    return Message(
        topic=topic,
        payload=payload,
        qos=qos,
        id=f"made-{number}",
        seq=epoch << 40 | number,
        epoch=epoch,
        received_at=datetime(2026, 11, 23, 17, 20, 18, 123456, UTC),
        arrived=0.0,
        ack=partial((acked if acked is not None else []).append, number),
        content_type=content_type,
    )


def answered(name: str = "m", pipeline: str = "home", **more: Any) -> Result:
    """Return a result of the message that `arrived` makes."""
    guess = Prediction(Tier.ENCODER, "lamp_on", 0.9)
    message = arrived()
    result = Result(
        name,
        "pi",
        pipeline,
        message.topic,
        Resolved(guess, 0.05),
        "tiny@1.0.0",
        message.received_at,
        Timing(0.1, 1.9, 2.4),
    )
    return replace(result, **more)


def unread(payload: bytes = b"\xff", name: str = "m", **more: Any) -> DeadLetter:
    """Return the dead letter of a message that `arrived`."""
    message = arrived(payload)
    letter = DeadLetter(
        name,
        "pi",
        "home",
        message.topic,
        Reason.NOT_UTF8,
        "not valid utf-8",
        payload,
        len(payload),
        message.received_at,
    )
    return replace(letter, **more)


def write_bundle(
    folder: Path,
    *,
    labels: list[str] = LABELS,
    entities: list[str] = ENTITIES,
    max_tokens: int = 16,
    stride: int = 4,
    cascade: bool = False,
    outside: bool = False,
    levels: int = 1,
    patterns: tuple[str, ...] = (),
    trunk: str | None = None,
    prior_weight: float = 0.0,
) -> Path:
    """Write a complete bundle and return its folder.

    A `cascade` has a linear tier before the encoder, whose opinion counts
    `prior_weight`. With a `trunk`, which stands beside it by `write_trunk`, the bundle
    itself has only the heads.
    """
    folder.mkdir(parents=True, exist_ok=True)
    place = f"../{trunk}/" if trunk else ""
    if trunk:
        (folder / "heads.onnx").write_bytes(heads())
    else:
        (folder / "encoder.onnx").write_bytes(graph(outside=outside, levels=levels))
        tokenizer().save(str(folder / "tokenizer.json"))
    tiers: list[dict[str, object]] = [
        {
            "family": "encoder",
            "model": "heads.onnx" if trunk else "encoder.onnx",
            "tokenizer": f"{place}tokenizer.json",
            "trunk": f"{place}encoder.onnx" if trunk else None,
            "max_tokens": max_tokens,
            "stride": stride,
            "outside": outside,
            "levels": levels,
            "prior_weight": prior_weight,
        }
    ]
    if cascade:
        write_linear(folder, labels, entities, outside=outside)
        first = {"family": "linear", "weights": "linear.npz", "bits": BITS}
        tiers.insert(0, {**first, "outside": outside})
    manifest = {
        "format": 2,
        "name": folder.name,
        "version": "1.0.0",
        "description": "A bundle for tests.",
        "language": "en",
        "licence": "Apache-2.0",
        "sources": [],
        "created": "2026-11-24",
        "labels": labels,
        "entities": entities,
        "patterns": patterns,
        "tiers": tiers,
        "scores": {},
        "files": {},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    probe = {
        "text": "turn on the lamp in the kitchen",
        "tier": len(tiers) - 1,
        "label": "lamp_on" if labels else None,
        "score": 0.9951 if labels else None,
        "spans": [{"start": 24, "end": 31, "label": "place", "score": 0.9997}],
    }
    if not entities:
        probe["spans"] = []
    (folder / "probes.jsonl").write_text(json.dumps(probe) + "\n")
    seal(folder)
    write_calibration(folder)
    return folder


def write_trunk(folder: Path, **changes: object) -> Path:
    """Write what bundles stand on, and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "encoder.onnx").write_bytes(encoder())
    tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "README.md").write_text("A trunk for tests.")
    manifest = {
        "trunk": 1,
        "name": folder.name,
        "version": "1.0.0",
        "description": "A trunk for tests.",
        "language": "en",
        "licence": "Apache-2.0",
        "sources": [],
        "created": "2026-11-25",
        "scores": {},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    seal(folder, **changes)
    return folder


def seal(folder: Path, **changes: object) -> None:
    """Write changes into the manifest, and the true hash of every file.

    Of the trunk, if there is one, all but the card.
    """
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest |= changes
    files = {file.name: file for file in folder.iterdir() if file != path}
    for tier in manifest.get("tiers", []):
        if tier.get("trunk"):
            trunk = (folder / tier["trunk"]).parent
            names = {file.name for file in trunk.iterdir()}
            names -= {"manifest.json", "README.md"}
            files |= {f"../{trunk.name}/{name}": trunk / name for name in names}
    manifest["files"] = {
        name: {
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "bytes": file.stat().st_size,
        }
        for name, file in sorted(files.items())
    }
    path.write_text(json.dumps(manifest))


def write_calibration(
    folder: Path, path: Path | None = None, **changes: object
) -> Path:
    """Write the calibration of a bundle, into it or to `path`; return the file."""
    made = calibration(folder) | changes
    file = path or folder / "calibration.json"
    file.write_text(json.dumps(made))
    if path is None:
        seal(folder)
    return file


def calibration(folder: Path) -> dict[str, object]:
    """Return a calibration whose scores are the shares that the model itself gives.

    So a label's score is its softmax share, and that of all entities is the share of
    the least sure word. In a cascade the linear tier must be surer than even.
    """
    manifest = read_manifest(folder)
    tiers: list[dict[str, object]] = []
    for number, tier in enumerate(manifest.tiers):
        last = tier.family == "encoder"
        # log-odds, margin, energy or margin alone; outside; log-odds by itself, where
        # it weighs another; opinion of an earlier tier
        more = 1
        if tier.family == "encoder":
            more = 2 + tier.outside + bool(tier.prior_weight) + (number > 0)
        found: dict[str, object] = {}
        if manifest.labels:
            found["label"] = {"weights": [1.0, *[0.0] * more], "bias": 0.0}
        if manifest.entities:
            weights = [1.0, 0.0, 0.0] if last else [1.0]
            found["entities"] = {"weights": weights, "bias": 0.0}
            found["entity"] = {"weights": [1.0], "bias": 0.0} if last else None
        if not last:
            found |= {"label_floor": 0.5, "entities_floor": 0.5}
        tiers.append(found)
    rows = [
        {"max_error": 0.02, "threshold": 0.9, "coverage": 0.5, "error": 0.01},
        {"max_error": 0.05, "threshold": 0.5, "coverage": 0.9, "error": 0.03},
    ]
    return {
        "format": 1,
        "fingerprint": manifest.fingerprint(),
        "runtime": "onnxruntime",
        "data": "made up",
        "fitted_on": 100,
        "certified_on": 100,
        "confidence": 0.95,
        "tiers": tiers,
        "tables": {guarantee.value: rows for guarantee in Guarantee},
    }


def write_linear(
    folder: Path, labels: list[str], entities: list[str], *, outside: bool
) -> None:
    """Write weights that know the words of LINEAR_WEIGHTS."""
    columns = [*labels, *[OUTSIDE] * outside, *[NOTHING] * bool(entities)]
    weights = np.zeros((1 << BITS, len(columns)), np.int8)
    for (word, column), weight in LINEAR_WEIGHTS.items():
        if column in columns:
            weights[crc32(word.encode()) % (1 << BITS), columns.index(column)] = weight
    bias = np.array([4.0 * (column == NOTHING) for column in columns], np.float32)
    scale = np.full(len(columns), 0.5, np.float32)
    np.savez(folder / "linear.npz", weights=weights, scale=scale, bias=bias)


def tokenizer() -> Tokenizer:
    """Return a WordPiece tokenizer that treats text as BERT's does."""
    made = Tokenizer(WordPiece(VOCABULARY, unk_token="[UNK]"))  # noqa: S106
    made.normalizer = BertNormalizer(lowercase=True)
    made.pre_tokenizer = BertPreTokenizer()
    made.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(token, VOCABULARY[token]) for token in ("[CLS]", "[SEP]")],
    )
    return made


# -- ONNX without the `onnx` package: a graph is a protocol buffer (onnx.proto3), and a
# protocol buffer is a row of (field number, wire type) and value.


INPUTS = ("input_ids", "attention_mask")
# Sum over the tokens that the mask lets through, of the label logits of each.
POOLED = [
    ("Cast", ["attention_mask"], "mask", {"to": 1}),
    ("Unsqueeze", ["mask", "last"], "mask_3d", {}),
    ("Mul", ["by_token", "mask_3d"], "seen", {}),
    ("ReduceSum", ["seen", "tokens_axis"], "label_logits", {"keepdims": 0}),
]
POOLED_BY = {"last": np.array([2], np.int64), "tokens_axis": np.array([1], np.int64)}


def graph(*, outside: bool = False, levels: int = 1) -> bytes:
    """Return the ONNX file: opset 13, float tables, dynamic batch and length."""
    labels, tags = _tables(outside=outside, levels=levels)
    nodes = [
        ("Gather", ["labels", "input_ids"], "by_token", {}),
        *POOLED,
        ("Gather", ["tags", "input_ids"], "tag_logits", {}),
    ]
    return _file(
        nodes,
        {"labels": labels, "tags": tags, **POOLED_BY},
        [_value(name, 7, ["batch", "tokens"]) for name in INPUTS],
        [
            _value("label_logits", 1, ["batch", labels.shape[1]]),
            _value("tag_logits", 1, ["batch", "tokens", tags.shape[1]]),
        ],
    )


def encoder() -> bytes:
    """Return a trunk: the hidden state of a token is all its logits, side by side."""
    hidden = np.hstack(_tables(outside=False, levels=1))
    return _file(
        [("Gather", ["table", "input_ids"], "hidden", {})],
        {"table": hidden},
        [_value(name, 7, ["batch", "tokens"]) for name in INPUTS],
        [_value("hidden", 1, ["batch", "tokens", hidden.shape[1]])],
    )


def heads(width: int = len(LABELS) + len(TAGS)) -> bytes:
    """Return the heads that take them apart again; they expect `width` numbers."""
    known, tags = len(LABELS), len(TAGS)
    ends = {"zero": 0, "known": known, "all": known + tags, "last": 2}
    return _file(
        [
            ("Slice", ["hidden", "zero", "known", "last"], "by_token", {}),
            *POOLED,
            ("Slice", ["hidden", "known", "all", "last"], "tag_logits", {}),
        ],
        {**POOLED_BY, **{name: np.array([n], np.int64) for name, n in ends.items()}},
        [
            _value("hidden", 1, ["batch", "tokens", width]),
            _value("attention_mask", 7, ["batch", "tokens"]),
        ],
        [
            _value("label_logits", 1, ["batch", known]),
            _value("tag_logits", 1, ["batch", "tokens", tags]),
        ],
    )


def _tables(*, outside: bool, levels: int) -> tuple[Table, Table]:
    labels = _table([*LABELS, OUTSIDE], LABEL_LOGITS)[:, : len(LABELS) + outside]
    tags = np.hstack([_table(TAGS, TAG_LOGITS), _table(TAGS, INNER_LOGITS)])
    tags = tags[:, : levels * len(TAGS)]
    tags[:, :: len(TAGS)] = 3.0
    return labels, tags


def _file(
    nodes: Iterable[tuple[str, list[str], str, dict[str, int]]],
    constants: dict[str, Table | NDArray[np.int64]],
    inputs: list[bytes],
    outputs: list[bytes],
) -> bytes:
    body = b"".join(
        [
            *(_bytes(1, _node(*node[:3], **node[3])) for node in nodes),
            _bytes(2, b"tiny"),
            *(_bytes(5, _tensor(name, value)) for name, value in constants.items()),
            *(_bytes(11, value) for value in inputs),
            *(_bytes(12, value) for value in outputs),
        ]
    )
    return _number(1, 8) + _bytes(8, _number(2, 13)) + _bytes(7, body)


def _table(columns: list[str], logits: dict[tuple[str, str], float]) -> Table:
    table = np.zeros((len(VOCABULARY), len(columns)), np.float32)
    for (word, column), logit in logits.items():
        table[VOCABULARY[word], columns.index(column)] = logit
    return table


def _node(operator: str, inputs: list[str], output: str, **attributes: int) -> bytes:
    return b"".join(
        [
            *(_bytes(1, name.encode()) for name in inputs),
            _bytes(2, output.encode()),
            _bytes(4, operator.encode()),
            *(
                _bytes(5, _bytes(1, key.encode()) + _number(3, n) + _number(20, 2))
                for key, n in attributes.items()
            ),
        ]
    )


def _tensor(name: str, value: Table | NDArray[np.int64]) -> bytes:
    kind = 1 if value.dtype == np.float32 else 7
    dimensions = b"".join(_number(1, size) for size in value.shape)
    return (
        dimensions
        + _number(2, kind)
        + _bytes(8, name.encode())
        + _bytes(9, value.tobytes())
    )


def _value(name: str, kind: int, shape: Iterable[str | int]) -> bytes:
    dimensions = b"".join(
        _bytes(1, _number(1, d) if isinstance(d, int) else _bytes(2, d.encode()))
        for d in shape
    )
    tensor = _number(1, kind) + _bytes(2, dimensions)
    return _bytes(1, name.encode()) + _bytes(2, _bytes(1, tensor))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)
