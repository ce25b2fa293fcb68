"""How long endpoints ask to be left alone."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from agent.protocol.pauses import LONGEST_S, pause

NOW = datetime(2026, 12, 1, 12, 0, tzinfo=UTC)
LATER = NOW + timedelta(seconds=90)


@pytest.mark.parametrize(
    ("head", "seconds"),
    [
        ({"retry-after": "0"}, 0),
        ({"retry-after": "120"}, 120),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"retry-after": "1m30s"}, 90),
        ({"retry-after": "999999999"}, LONGEST_S),
        ({"retry-after": format_datetime(LATER, usegmt=True)}, 90),
        ({"retry-after": "Tuesday, 01-Dec-26 12:01:30 GMT"}, 90),
        ({"retry-after": "Tue Dec  1 12:01:30 2026"}, 90),
        ({"retry-after": "2026-12-01T12:01:30Z"}, 90),
        ({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, LONGEST_S),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "1"}, 1),
        ({"x-ratelimit-reset": "30"}, 30),
        ({"x-ratelimit-reset": str(int(LATER.timestamp()))}, 90),
        ({"x-ratelimit-reset": str(int(LATER.timestamp() * 1000))}, 90),
        ({"x-ratelimit-reset-requests": "6m0s"}, 360),
        ({"x-ratelimit-reset-requests": "20ms"}, 0.02),
        ({"x-ratelimit-reset-requests": "9s", "x-ratelimit-reset-tokens": "3s"}, 3),
        (
            {
                "x-ratelimit-reset-requests": "9s",
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-tokens": "3s",
                "x-ratelimit-remaining-tokens": "100",
            },
            9,
        ),
        ({"anthropic-ratelimit-requests-reset": "2026-12-01T12:01:30Z"}, 90),
        ({"x-ratelimit-reset": "30", "retry-after": "7"}, 7),
    ],
)
def test_pause(head: dict[str, str], seconds: float) -> None:
    """A pause is asked for by a number, a span or a date, in several headers."""
    assert pause(head, "", NOW) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        ("Please try again in 1.2s. Visit", 1.2),
        ("Please try again in 20ms.", 0.02),
        ("try again in 2m", 120),
        ('"retryDelay": "36s"', 36),
        ("try again in a while", None),
    ],
)
def test_in_words(words: str, seconds: float | None) -> None:
    """Some say it in the words of the error."""
    found = pause({}, words, NOW)
    assert found == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    "said", ["", "soon", "-1", "nan", "inf", "1e9", "\u0661", "1 Jan", "31 Foo 1", "1x"]
)
def test_no_pause(said: str) -> None:
    """What is no time asks for nothing."""
    assert pause({"retry-after": said, "x-ratelimit-reset": said}, "", NOW) is None
