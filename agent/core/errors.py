"""Errors, by whose fault it is; the table in docs/architecture.md says what follows."""

from agent.core.types import Reason


class ConfigError(Exception):
    """The operator's: a file says something that cannot be meant. Exit status 2."""


class Unready(Exception):
    """The machine's: a start that may succeed later, as on a full disk. Status 1."""


class BundleError(ConfigError):
    """The operator's: a bundle is incomplete, damaged or answers wrongly here."""


class Unreadable(Exception):
    """The sender's: no text can be read from this message; it ends as a dead letter."""

    def __init__(self, reason: Reason, detail: str) -> None:
        """`detail` is for people: what was found, never the text itself."""
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class Undelivered(Exception):
    """The other side's: the broker did not take a publish; nothing is acknowledged."""


class Refused(Undelivered):
    """The broker answered with a reason code of failure, about a topic or about us."""

    def __init__(self, why: str, topic: str = "") -> None:
        """`topic`: which one it refuses; empty: the whole connection."""
        super().__init__(why)
        self.topic = topic


class NobodyListens(Undelivered):
    """The broker took a publish that somebody had to hear, and nobody subscribed."""
