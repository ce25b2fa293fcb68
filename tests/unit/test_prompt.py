"""The prompt: what a model is told, and how its answer is read."""

import pytest

from agent.protocol.prompt import parse


@pytest.mark.parametrize(
    "content",
    [
        '{"label": "a"}',
        ' \n{"label": "a"}\n',
        '```json\n{"label": "a"}\n```',
        '```\n{"label": "a"}\n```\n',
    ],
)
def test_parse(content: str) -> None:
    """An answer is read out of blanks and code fences."""
    assert parse(content) == {"label": "a"}


@pytest.mark.parametrize(
    "content",
    ["", "a", "{", '{"label": "a"} and', "[" * 100_000, r'"\ud800"', "NaN", "9" * 9999],
    ids=["nothing", "words", "cut", "more", "deep", "half", "no number", "long"],
)
def test_parse_no_json(content: str) -> None:
    """What is no JSON that could be sent on is a ValueError, whatever it is."""
    with pytest.raises(ValueError, match=" "):
        parse(content)
