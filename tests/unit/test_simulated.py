"""The demo's upstream: what it knows by heart, also through redaction."""

import json
from typing import Any

import httpx
import pytest

from agent.cli.simulated import answer, simulated
from agent.evaluation.examples import Example, Span
from agent.protocol.cases import Request, checked
from agent.protocol.prompt import messages

KNOWN = [
    Example(
        text="call Anna (home) at 9 pm",
        label="call",
        spans=(Span(start=5, end=9, label="who"), Span(start=20, end=24, label="when")),
    ),
    Example(text="turn it on", label="on", spans=()),
]
NOTHING: dict[str, Any] = {"label": None, "entities": []}


@pytest.mark.parametrize(
    ("text", "label", "words"),
    [
        ("call Anna (home) at 9 pm", "call", ["Anna", "9 pm"]),
        ("call [PERSON_1] (home) at 9 pm", "call", ["[PERSON_1]", "9 pm"]),
        (
            "call [PERSON_1] (home) at [DATE_TIME_1]",
            "call",
            ["[PERSON_1]", "[DATE_TIME_1]"],
        ),
        ("call Bob (home) at 9 pm", None, []),
        ("call Anna (home) at 9 pm!", None, []),
        ("", None, []),
        ("turn it on", "on", []),
        ("(.*)", None, []),
    ],
)
def test_it_knows_some_texts(text: str, label: str | None, words: list[str]) -> None:
    """A text, or its redacted form, is answered in its own words; others are not."""
    said = answer(text, KNOWN)
    assert said["label"] == label
    assert [entity["text"] for entity in said["entities"]] == words
    names = {"call": "", "on": ""}
    request = Request(
        id="1",
        device="d",
        pipeline="p",
        text=text,
        deadline_ms=1,
        labels=names,
        entities={"who": "", "when": ""},
    )
    assert checked(said, request).label == label


def test_it_answers_over_http_and_counts() -> None:
    """It speaks as an OpenAI-compatible endpoint does, usage included."""
    request = Request(
        id="1",
        device="d",
        pipeline="p",
        deadline_ms=1,
        text="turn it on",
        labels={"on": ""},
    )
    with simulated(KNOWN) as serving:
        for _ in range(2):
            answered = httpx.post(
                f"{serving.url}/chat/completions", json={"messages": messages(request)}
            ).json()
    content = answered["choices"][0]["message"]["content"]
    assert json.loads(content) == {"label": "on", "entities": []}
    assert serving.calls == 2
    assert serving.tokens_in == 2 * answered["usage"]["prompt_tokens"] > 0
    assert answer("anything", []) == NOTHING
