"""JSON as RFC 8259 has it: no NaN, no infinities, not even as a number too large.

Python reads and writes them; other programs would choke on what we echo.
"""

from typing import Any

from pydantic_core import from_json, to_json


def strict_json(data: bytes) -> Any:
    """Return what bytes say as JSON; raises ValueError.

    Also for what nests too deep, and for half a character (a lone surrogate).
    """
    value = from_json(data, allow_inf_nan=False)
    if b"e" in data or b"E" in data:  # 1e999 is infinity, by another name
        from_json(to_json(value), allow_inf_nan=False)
    return value
