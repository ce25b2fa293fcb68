"""Time, as the fleet's part of a device knows it."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Clock:
    """Time, as a device without a battery for its clock can know it.

    `boot` names this run of the machine, `monotonic` counts its seconds; `now` may be
    years off and is only told.
    """

    now: Callable[[], datetime]
    monotonic: Callable[[], float]
    boot: str


def machine_clock() -> Clock:
    """Return the machine's own time; where Linux names no boot, each process is one."""
    try:
        boot = BOOT_ID.read_text("ascii").strip()
    except OSError:
        boot = f"{os.getpid()} {time.time()}"
    return Clock(lambda: datetime.now(UTC), time.monotonic, boot)
