"""The wall clock, and by how much somebody sets it.

A device without a battery starts in the past, until the network tells the time.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

STEP_S = 5.0  # who keeps a clock right by slewing it stays below


def since_start() -> float:
    """Return the seconds since the machine was started, those of its sleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class Step:
    """The clock was set, by so many seconds.

    What is dated between `since`, the start of the machine, and `until` was dated by
    the clock as it was.
    """

    by: float
    since: float
    until: float


class Clock:
    """Tells Unix time, and goes by a clock that was set only once it is asked to.

    So whoever has dates to set right can do that first.
    """

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        running: Callable[[], float] = since_start,
    ) -> None:
        """Begin to look; `running` is a clock that nobody sets."""
        self._wall = wall
        self._running = running
        self._started = wall() - running()

    def now(self) -> float:
        """Return Unix time, as of the last look."""
        return self._started + self._running()

    def look(self) -> Step | None:
        """Go by the wall clock as it is now; tell if it was set since the last look."""
        running, before = self._running(), self._started
        self._started = self._wall() - running
        by = self._started - before
        return Step(by, before, before + running) if abs(by) > STEP_S else None
