"""Topic filters that the broker may still hold for us from an earlier configuration.

A session keeps its subscriptions, whatever our configuration says meanwhile, and MQTT
has no way to list them. So those we made are written down, and what is no longer
wanted can be taken back. Written only when they change: an SD card lives long.
"""

from collections.abc import Iterable
from pathlib import Path

FILE = "subscriptions"


def obsolete(folder: Path, wanted: Iterable[str]) -> list[str]:
    """Return the filters written down in a folder that are wanted no longer."""
    return sorted(set(_written(folder)) - set(wanted))


def write_down(folder: Path, wanted: Iterable[str]) -> None:
    """Remember what is subscribed to now; raises OSError."""
    lines = sorted(set(wanted))
    if lines == _written(folder):
        return
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / f"{FILE}.new"
    fresh.write_text("".join(f"{topic}\n" for topic in lines), "utf-8")
    fresh.replace(folder / FILE)


def _written(folder: Path) -> list[str]:
    try:
        return (folder / FILE).read_text("utf-8").split("\n")[:-1]
    except (OSError, UnicodeDecodeError):
        return []
