"""The findings of a check: one line each, for people or programs."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a report; `devices` are those of a fleet that it is about."""

    level: Level
    subject: str
    detail: str
    devices: tuple[str, ...] = ()

    @property
    def about(self) -> str:
        """The devices for people: the first, and how many more."""
        if not self.devices:
            return ""
        more = len(self.devices) - 1
        return f"{self.devices[0]} and {more} more" if more else self.devices[0]
