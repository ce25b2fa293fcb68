"""The operator's regular expressions, on words that a sender chose: linear time only.

RE2 never goes back in a text: what it cannot do in one pass (look-around, references to
a group) it does not compile. Python's own engine may take hours for thirty characters,
and holds the interpreter's lock meanwhile.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import re2

LONGEST = 1000  # characters that a find may have in a text longer than twice that


@dataclass(frozen=True, slots=True)
class Expression:
    """A compiled expression; any thread may use it."""

    _compiled: Any

    def is_whole(self, words: str) -> bool:
        """Tell whether the words match from beginning to end."""
        return self._compiled.fullmatch(words) is not None

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield where it matches, nothing empty; in windows, where a text is long.

        Each search is linear in what it sees, but there may be one for each character:
        a window bounds them all. A place may come twice.
        """
        for start in range(0, max(1, len(text) - LONGEST), LONGEST):
            end = min(len(text), start + 2 * LONGEST)
            for match in self._compiled.finditer(text, start, end):
                if match.end() > match.start():
                    yield match.span()


def compiled(pattern: str) -> Expression:
    """Compile a pattern in RE2's syntax; raises ValueError, with what it refuses."""
    options = re2.Options()
    options.log_errors = False
    try:
        return Expression(re2.compile(pattern, options))
    except re2.error as error:
        [reason] = error.args
        message = reason.decode() if isinstance(reason, bytes) else str(reason)
        raise ValueError(
            f"is no regular expression that RE2 knows: {message}; look-around (?=..) "
            "and back-references \\1 have no linear time, the end of the text is \\z"
        ) from error
