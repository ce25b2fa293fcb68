"""Time, as a device without a battery for its clock can know it.

It starts in the past until the network tells the time, and then somebody sets its wall
clock. What must not jump goes by the time since the machine was started.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
STEP_S = 5.0  # who keeps a clock right by slewing it stays below


def since_start() -> float:
    """Return the seconds since the machine was started, those of its sleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """Name this run of the machine; where Linux names none, each process is one."""
    try:
        return BOOT_ID.read_text("ascii").strip()
    except OSError:
        return f"{os.getpid()} {time.time()}"


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
    """Tells the time, in seconds, by a wall clock that may be set.

    `now` goes by a clock that was set only once `look` was called, so whoever has dates
    to set right can do that first. `wall` may be years off: it is only to be told.
    """

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        running: Callable[[], float] = since_start,
        boot: str = "",
    ) -> None:
        """Look at the wall clock; `running` is a clock that nobody sets.

        `boot` names this run of the machine; empty: as Linux names it.
        """
        self.wall = wall
        self.running = running
        self.boot = boot or boot_id()
        self._started = wall() - running()

    def now(self) -> float:
        """Return Unix time, as of the last look."""
        return self._started + self.running()

    def look(self) -> Step | None:
        """Go by the wall clock as it is now; tell if it was set since the last look."""
        running, before = self.running(), self._started
        self._started = self.wall() - running
        by = self._started - before
        return Step(by, before, before + running) if abs(by) > STEP_S else None
