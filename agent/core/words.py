"""Show foreign text to people: safe for a terminal, and without secrets."""

import difflib
import re
from collections.abc import Iterable

LONGEST_SHOWN = 80  # characters of a value
# The value of such a key may be a secret, and errors are written to the journal.
SECRET = re.compile(
    r"(^|\.)(\w*(pass|secret)\w*|(\w+_)?(token|key|keys|credentials?)|auth\w*|login"
    r"|options|urls?|api_base)(_files?)?($|[.:])",
    re.IGNORECASE,
)
USER_INFO = re.compile(r"://[^/\s]*@")


def printable(text: str) -> str:
    """Return a text in one line, without characters that control a terminal."""
    return "".join(
        char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text
    )


def nearest(word: str, names: Iterable[str]) -> str:
    """Return `, did you mean 'NAME'?` with the nearest name; empty if none is near."""
    matches = difflib.get_close_matches(word, list(names), n=1, cutoff=0.5)
    return f", did you mean {matches[0]!r}?" if matches else ""


def quoted(key: str, value: object) -> str:
    """Return a value as the end of a sentence; empty if it may be a secret.

    Tables and lists are not shown, because they may hold secrets.
    """
    shown = "" if SECRET.search(key) else _shown(value)
    return f" (it is {shown})" if shown else ""


def _shown(value: object) -> str:
    match value:
        case str() if USER_INFO.search(value):
            return ""
        case str():
            more = " ..." if len(value) > LONGEST_SHOWN else ""
            return f"{value[:LONGEST_SHOWN]!r}{more}"
        case bool():
            return str(value).lower()
        case float():
            return str(value)
        case int():
            return _number(value)
        case _:
            return ""


def _number(value: int) -> str:
    """Show a number of any length: Python refuses to write out very long ones."""
    bits = value.bit_length()
    return str(value) if bits <= LONGEST_SHOWN else f"a number of {bits} bits"
