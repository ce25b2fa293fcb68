"""How the machine is: memory, temperature, throttling, disk, clock; None if unknown."""

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

# No clock that is right tells less: a Pi without a battery starts in the past.
RELEASED = 1_764_000_000  # Unix time, late November 2025
# Without one it may start with the time of its last shutdown, too (fake-hwclock): then
# what we wrote since, or systemd-timesyncd, knows better.
TIMESYNC = Path("/run/systemd/timesync")  # there while it runs
SLACK_S = 60.0  # a clock that is set right may go back a little
UNSYNCHRONIZED = "systemd-timesyncd has not reached a time server yet"

TEMPERATURE = Path("/sys/class/thermal/thermal_zone0/temp")
THROTTLED = Path("/sys/devices/platform/soc/soc:firmware/get_throttled")  # Raspberry Pi


@dataclass(frozen=True, slots=True)
class HostVitals:
    """Bytes, degrees Celsius, and the load of the last minute.

    `throttled` are the bits of the Pi's firmware: 0 is fine, 1 under-voltage, 4
    throttled now, the same from 0x10000 on since the start.
    """

    rss_bytes: int | None
    temperature_c: float | None
    throttled: int | None
    load_1m: float
    disk_free_bytes: int | None
    disk_bytes: int | None
    clock_wrong: bool


def host_vitals(folder: Path) -> HostVitals:
    """Look; `folder` names the disk that counts."""
    free, size = _disk(folder)
    temperature = _number(TEMPERATURE)
    throttled = _number(THROTTLED, 16)
    return HostVitals(
        rss_bytes=_resident(),
        temperature_c=None if temperature is None else temperature / 1000,
        throttled=throttled,
        load_1m=round(os.getloadavg()[0], 2),
        disk_free_bytes=free,
        disk_bytes=size,
        clock_wrong=bool(clock_fault(folder)),
    )


def clock_fault(folder: Path) -> str:
    """Say what speaks against the clock; empty: nothing does.

    `folder` is where this device keeps its state.
    """
    now = time.time()
    if now < RELEASED:
        return "the clock is years behind"
    at, name = _newest(folder)
    if at > now + SLACK_S:
        return f"the clock is behind {name} in state.dir by {at - now:.0f} s"
    if TIMESYNC.is_dir() and not (TIMESYNC / "synchronized").exists():
        return UNSYNCHRONIZED
    return ""


def _newest(folder: Path) -> tuple[float, str]:
    """Return when what is in a folder was changed last, in Unix time, and its name."""
    dated = [(0.0, "")]
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):  # gone meanwhile
                dated.append((entry.stat().st_mtime, entry.name))
    return max(dated)


def _resident() -> int | None:
    """Return our resident memory as Linux counts it."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except (OSError, ValueError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def _disk(folder: Path) -> tuple[int | None, int | None]:
    try:
        disk = os.statvfs(folder)
    except OSError:
        return None, None
    return disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize


def _number(path: Path, base: int = 10) -> int | None:
    try:
        return int(path.read_text("ascii").strip(), base)
    except (OSError, ValueError):
        return None
