"""A tiny pretrained encoder and a tiny data set, made here: training takes seconds."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.workshop.data.recipe import Recipe

TEMPLATES = (
    ("lamp_on", "turn on the {lamp} lamp", "lamp"),
    ("lamp_off", "turn off the {lamp} lamp please", "lamp"),
    ("alarm_set", "wake me at {time}", "time"),
    ("alarm_query", "is there an alarm at {time} ?", "time"),
)
WORDS = {
    "lamp": (
        "kitchen",
        "bed room",
        "green",
        "old desk",
        "hall",
        "red",
        "big garden",
        "left",
        "attic",
        "new floor",
        "blue",
        "cellar",
    ),
    "time": (
        "seven",
        "half past six",
        "noon",
        "ten o'clock",
        "two",
        "five thirty",
        "midnight",
        "a quarter to nine",
        "eleven",
        "dawn",
        "eight sharp",
        "one",
    ),
}
# Another domain, whose words are spelt: what teaches and what validates are others.
STRANGE = {
    "train": ("my card was refused", "where is my refund", "the bank owes me money"),
    "valid": ("the card is blocked", "a refund has not come", "my bank wants money"),
}
LETTERS = "abcdefghijklmnopqrstuvwxyz'?"
LONG = "turn on the kitchen lamp and " * 20 + "wake me at seven"


def _example(chance: random.Random) -> dict[str, object]:
    label, template, entity = chance.choice(TEMPLATES)
    words = chance.choice(WORDS[entity])
    start = template.index("{")
    text = template.replace(f"{{{entity}}}", words)
    span = {"start": start, "end": start + len(words), "label": entity}
    return {"text": text, "label": label, "spans": [span]}


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with train.jsonl and valid.jsonl of four intents.

    Below it, `other/` has texts of another domain.
    """
    folder = tmp_path_factory.mktemp("data")
    (folder / "other").mkdir()
    chance = random.Random(0)  # noqa: S311
    for name, size in (("train", 240), ("valid", 200)):
        lines = [json.dumps(_example(chance)) for _ in range(size)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
        other = [json.dumps({"text": t, "label": "bank"}) for t in STRANGE[name]]
        (folder / "other" / f"{name}.jsonl").write_text("\n".join(other))
    return folder


@pytest.fixture(scope="session")
def encoder_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the package `tiny_encoder`, to be put on the path."""
    transformers = pytest.importorskip("transformers", reason="extra `workshop`")
    tokenizers = pytest.importorskip("tokenizers")
    torch = pytest.importorskip("torch", reason="extra `workshop`")
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
    torch.manual_seed(0)
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return root


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Keep tiny matrices on one core: sharing them out costs more than they do."""
    torch = pytest.importorskip("torch", reason="extra `workshop`")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny(encoder_package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the tiny encoder importable."""
    monkeypatch.syspath_prepend(encoder_package)


@pytest.fixture(scope="session")
def recipe() -> Callable[..., Recipe]:
    """Return what makes a recipe of the tiny encoder, with the given sections."""

    def make(training: dict[str, Any] | None = None, **sections: Any) -> Recipe:
        about = {
            "name": "tiny",
            "version": "0.1.0",
            "description": "A test.",
            "licence": "none",
            "sources": ["made by the test"],
        }
        schedule = {
            "epochs": 8,
            "batch": 16,
            "encoder_rate": 3e-3,
            "head_rate": 3e-3,
            "averaging": 0.9,
            "masked": 0.02,
        }
        pretrained = {"package": "tiny_encoder", "max_tokens": 32, "stride": 8}
        content = {
            "about": about,
            "pretrained": pretrained,
            "vocabulary": {"frequent": 5},
            "training": {**schedule, **(training or {})},
            "forms": {"made": 200},
            "probes": ["turn on the kitchen lamp", "wake me at noon", LONG, "\u2603!"],
            **sections,
        }
        return Recipe.model_validate(content)

    return make


@pytest.fixture(scope="session")
def cascade(recipe: Callable[..., Recipe]) -> Recipe:
    """Return the recipe of a bundle that has all there can be."""
    other = {"file": "other/{split}.jsonl", "source": "texts of our own; CC0"}
    return recipe(
        outside={"others": [other], "share": 0.3},
        linear={"bits": 10, "epochs": 5},
        patterns=["EMAIL_ADDRESS"],
    )


@pytest.fixture(scope="session")
def built(
    encoder_package: Path,
    data: Path,
    cascade: Recipe,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Return the bundle of `cascade`, trained once."""
    pytest.importorskip("onnx", reason="the extra `workshop` is not installed")
    from agent.workshop.bundle.building import train_bundle  # noqa: PLC0415  needs torch

    out = tmp_path_factory.mktemp("models") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(encoder_package)
        train_bundle(cascade, data, out, lambda *_: None)
    return out
