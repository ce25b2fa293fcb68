"""A tiny pretrained encoder and a tiny data set, made here: training takes seconds."""

import json
import random
from pathlib import Path

import pytest

TEMPLATES = (
    ("lamp_on", "turn on the {lamp} lamp", "lamp"),
    ("lamp_off", "turn off the {lamp} lamp please", "lamp"),
    ("alarm_set", "wake me at {time}", "time"),
    ("alarm_query", "is there an alarm at {time} ?", "time"),
)
WORDS = {
    "lamp": ("kitchen", "bed room", "green", "old desk"),
    "time": ("seven", "half past six", "noon", "ten o'clock"),
}
LETTERS = "abcdefghijklmnopqrstuvwxyz'?"


def _example(chance: random.Random) -> dict[str, object]:
    label, template, entity = chance.choice(TEMPLATES)
    words = chance.choice(WORDS[entity])
    start = template.index("{")
    text = template.replace(f"{{{entity}}}", words)
    span = {"start": start, "end": start + len(words), "label": entity}
    return {"text": text, "label": label, "spans": [span]}


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with train.jsonl and valid.jsonl of four intents."""
    folder = tmp_path_factory.mktemp("data")
    chance = random.Random(0)  # noqa: S311
    for name, size in (("train", 240), ("valid", 60)):
        lines = [json.dumps(_example(chance)) for _ in range(size)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="session")
def encoder_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the package `tiny_encoder`, to be put on the path."""
    transformers = pytest.importorskip("transformers", reason="extra `workshop`")
    tokenizers = pytest.importorskip("tokenizers")
    root = tmp_path_factory.mktemp("packages")
    folder = root / "tiny_encoder" / "model"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    words = sorted({word for _, text, _ in TEMPLATES for word in text.split()})
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]", *words]
    pieces += [*LETTERS, *(f"##{letter}" for letter in LETTERS), "seldom", "\u65e5"]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = tokenizers.BertWordPieceTokenizer(vocabulary)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=64,
    )
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return root
