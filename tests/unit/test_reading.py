"""The lenient reader: the JSON of an answer, whatever stands around it."""

import json
import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.protocol.reading import read_answer, spoken

KEYS = ("label", "entities")
ON, OFF = '{"label": "on"}', '{"label": "off"}'


@pytest.mark.parametrize(
    "said",
    [
        ON,
        f" \n{ON}\n",
        f"\ufeff{ON}",
        f"```json\n{ON}\n```",
        f"```\n{ON}",
        f"Sure: {ON}. Anything else?",
        f"<think>{OFF}</think>{ON}",
        f"<think>{OFF}{ON}",
        f"{OFF}</think>{ON}",
        f"<think><think>{OFF}</think>{OFF}</think>{ON}",
        f"First {OFF}, but no: {ON}",
        f"{{x}} {ON} {{y",
        f"[{ON}]",
        json.dumps(ON),
        json.dumps({"result": {"label": "on"}}),
        f'{{"type": "object"}} {ON}',
    ],
)
def test_read(said: str) -> None:
    """The answer is found, and nothing that the model only thought of."""
    if said.startswith("<think>") and "</think>" not in said:
        with pytest.raises(ValueError, match="nothing is said"):
            read_answer(said, KEYS)
    else:
        assert read_answer(said, KEYS) == {"label": "on"}


def test_what_is_quoted_is_no_mark() -> None:
    """An answer that quotes a closing tag of the message is read as it is."""
    answer = {"label": "on", "entities": [{"label": "x", "text": "a</think>b"}]}
    assert read_answer(json.dumps(answer), KEYS) == answer


@pytest.mark.parametrize(
    "said",
    [
        "",
        "a",
        "{",
        f"{ON} or {OFF}",
        "[" * 100_000,
        "9" * 9999,
        "NaN",
        r'"\ud800"',
        '{"label": NaN} and',
        r'{"label": "\ud800"} and',
        "<think>",
        "</think>",
        f"{OFF}<think>a</think>b</think>",
    ],
)
def test_none(said: str) -> None:
    """What is no JSON that could be sent on, or is two, is a ValueError."""
    with pytest.raises(ValueError, match=" "):
        read_answer(said, KEYS)


@given(st.text(), st.text())
def test_whatever_stands_around(before: str, behind: str) -> None:
    """Words without a brace around an answer never hide it, nor break the reader."""
    around = [before, behind]
    if any(sign in text for text in around for sign in '{}[]<>"|◁'):
        return
    assert read_answer(f"{before} {ON} {behind}", KEYS) == {"label": "on"}


@given(st.text(alphabet='{}[]"<>/:,\\ thinkabel1\n`|'))
def test_never_anything_but_a_value_or_a_value_error(said: str) -> None:
    """Whatever comes, there is an answer to check, or a ValueError."""
    try:
        json.dumps(read_answer(said, KEYS))
    except ValueError:
        return


@pytest.mark.parametrize(
    "piece",
    [
        '{"a":',
        '{"a ',
        '{"a":1,',
        "<think>",
        "</think>",
        "<|channel|>analysis",
        "{ ",
        "<think ",
        '\\"',
        "[",
        '{"label":{}} ',
    ],
)
def test_in_linear_time(piece: str) -> None:
    """A million characters made to be slow take no second."""
    said = '{"x":"' + piece * (10**6 // len(piece))
    began = time.process_time()
    with suppress(ValueError):
        read_answer(said, KEYS)
    spoken(said)
    assert time.process_time() - began < 2
