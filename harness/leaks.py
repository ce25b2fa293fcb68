"""What of a text is left in what leaves a device."""

import json
import re
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from agent.core.types import Entity
from agent.escalation.occurrences import word_edges
from agent.escalation.privacy_gate import Finder, Redacted
from agent.inference.bundle import open_bundle

REPOSITORY = Path(__file__).resolve().parents[1]
HERE = REPOSITORY / "tests" / "unit"
SHIPPED = REPOSITORY / "models" / "privacy"


@cache
def finder() -> Finder:
    """Return the finder that ships."""
    return Finder(open_bundle(SHIPPED, 1))


def fragments(text: str, hidden: Redacted) -> list[str]:
    """Return what is left of a text beside the placeholders."""
    names = [re.escape(name) for name in hidden.hidden]
    return re.split("|".join(names), text) if names else [text]


@cache
def stands(words: str, text: str) -> bool:
    """Tell whether words stand in a text: the rule, tried at every place."""
    long = len(words) >= 4
    if long and words in text:
        return True
    edges = word_edges(text)
    sought = words.casefold() if long else words
    return any(
        (text[a:b].casefold() if long else text[a:b]) == sought
        for i, a in enumerate(edges)
        for b in edges[i + 1 : i + 1 + len(sought)]
    )


def values(found: Sequence[Entity]) -> set[str]:
    """Return the words of finds."""
    return {entity.text.strip() for entity in found} - {""}


def strings(value: Any) -> Iterator[str]:
    """Yield every string in a document, keys as well."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from (key, *strings(inner))
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


def spellings(words: str) -> set[str]:
    """Return the ways in which JSON, and JSON within JSON, can spell words."""
    once = {json.dumps(words, ensure_ascii=a)[1:-1] for a in (True, False)}
    twice = {json.dumps(o, ensure_ascii=a)[1:-1] for o in once for a in (True, False)}
    return {words, *once, *twice}


def every_word(text: str) -> list[Entity]:
    """Return a guess that takes every word, and the whole, for something."""
    edges = word_edges(text)
    spans = [*pairwise(edges), (0, len(text))]
    return [Entity("thing", text[a:b], a, b, 0.25) for a, b in spans]
