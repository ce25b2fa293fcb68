"""The wire: the contract that consumers rely on, byte by byte."""

import base64
import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.types import (
    Decision,
    Entity,
    Form,
    Outcome,
    Prediction,
    Reason,
    Resolved,
    Result,
    Tier,
    Timing,
    Unresolved,
)
from agent.protocol.messages import (
    Topics,
    dead_letter_object,
    ending_payload,
    guess_object,
    iso,
    result_payload,
)
from harness.tiny import unread

GUESS = Prediction(
    Tier.ENCODER,
    "iot_hue_lightoff",
    0.9932349,
    (Entity("house_place", "kitchen", 21, 28, 0.98),),
)
KEYS = [
    "v",
    "id",
    "rev",
    "final",
    "device",
    "pipeline",
    "topic",
    "status",
    "by",
    "label",
    "score",
    "entities",
    "reason",
    "error_bound",
    "model",
    "received_at",
    "ms",
]


def encoded(
    decision: Decision,
    id_: str = "01JD",
    topic: str = "t",
    upstream: Outcome | None = None,
) -> dict[str, Any]:
    """Return a result payload as a consumer parses it."""
    result = Result(
        id=id_,
        device="pi-3",
        pipeline="home",
        topic=topic,
        decision=decision,
        model="home@1.0.0",
        received_at=datetime(2026, 11, 23, 17, 20, 18, 123999, UTC),
        timing=Timing(0.1, 1.94567, 2.4),
        rev=int(upstream is not None),
        upstream=upstream,
    )
    found: dict[str, Any] = json.loads(result_payload(result))
    return found


def test_resolved() -> None:
    """A resolved result is the object of the contract, key by key."""
    assert encoded(Resolved(GUESS, 0.05), topic="home/kitchen/utterance") == {
        "v": 1,
        "id": "01JD",
        "rev": 0,
        "final": True,
        "device": "pi-3",
        "pipeline": "home",
        "topic": "home/kitchen/utterance",
        "status": "resolved",
        "by": "encoder",
        "label": "iot_hue_lightoff",
        "score": 0.9932,
        "entities": [
            {
                "label": "house_place",
                "text": "kitchen",
                "start": 21,
                "end": 28,
                "score": 0.98,
            }
        ],
        "reason": None,
        "error_bound": 0.05,
        "model": "home@1.0.0",
        "received_at": "2026-11-23T17:20:18.123Z",
        "ms": {"queue": 0.1, "predict": 1.946, "total": 2.4},
    }


@pytest.mark.parametrize(
    ("decision", "expected"),
    [
        (
            Unresolved(Reason.LOW_CONFIDENCE, GUESS),
            {"status": "unresolved", "reason": "low_confidence", "by": "encoder"},
        ),
        (
            Unresolved(Reason.MODEL_FAILED),
            {"reason": "model_failed", "by": None, "label": None, "entities": []},
        ),
        (Resolved(GUESS, None), {"status": "resolved", "error_bound": None}),
        (
            Resolved(Prediction(Tier.LINEAR, None, None), None),
            {"by": "linear", "label": None, "score": None, "entities": []},
        ),
    ],
)
def test_other_decisions(decision: Decision, expected: dict[str, Any]) -> None:
    """Unresolved results carry the reason and the best guess; every key is there."""
    found = encoded(decision)
    assert list(found) == KEYS
    assert found | expected == found


@pytest.mark.parametrize("outcome", Outcome)
def test_what_was_a_case_says_what_came_of_it(outcome: Outcome) -> None:
    """Only then there is a key `upstream`; the reason is why nobody here answered."""
    answered = Prediction(Tier.UPSTREAM, "lamp_on", None)
    decision: Decision = Unresolved(Reason.LOW_CONFIDENCE, GUESS)
    if outcome is Outcome.ANSWERED:
        decision = Resolved(answered, None, Reason.LOW_CONFIDENCE)
    found = encoded(decision, upstream=outcome)
    assert list(found) == [*KEYS, "upstream"]
    assert found["upstream"] == outcome.value
    assert (found["reason"], found["rev"]) == ("low_confidence", 1)


@given(st.text(), st.text(), st.text())
def test_any_words_survive_the_wire(id_: str, topic: str, words: str) -> None:
    """Whatever UTF-8 can say arrives as it was sent."""
    guess = Prediction(Tier.ENCODER, "l", 0.5, (Entity("e", words, 0, 1, 0.5),))
    found = encoded(Resolved(guess, None), id_, topic)
    assert (found["id"], found["topic"]) == (id_, topic)
    assert found["entities"][0]["text"] == words


@given(st.binary(max_size=200), st.integers(0, 5))
def test_dead_letter(payload: bytes, cut: int) -> None:
    """It carries what we have of the original, and says what was cut as it was read.

    What is not whole has no hash that could be compared.
    """
    size = len(payload) + cut
    made = unread(payload, 'a","payload":"b', detail="x" * 1000, size=size)
    letter = dead_letter_object(made)
    assert json.loads(ending_payload(made)) == letter
    assert base64.b64decode(letter.pop("payload")) == payload
    assert letter == {
        "v": 1,
        "id": 'a","payload":"b',
        "device": "pi",
        "pipeline": "home",
        "topic": "home/kitchen/utterance",
        "reason": "not_utf8",
        "detail": "x" * 300,
        "truncated": cut > 0,
        "bytes": size,
        "sha256": None if cut else hashlib.sha256(payload).hexdigest(),
        "time": "2026-11-23T17:20:18.123Z",
    }


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05.000Z"),
        (datetime(2026, 1, 2, 3, 4, 5, 999999, UTC), "2026-01-02T03:04:05.999Z"),
        (
            datetime(2026, 1, 2, 3, 4, tzinfo=timezone(timedelta(hours=8))),
            "2026-01-01T19:04:00.000Z",
        ),
    ],
)
def test_iso(moment: datetime, text: str) -> None:
    """Times are RFC 3339 in UTC with milliseconds."""
    assert iso(moment) == text


def test_topics() -> None:
    """The names under slm/<device>/ are those of the contract."""
    topics = Topics("pi-3")
    assert topics.status == "slm/pi-3/status"
    assert topics.birth == "slm/pi-3/birth"
    assert topics.health == "slm/pi-3/health"
    assert topics.alert("id_taken_over") == "slm/pi-3/alert/id_taken_over"
    assert topics.result("home") == "slm/pi-3/result/home"
    assert topics.dead_letter("home") == "slm/pi-3/deadletter/home"


@pytest.mark.parametrize("vocabulary", [Reason, Tier, Outcome])
def test_vocabulary(vocabulary: type[Reason | Tier | Outcome]) -> None:
    """Words on the wire are plain snake case, the lower-cased name of the member."""
    for word in vocabulary:
        assert word.value == word.name.lower()


@pytest.mark.parametrize(
    ("ruled", "forms", "form"),
    [
        ((), (), None),
        ((Form.QUESTION,), (), "question"),
        ((), (0.9, 0.1, 0, 0, 0, 0, 0), None),
        ((Form.STATEMENT,), (0.1, 0.9, 0, 0, 0, 0, 0), "negated"),  # the gravest
        ((), (0, 0, 0, 0, 0, 0, 1.0), "conditional"),  # what is wanted later
    ],
)
def test_the_form_is_told_where_it_is_no_plain_request(
    ruled: tuple[Form, ...], forms: tuple[float, ...], form: str | None
) -> None:
    """A result tells the form of the utterance, and has no such key otherwise."""
    told = guess_object(replace(GUESS, ruled=ruled, forms=forms))
    assert told.get("form") == form
    assert ("form" in told) == (form is not None)
