"""JSON from outside: what Python would read and no other program would."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import to_json

from agent.protocol.strict_json import strict_json

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**62), 2**62)
    | st.text()
    # Reading must keep a float to the bit.
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES)
def test_json_is_read_as_it_is(value: object) -> None:
    """What other programs write comes back as it was."""
    assert strict_json(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    "text",
    [
        "NaN",
        "Infinity",
        "-Infinity",
        "[NaN]",
        '{"a": -Infinity}',
        "1e999",
        "-1E999",
        '{"a": [1e400]}',
        "1" * 5000,
        '"\\ud800"',
        "[" * 100_000,
        "",
        "{",
        "'a'",
        "\ufeff1",
    ],
)
def test_what_nobody_else_could_read(text: str) -> None:
    """NaN, infinities under any name, half characters and endless depth are refused."""
    with pytest.raises(ValueError, match=r".+"):
        strict_json(text.encode())


@given(st.binary())
def test_whatever_comes(data: bytes) -> None:
    """It is refused, or can be written again for anybody to read."""
    try:
        value = strict_json(data)
    except ValueError:
        return
    json.loads(to_json(value), parse_constant=lambda word: math.nan if word else None)
    assert b"Infinity" not in to_json(value) or b"Infinity" in data
