"""A real bundle of a few kilobytes: an ONNX graph written by hand, a real tokenizer.

The graph looks every token up in two tables: label logits are the sum over the tokens
that the attention mask lets through, tag logits are those of the token alone. So what
the model must say of a text can be read off the text, and both traps are armed: padding
shouts a wrong label, and a word's second sub-token shouts a wrong tag.
"""

import hashlib
import json
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

from agent.types import Message

Table = NDArray[np.float32]

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
WORDS = (
    *("turn", "on", "off", "the", "lamp", "in", "kitchen", "bed", "room", "noon"),
    *("hello", "cafe", "s", "日本"),
)
PIECES = ("##s", "##ette", "日", "本")
VOCABULARY = {word: n for n, word in enumerate((*SPECIAL, *WORDS, *PIECES))}
LABELS = ["lamp_off", "lamp_on", "chat"]
ENTITIES = ["place", "time"]
TAGS = ["O", "B-place", "I-place", "B-time", "I-time"]

LABEL_LOGITS = {
    ("off", "lamp_off"): 6.0,
    ("on", "lamp_on"): 6.0,
    ("hello", "chat"): 6.0,
    ("[PAD]", "chat"): 1000.0,
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


def write_bundle(
    folder: Path,
    *,
    labels: list[str] = LABELS,
    entities: list[str] = ENTITIES,
    max_tokens: int = 16,
    stride: int = 4,
) -> Path:
    """Write a complete bundle and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "encoder.onnx").write_bytes(graph())
    tokenizer().save(str(folder / "tokenizer.json"))
    probe = {
        "text": "turn on the lamp in the kitchen",
        "label": "lamp_on",
        "score": 0.9951,
        "spans": [{"start": 24, "end": 31, "label": "place", "score": 0.9997}],
    }
    (folder / "probes.jsonl").write_text(json.dumps(probe) + "\n")
    manifest = {
        "format": 1,
        "name": folder.name,
        "version": "1.0.0",
        "description": "A bundle for tests.",
        "language": "en",
        "licence": "Apache-2.0",
        "sources": [],
        "created": "2026-11-24",
        "labels": labels,
        "entities": entities,
        "tiers": [
            {
                "family": "encoder",
                "model": "encoder.onnx",
                "tokenizer": "tokenizer.json",
                "max_tokens": max_tokens,
                "stride": stride,
                "label_temperature": 1.0,
                "entity_temperature": 1.0,
            }
        ],
        "calibration": {
            "method": "threshold",
            "certified": False,
            "on": "label",
            "data": "none",
            "n": 1,
            "table": [
                {"max_error": 0.02, "threshold": 0.9, "coverage": 0.5, "error": 0.02},
                {"max_error": 0.05, "threshold": 0.5, "coverage": 0.9, "error": 0.05},
            ],
        },
        "scores": {},
        "files": {},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    seal(folder)
    return folder


def seal(folder: Path, **changes: object) -> None:
    """Write changes into the manifest, and the true hash of every file."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest |= changes
    manifest["files"] = {
        file.name: {
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "bytes": file.stat().st_size,
        }
        for file in sorted(folder.iterdir())
        if file != path
    }
    path.write_text(json.dumps(manifest))


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


def graph() -> bytes:
    """Return the ONNX file: opset 13, float tables, dynamic batch and length."""
    labels = _table(LABELS, LABEL_LOGITS)
    tags = _table(TAGS, TAG_LOGITS)
    tags[:, 0] = 3.0
    nodes = [
        _node("Gather", ["labels", "input_ids"], "by_token"),
        _node("Cast", ["attention_mask"], "mask", to=1),
        _node("Unsqueeze", ["mask", "last"], "mask_3d"),
        _node("Mul", ["by_token", "mask_3d"], "seen"),
        _node("ReduceSum", ["seen", "tokens_axis"], "label_logits", keepdims=0),
        _node("Gather", ["tags", "input_ids"], "tag_logits"),
    ]
    constants: dict[str, Table | NDArray[np.int64]] = {
        "labels": labels,
        "tags": tags,
        "last": np.array([2], np.int64),
        "tokens_axis": np.array([1], np.int64),
    }
    inputs = [
        _value(name, 7, ["batch", "tokens"]) for name in ("input_ids", "attention_mask")
    ]
    outputs = [
        _value("label_logits", 1, ["batch", len(LABELS)]),
        _value("tag_logits", 1, ["batch", "tokens", len(TAGS)]),
    ]
    body = b"".join(
        [
            *(_bytes(1, node) for node in nodes),
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
