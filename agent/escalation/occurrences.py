"""Where given words stand in a text, in time linear in both, however hostile."""

import re
import unicodedata
from collections.abc import Container, Iterable, Iterator, Sequence
from functools import lru_cache

# Thai to Myanmar, Khmer, Chinese to Korean and beyond: words without spaces.
_UNSPACED = re.compile("[\u0e00-\u109f\u1780-\u17ff\u2e80-\U0010ffff]")

Pattern = tuple[Sequence[str], str]  # what is looked for, and a value for it


def word_edges(text: str, cuts: Container[int] = ()) -> list[int]:
    """Return where words begin, and the end of the text.

    Letters and digits side by side are a word, unless it is cut; every other character
    is one of its own, and so is every letter of a script without spaces. Upper and
    lower case make no difference to it.
    """
    edges = []
    before = False
    for place, char in enumerate(text):
        joins = _joins(char)
        if not (joins and before) or place in cuts:
            edges.append(place)
        before = joins
    return [*edges, len(text)]


@lru_cache(maxsize=4096)
def _joins(char: str) -> bool:
    """Tell whether a character and its like are one word."""
    folded = char.casefold()[0]
    return not _UNSPACED.match(folded) and (
        folded.isalnum() or folded == "_" or unicodedata.category(folded)[0] == "M"
    )


def occurrences(
    patterns: Iterable[Pattern], symbols: Sequence[str]
) -> Iterator[tuple[int, int, str]]:
    """Yield for each place the longest pattern that ends there: start, end, value.

    Patterns are sequences of symbols: characters, or whole words. Of two that are the
    same the first counts. Aho and Corasick, Efficient String Matching (1975).
    """
    trie = _Trie(patterns)
    node = 0
    for end, symbol in enumerate(symbols, 1):
        node = trie.after(node, symbol)
        length, value = trie.best[node]
        if length:
            yield end - length, end, value


class _Trie:
    """Patterns by their beginnings; node 0 is nothing, `best` what a node ends with."""

    def __init__(self, patterns: Iterable[Pattern]) -> None:
        self.best = [(0, "")]  # length and value
        self._next: dict[tuple[int, str], int] = {}
        self._behind = [0]  # the longest other node that a node ends with
        self._depths = [0]
        for pattern, value in patterns:
            self._add(pattern, value)
        # What is behind a node is less deep: in this order it is always known.
        steps = sorted(self._next.items(), key=lambda step: self._depths[step[1]])
        for (parent, symbol), node in steps:
            if parent:
                self._behind[node] = self.after(self._behind[parent], symbol)
            if not self.best[node][0]:
                self.best[node] = self.best[self._behind[node]]

    def after(self, node: int, symbol: str) -> int:
        """Return the node to be in after one more symbol."""
        while node and (node, symbol) not in self._next:
            node = self._behind[node]
        return self._next.get((node, symbol), 0)

    def _add(self, pattern: Sequence[str], value: str) -> None:
        node = 0
        for depth, symbol in enumerate(pattern, 1):
            step = (node, symbol)
            if step not in self._next:
                self._next[step] = len(self.best)
                self.best.append((0, ""))
                self._behind.append(0)
                self._depths.append(depth)
            node = self._next[step]
        if not self.best[node][0]:
            self.best[node] = (len(pattern), value)
