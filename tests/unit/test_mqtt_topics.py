"""Filters, shares and patience: the pure parts of the MQTT modules."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.mqtt.link import backoff
from agent.mqtt.topic_filters import (
    checked_base,
    checked_filter,
    checked_topic,
    matches,
    number_of,
    overlap,
    split_share,
)
from agent.protocol.homeassistant import discovery_topic

LEVEL = st.sampled_from(["", "a", "b", "$x"])


@pytest.mark.parametrize(
    ("topic", "group", "plain"),
    [
        ("home/+/utterance", None, "home/+/utterance"),
        ("$share/pool/home/+/utterance", "pool", "home/+/utterance"),
        ("$share/pool/#", "pool", "#"),
        ("$share/pool//a", "pool", "/a"),
        ("$share/pool", None, "$share/pool"),
        ("$share/pool/", None, "$share/pool/"),
        ("$share//home", None, "$share//home"),
        ("$shared/pool/home", None, "$shared/pool/home"),
        ("home/$share/pool", None, "home/$share/pool"),
    ],
)
def test_split_share(topic: str, group: str | None, plain: str) -> None:
    """A shared subscription is its group and its filter (MQTT 5, 4.8.2)."""
    assert split_share(topic) == (group, plain)


@pytest.mark.parametrize(
    ("subscription", "topic", "match"),
    [
        ("home/+/utterance", "home/kitchen/utterance", True),
        ("home/+/utterance", "home//utterance", True),
        ("home/+/utterance", "home/kitchen/lamp", False),
        ("home/+/utterance", "home/kitchen/utterance/loud", False),
        ("home/+/utterance", "home/utterance", False),
        ("home/#", "home/kitchen/utterance", True),
        ("home/#", "home", True),
        ("home/#", "homes/kitchen", False),
        ("#", "home/kitchen", True),
        ("+/+", "/finance", True),
        ("/+", "/finance", True),
        ("+", "/finance", False),
        ("#", "$SYS/uptime", False),
        ("+/uptime", "$SYS/uptime", False),
        ("$SYS/#", "$SYS/uptime", True),
        ("$share/pool/home/+/utterance", "home/kitchen/utterance", True),
        ("$share/pool/home/+/utterance", "$share/pool/home/x/utterance", False),
        ("Home", "home", False),
    ],
)
def test_matches(subscription: str, topic: str, *, match: bool) -> None:
    """Filters match as MQTT says (MQTT 5, 4.7), the share aside."""
    assert matches(subscription, topic) is match


@given(st.lists(LEVEL, min_size=1, max_size=5), st.lists(LEVEL, min_size=1, max_size=5))
def test_without_wildcards_only_the_same_matches(a: list[str], b: list[str]) -> None:
    """A filter without wildcards is the one topic it names."""
    one, other = "/".join(a) or "x", "/".join(b) or "x"
    if one.startswith("$share/"):
        return
    assert matches(one, other) is (one == other)


@given(st.integers(1, 10**6), st.floats(1, 3600))
def test_backoff(attempt: int, ceiling: float) -> None:
    """The wait is never nothing, never above the ceiling, and doubles at most."""
    wait = backoff(attempt, ceiling)
    assert 0.1 <= wait <= min(ceiling, 0.5 * 2.0 ** min(attempt, 16))


def test_backoff_differs_between_devices() -> None:
    """Hundreds of devices that lost one broker do not come back at one moment."""
    waits = sorted(backoff(10) for _ in range(300))
    assert waits[0] < 5
    assert waits[-1] > 25


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("home/+/utterance", "home/#", True),
        ("home/#", "home", True),
        ("a/+/c", "a/b/+", True),
        ("$share/g/a/b", "a/b", True),
        ("#", "a", True),
        ("a/+", "a/b/c", False),
        ("a/b", "a/c", False),
        ("a/+/c", "a/+", False),
        ("#", "$SYS/x", False),
        ("+/x", "$SYS/x", False),
    ],
)
def test_overlap(one: str, other: str, *, expected: bool) -> None:
    """Two filters overlap if some topic falls under both, in either order."""
    assert overlap(one, other) is expected
    assert overlap(other, one) is expected


def test_subscription_identifiers() -> None:
    """A filter has one identifier, whatever else is subscribed to, and a legal one."""
    numbers = {number_of(f"plant/{n}/note") for n in range(10_000)}
    assert len(numbers) > 9_990
    assert min(numbers) >= 1
    assert max(numbers) <= 268_435_455


GOOD_TOPICS = [
    "a",
    "/",
    "//",
    "a b",
    "a/\ufeff/b",
    "\u2028",
    "$x/y",
    "$sharex",
    "é/漢/😀",
]
GOOD_TOPICS += ["a" * 65_535, "/".join("a" * 201), "\U0001fffd", "\ufdcf", "\ufdf0"]
FORBIDDEN = [
    *(chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))),
    *(chr(code) for code in (0xD800, 0xDFFF, 0xFDD0, 0xFDEF, 0xFFFE, 0xFFFF)),
    *(chr(code) for code in (0x1FFFE, 0x1FFFF, 0x10FFFE, 0x10FFFF)),
]
TOO_MUCH = ["a" * 65_536, "é" * 32_768, "/".join("a" * 202)]


@pytest.mark.parametrize("topic", GOOD_TOPICS)
def test_good_topics(topic: str) -> None:
    """What MQTT allows may be published to and subscribed to, U+FEFF included."""
    assert checked_topic(topic) == topic
    assert checked_filter(topic) == topic


@pytest.mark.parametrize("check", [checked_topic, checked_filter, checked_base])
@pytest.mark.parametrize("topic", [*(f"a{c}b" for c in FORBIDDEN), *TOO_MUCH])
def test_bad_topics(check: Callable[[str], str], topic: str) -> None:
    """What brokers hang up on is refused: characters, levels, length."""
    with pytest.raises(ValueError, match=r"U\+|longer|more than"):
        check(topic)


@pytest.mark.parametrize(
    "topic", ["a+", "a/#", "$SYS", "$SYS/x", "$share/g/x", "$share"]
)
def test_not_to_publish_to(topic: str) -> None:
    """Wildcards, and what belongs to the broker, are no topics to publish to."""
    with pytest.raises(ValueError, match="publish"):
        checked_topic(topic)


@pytest.mark.parametrize(
    "topic",
    [
        "$share",
        "$share/",
        "$share/g",
        "$share/g/",
        "$share//a",
        "$share/a+b/c",
        "$share/#/c",
        "$share/+/c",
        "$share/g\x01/c",
        "",
        "a+",
        "a#",
        "#/a",
        "a/+b",
        "$share/g/a+",
        "$share/g/#/a",
    ],
)
def test_bad_filters(topic: str) -> None:
    """Wildcards stand alone, a share has a name without any, and a filter."""
    with pytest.raises(ValueError, match=r"filter|alone|group|U\+"):
        checked_filter(topic)


@pytest.mark.parametrize("base", ["a" * (65_535 - 127), "/".join("a" * 198)])
def test_a_base_leaves_room(base: str) -> None:
    """What we add to a base makes a topic that is still well made."""
    checked_topic(base)
    with pytest.raises(ValueError, match="than"):
        checked_base(base)
    shorter = base.removesuffix("a").removesuffix("/")
    assert checked_base(shorter) == shorter
    checked_topic(discovery_topic(shorter, "x" * 64))
    checked_topic(f"{shorter}/{'x' * 64}")
