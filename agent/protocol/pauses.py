"""How long an endpoint asks to be left alone, in all the ways that endpoints do."""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

LONGEST_S = 86_400.0
NUMBER = re.compile(r"[0-9]{1,16}(\.[0-9]{1,12})?")
EPOCH_S, EPOCH_MS = 1e9, 1e12  # a larger number is a date: in seconds, in milliseconds
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
SPAN = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,12})?)(ms|s|m|h|d)")
SPANS = re.compile(rf"(?:{SPAN.pattern})+")
# Gemini's RetryInfo, and OpenAI's "Please try again in 1.2s".
IN_WORDS = re.compile(
    r"(?:retryDelay\W{1,5}|(?:try|retry) again in )([0-9.]{1,12})\s?(ms|s|m)\b"
)
# Of what is used up, a call or a token, OpenAI and others tell when there is more.
RESETS = (
    ("x-ratelimit-reset-requests", "x-ratelimit-remaining-requests"),
    ("x-ratelimit-reset-tokens", "x-ratelimit-remaining-tokens"),
    ("anthropic-ratelimit-requests-reset", "anthropic-ratelimit-requests-remaining"),
    ("anthropic-ratelimit-tokens-reset", "anthropic-ratelimit-tokens-remaining"),
    ("x-ratelimit-reset", "x-ratelimit-remaining"),
    ("ratelimit-reset", "ratelimit-remaining"),
    ("x-ratelimit-reset-after", "x-ratelimit-remaining"),
)


def pause(headers: Mapping[str, str], words: str, now: datetime) -> float | None:
    """Return the seconds that a failure asks us to wait, at most a day; None: none.

    `words` are those of the error. What is asked for in so many words counts before
    what a limit's state suggests (RFC 9110, 10.2.3; and OpenAI's, Anthropic's headers).
    """
    for seconds in _asked(headers, words, now):
        if seconds is not None:
            return min(max(seconds, 0.0), LONGEST_S)
    return None


def _asked(
    headers: Mapping[str, str], words: str, now: datetime
) -> Iterator[float | None]:
    thousandths = headers.get("retry-after-ms", "").strip()
    if NUMBER.fullmatch(thousandths):
        yield float(thousandths) / 1000
    yield _until(headers.get("retry-after"), now)
    match = IN_WORDS.search(words)
    if match and NUMBER.fullmatch(match[1]):
        yield float(match[1]) * UNITS[match[2]]
    yield _reset(headers, now)


def _reset(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return when what is used up is there again; the sooner, if nobody says what."""
    spent: list[float] = []
    others: list[float] = []
    for reset, remaining in RESETS:
        seconds = _until(headers.get(reset), now)
        if seconds is not None:
            left = headers.get(remaining, "").strip()
            (spent if left.partition(".")[0] == "0" else others).append(seconds)
    return max(spent) if spent else min(others, default=None)


def _until(value: str | None, now: datetime) -> float | None:
    """Return the seconds to a time: a number, a span as 1m30s, or a date."""
    if value is None:
        return None
    value = value.strip()
    if NUMBER.fullmatch(value):
        number = float(value)
        if number >= EPOCH_MS:
            return number / 1000 - now.timestamp()
        return number - now.timestamp() if number >= EPOCH_S else number
    if SPANS.fullmatch(value):
        return sum(float(n) * UNITS[unit] for n, unit in SPAN.findall(value))
    return _date(value, now)


def _date(value: str, now: datetime) -> float | None:
    """Return the seconds to a date as HTTP or RFC 3339 writes it; without zone: UTC."""
    for read in (parsedate_to_datetime, datetime.fromisoformat):
        try:
            date = read(value)
        except (ValueError, OverflowError, TypeError):
            continue
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - (
            now.timestamp()
        )
    return None
