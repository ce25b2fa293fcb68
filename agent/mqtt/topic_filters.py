"""Topic filters (MQTT 5, 4.7): which are well made, and what falls under them."""

import zlib
from itertools import zip_longest

LONGEST_TOPIC = 65_535  # bytes (MQTT 5, 1.5.4)
IDENTIFIERS = 268_435_455  # the largest subscription identifier (MQTT 5, 3.8.2.1.2)


def split_share(topic: str) -> tuple[str | None, str]:
    """Split `$share/<group>/<filter>`; the group is None if it is not shared."""
    if topic.startswith("$share/"):
        group, _, rest = topic.removeprefix("$share/").partition("/")
        if group and rest:
            return group, rest
    return None, topic


def checked_filter(topic: str) -> str:
    """Return a well made filter, `$share/<group>/` allowed; raises ValueError."""
    _, plain = split_share(topic)
    levels = plain.split("/")
    if not plain or "\0" in plain or len(plain.encode()) > LONGEST_TOPIC:
        raise ValueError("a topic filter has 1 to 65535 bytes and no NUL")
    if topic.startswith("$share/") and plain == topic:
        raise ValueError("a shared subscription reads $share/<group>/<filter>")
    if any("+" in level and level != "+" for level in levels):
        raise ValueError("'+' must stand alone between two '/'")
    if any("#" in level and level != "#" for level in levels) or "#" in levels[:-1]:
        raise ValueError("'#' must stand alone and last")
    return topic


def checked_topic(topic: str) -> str:
    """Return a topic that can be published to; raises ValueError."""
    if set("+#\0") & set(topic):
        raise ValueError("a topic to publish to has no '+', '#' or NUL")
    return topic


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
