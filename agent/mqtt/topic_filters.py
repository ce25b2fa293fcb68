"""Topics and filters (MQTT 5, 4.7): which are well made, and what falls under them.

A broker may answer a topic that is not well made by closing the connection, without a
reason code. So none is taken from a file, wherever it comes from.
"""

import re
import zlib
from itertools import zip_longest

LONGEST_TOPIC = 65_535  # bytes (MQTT 5, 1.5.4)
MOST_SLASHES = 200  # beyond, Mosquitto closes the connection
LONGEST_SUFFIX = (
    128  # characters that are added to a base, at most in MOST_ADDED levels
)
MOST_ADDED = 4
IDENTIFIERS = 268_435_455  # the largest subscription identifier (MQTT 5, 3.8.2.1.2)
# What MQTT 5 lets a broker reject: control characters, non-characters, surrogates.
NO_TEXT = re.compile(
    "[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef"
    + "".join(
        chr(plane << 16 | 0xFFFE) + chr(plane << 16 | 0xFFFF) for plane in range(17)
    )
    + "]"
)


def checked_string(text: str) -> str:
    """Return a string that every broker takes (MQTT 5, 1.5.4); raises ValueError."""
    wrong = NO_TEXT.search(text)
    if wrong:
        raise ValueError(f"has the character U+{ord(wrong[0]):04X}, which MQTT forbids")
    if len(text.encode()) > LONGEST_TOPIC:
        raise ValueError(f"is longer than {LONGEST_TOPIC} bytes")
    return text


def split_share(topic: str) -> tuple[str | None, str]:
    """Split `$share/<group>/<filter>`; the group is None if it is not shared."""
    if topic.startswith("$share/"):
        group, _, rest = topic.removeprefix("$share/").partition("/")
        if group and rest:
            return group, rest
    return None, topic


def checked_filter(topic: str) -> str:
    """Return a well made filter, `$share/<group>/` allowed; raises ValueError."""
    if not topic:
        raise ValueError("a topic filter is not empty")
    _check_levels(topic)
    group, plain = split_share(topic)
    levels = plain.split("/")
    if group is None and f"{topic}/".startswith("$share/"):
        raise ValueError("a shared subscription reads $share/<group>/<filter>")
    if group and set("+#") & set(group):
        raise ValueError("the group of a shared subscription has no '+' and no '#'")
    if any("+" in level and level != "+" for level in levels):
        raise ValueError("'+' must stand alone between two '/'")
    if any("#" in level and level != "#" for level in levels) or "#" in levels[:-1]:
        raise ValueError("'#' must stand alone and last")
    return topic


def checked_topic(topic: str) -> str:
    """Return a topic that can be published to, or an empty one; raises ValueError."""
    _check_levels(topic)
    if set("+#") & set(topic):
        raise ValueError("a topic to publish to has no '+' and no '#'")
    if f"{topic}/".startswith(("$SYS/", "$share/")):
        raise ValueError("nobody may publish below $SYS or $share")
    return topic


def checked_base(topic: str) -> str:
    """Return a topic that leaves room for the levels that we add; raises ValueError."""
    checked_topic(topic)
    if len(topic.encode()) > LONGEST_TOPIC - LONGEST_SUFFIX:
        raise ValueError(f"is longer than {LONGEST_TOPIC - LONGEST_SUFFIX} bytes")
    if topic.count("/") > MOST_SLASHES - MOST_ADDED:
        raise ValueError(f"has more than {MOST_SLASHES - MOST_ADDED} '/'")
    return topic


def _check_levels(topic: str) -> None:
    checked_string(topic)
    if topic.count("/") > MOST_SLASHES:
        raise ValueError(f"has more than {MOST_SLASHES} '/'")


def overlap(one: str, other: str) -> bool:
    """Tell whether a topic can fall under both filters, `$share/<group>/` aside."""
    return _meet(split_share(one)[1], split_share(other)[1])


def matches(subscription: str, topic: str) -> bool:
    """Tell whether a topic falls under a filter, `$share/<group>/` aside."""
    return _meet(split_share(subscription)[1], topic)


def _meet(one: str, other: str) -> bool:
    left, right = one.split("/"), other.split("/")
    if _hidden(left, right) or _hidden(right, left):
        return False
    for pair in zip_longest(left, right):
        if "#" in pair:
            return True
        if pair[0] != pair[1] and ("+" not in pair or None in pair):
            return False
    return True


def number_of(topic: str) -> int:
    """Return the MQTT 5 subscription identifier of a filter.

    Made from the filter, so that a message queued under an earlier configuration
    still says what it was sent for.
    """
    return 1 + zlib.crc32(topic.encode()) % IDENTIFIERS


def _hidden(levels: list[str], wild: list[str]) -> bool:
    """Tell whether `$...` topics keep these from a leading wildcard (MQTT 5, 4.7.2)."""
    return levels[0].startswith("$") and wild[0] in {"+", "#"}
