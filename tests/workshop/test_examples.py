"""What is read from labelled data, and what the network is told of it."""

import json
import random
from pathlib import Path

import pytest

from agent.core.errors import ConfigError
from agent.evaluation.examples import Example, Span, read_examples
from agent.workshop.data.augmentation import pool, swap
from agent.workshop.data.catalogue import catalogue
from agent.workshop.data.recipe import SHIPPED, find_recipe, read_any

LAMP = Example(
    text="turn on the kitchen lamp",
    label="on",
    spans=(Span(start=12, end=19, label="place"),),
)


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        '{"label": "a"}',
        '{"text": "abc", "spans": [{"start": 1, "end": 9, "label": "x"}]}',
        '{"text": "abc", "spans": [{"start": 2, "end": 2, "label": "x"}]}',
    ],
)
def test_bad_line_is_named(line: str, tmp_path: Path) -> None:
    """A line that cannot be meant is an operator's error, with file and line."""
    path = tmp_path / "train.jsonl"
    path.write_text('{"text": "fine", "label": "a"}\n' + line)
    with pytest.raises(ConfigError, match=r"train\.jsonl:2"):
        read_examples(path)


def test_catalogue_is_sorted() -> None:
    """Labels and entities have one order, whatever the order of the data."""
    other = Example(text="x", label="a")
    assert catalogue([LAMP, other]) == catalogue([other, LAMP])
    assert catalogue([LAMP, other]).tags == 3


def test_outermost_span_wins() -> None:
    """Of nested spans the outer one is taught: BIO tags cannot say both."""
    inner, outer = (
        Span(start=4, end=8, label="b"),
        Span(start=0, end=8, label="a"),
    )
    example = Example(text="old pump broken", spans=(inner, outer))
    assert example.outermost() == [outer]


def test_outside_is_no_label() -> None:
    """The label of what is out of scope is the class behind all others."""
    known = catalogue([LAMP, Example(text="x", label="none")], outside="none")
    assert known.labels == ("on",)
    assert known.classes == 2
    assert known.index("none") == 1
    with pytest.raises(ConfigError, match="neither labels nor spans"):
        catalogue([Example(text="x", label="none")], outside="none")


def test_swap_keeps_spans_exact() -> None:
    """An exchanged entity has the offsets of its own text."""
    den = Example(
        text="the living room is dark", spans=(Span(start=4, end=15, label="place"),)
    )
    others = pool([LAMP, den])
    seen = set()
    for seed in range(20):
        found = swap(LAMP, others, random.Random(seed))  # noqa: S311
        [span] = found.spans
        seen.add(found.text[span.start : span.end])
        assert found.text.startswith("turn on the ")
        assert found.text.endswith(" lamp")
    assert seen == {"kitchen", "living room"}


def test_shipped_recipes_are_valid() -> None:
    """Every recipe we ship can be read and found by its name."""
    for path in SHIPPED.glob("*.toml"):
        assert read_any(find_recipe(path.stem)).about.name == path.stem


def test_unknown_recipe_names_the_known() -> None:
    """A wrong name is answered with the right ones."""
    with pytest.raises(ConfigError, match="home"):
        find_recipe("hoem")


def test_trimmed_tokenizer_spells_the_same(encoder_package: Path) -> None:
    """Texts it was made for keep their pieces; others are still spelt."""
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = pytest.importorskip("agent.workshop.data.vocabulary")
    path = encoder_package / "tiny_encoder" / "model" / "tokenizer.json"
    whole = tokenizers.Tokenizer.from_file(str(path))
    text = "turn on the kitchen lamp"
    trimmed = vocabulary.trim(whole, [text], frequent=0)
    assert trimmed.tokenizer.encode(text).tokens == whole.encode(text).tokens
    assert trimmed.tokenizer.get_vocab_size() == len(trimmed.rows)
    assert "seldom" not in trimmed.tokenizer.get_vocab()
    assert trimmed.tokenizer.encode("seldom").tokens[1] == "s"
    old = json.loads(whole.to_str())["model"]["vocab"]
    new = trimmed.tokenizer.get_vocab()
    assert all(trimmed.rows[new[piece]] == old[piece] for piece in new)


def test_rare_pieces_are_spelt(encoder_package: Path) -> None:
    """A piece that the texts have less than `least` times is left out and spelt."""
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = pytest.importorskip("agent.workshop.data.vocabulary")
    path = encoder_package / "tiny_encoder" / "model" / "tokenizer.json"
    whole = tokenizers.Tokenizer.from_file(str(path))
    texts = ["turn on the lamp", "turn off the lamp", "the lamp"]
    trimmed = vocabulary.trim(whole, texts, frequent=0, least=2).tokenizer
    kept = trimmed.get_vocab()
    assert {"turn", "the", "lamp"} <= kept.keys()
    assert not {"on", "off"} & kept.keys()
    assert trimmed.encode("turn off the lamp").tokens[1:-1] == [
        "turn",
        "o",
        "##f",
        "##f",
        "the",
        "lamp",
    ]
