"""Errors, by whose fault they are; docs/architecture.md has what follows from each."""

from collections.abc import Iterator
from contextlib import contextmanager

from agent.core.types import Reason

LONGEST_WHY = 500  # characters of an error that nobody expected


class ConfigError(Exception):
    """The operator's fault: a file has an error. Exit status 2."""


class Unready(Exception):
    """The machine's fault: a later start may succeed, as on a full disk. Status 1."""


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Make every other error of reading `what` a ConfigError of one line.

    The last resort: a reload must not end a daemon that runs, whatever a file says.
    """
    try:
        yield
    except (ConfigError, Unready):
        raise
    except Exception as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST_WHY]
        raise ConfigError(f"{what}: cannot be used: {why}; please report it") from error


class BundleError(ConfigError):
    """The operator's fault: a bundle is incomplete, damaged or answers wrongly here."""


class Unreadable(Exception):
    """The sender's fault: no text can be read from a message.

    The message ends as a dead letter.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        """`detail` describes the fault for people; it never holds the text."""
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class Undelivered(Exception):
    """The network's fault: the broker did not take a publish.

    The message behind it must not be acknowledged.
    """


class Refused(Undelivered):
    """The broker answered a publish or a connection with a failure reason code."""

    def __init__(self, why: str, topic: str = "") -> None:
        """`topic` is the refused topic; empty if the connection was refused."""
        super().__init__(why)
        self.topic = topic


class TooLarge(Exception):
    """Ours: a publish is larger than the packets that the broker takes."""

    def __init__(self, topic: str, size: int, limit: int, room: int) -> None:
        """`size` and `limit` are bytes of packets.

        `room`: the most bytes of payload that fit on this topic; below 0: not even an
        empty one does.
        """
        super().__init__(f"{size} bytes on {topic[:80]}, at most {limit} are taken")
        self.size = size
        self.limit = limit
        self.room = room


class NobodyListens(Undelivered):
    """The broker took a publish that needs a subscriber, and there is none."""
