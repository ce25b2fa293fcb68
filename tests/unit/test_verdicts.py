"""The table of verdicts: what responses mean, without a network."""

import gzip
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.protocol.cases import LONGEST_ANSWER, Request, checked
from agent.protocol.verdicts import Kind, Response, Verdict, judged
from harness.endpoints import DECOY, GOOD, ROWS, TEXT, Row, error, says

NOW = datetime(2026, 12, 1, tzinfo=UTC)
ASKED = Request(
    id="m-1",
    device="pi",
    pipeline="home",
    text=TEXT,
    labels={"light_on": "turn on", "light_off": "turn off"},
    entities={"place": "where"},
    deadline_ms=1,
)


def verdict(row: Row) -> Verdict:
    """Return what a row means."""
    head = {name.lower(): value for name, value in row.says.head.items()}
    return judged(Response(row.status, head, row.body), ASKED, NOW)


def test_the_table_is_large() -> None:
    """There are enough rows for the ways of endpoints, each with a name of its own."""
    assert len(ROWS) >= 60
    assert len({row.name for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_row(row: Row) -> None:
    """Each response means what the table says, and tells nothing of the text."""
    found = verdict(row)
    assert found.kind is row.kind, found.why
    assert row.why in found.why
    assert TEXT not in found.why
    if row.kind is Kind.ANSWER:
        assert found.answer == GOOD
        assert checked(found.answer, ASKED).label == "light_on"
    elif row.kind is Kind.FORM:
        assert found.part == row.part
    elif row.kind is Kind.UNAVAILABLE:
        assert found.maybe_paid is row.maybe_paid
        if row.pause_s is not None:
            assert found.pause_s == pytest.approx(row.pause_s)
    assert found.answer != DECOY


def test_a_body_without_an_end() -> None:
    """What is larger than an answer may be is none, and may have been paid."""
    found = judged(Response(200, {}, b"x" * (LONGEST_ANSWER + 1)), ASKED, NOW)
    assert (found.kind, found.maybe_paid) == (Kind.UNAVAILABLE, True)


@pytest.mark.parametrize("text", ["my API key is over quota", "json_schema"])
def test_what_a_message_says_explains_nothing(text: str) -> None:
    """An error that quotes the message is not taken for what the message is about."""
    asked = ASKED.model_copy(update={"text": text})
    response = Response(400, {}, error(f"cannot do: {text}"))
    assert judged(response, asked, NOW).kind is Kind.REJECTED


def test_codes_are_no_text() -> None:
    """A code is told where it is surely one, and not what a message might say."""
    for body, why in (
        (error("x", code="model_gone"), "status 500 (model_gone)"),
        (error("x", code="turn it off"), "status 500"),
        (error("x", code="lamp"), "status 500"),
        (error("x", code=401), "status 500"),
        (b"[1]", "status 500"),
    ):
        found = judged(Response(500, {}, body), ASKED, NOW)
        assert found.why.partition(":")[0] == why


def test_usage() -> None:
    """Tokens and cost are read where they are told, and nonsense is none."""
    told = judged(Response(200, {}, says("{}")), ASKED, NOW).usage
    assert (told.input_tokens, told.output_tokens, told.cost) == (11, 3, None)
    for cost, expected in (("1.2e-05", 1.2e-5), ("None", None), ("inf", None)):
        head = {"x-litellm-response-cost": cost}
        assert (
            judged(Response(200, head, says("{}")), ASKED, NOW).usage.cost == expected
        )


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *(
                        "choices",
                        "message",
                        "content",
                        "error",
                        "code",
                        "usage",
                        "text",
                    ),
                    *("tool_calls", "function", "arguments", "detail", "model", "type"),
                    *("finish_reason", "refusal", "reasoning_content", "prompt_tokens"),
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=30,
)


@given(
    JUNK,
    st.sampled_from([200, 204, 301, 400, 404, 422, 429, 500, 503, 599]),
    st.dictionaries(
        st.sampled_from(["retry-after", "retry-after-ms", "x-ratelimit-reset"])
        | st.sampled_from(["content-encoding", "content-type"]),
        st.text(max_size=9) | st.sampled_from(["gzip", "deflate", "1e9", "text/html"]),
    ),
)
def test_whatever_comes(document: Any, status: int, head: dict[str, str]) -> None:
    """No body, status or header is more than the verdicts can bear."""
    body = json.dumps(document).encode()
    for sent in (body, body[: len(body) // 2], gzip.compress(body), b"\xff" + body):
        found = judged(Response(status, head, sent), ASKED, NOW)
        if found.kind is not Kind.UNAVAILABLE:
            json.dumps(found.answer).encode()
