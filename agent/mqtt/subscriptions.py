"""Topic filters that the broker may still hold for us from an earlier configuration.

A session keeps its subscriptions, whatever our configuration says meanwhile, and MQTT
has no way to list them. So those we made are written down, and what is no longer
wanted can be taken back. Written only when they change: an SD card lives long.
"""

from collections.abc import Iterable
from pathlib import Path

from agent.core.files import replace
from agent.core.quarantine import Damaged, read_state, without
from agent.mqtt.topic_filters import checked_filter

FILE = "subscriptions"
LARGEST = 2**20  # bytes
MOST = 5000  # filters; each costs a round trip to take back


def obsolete(folder: Path, wanted: Iterable[str]) -> tuple[list[str], str]:
    """Return the filters written down in a folder that are wanted no longer.

    And what an alert says of the file, if it was damaged and is set aside: then the
    broker may send messages of an earlier configuration, which nobody wants.
    """
    try:
        return sorted(_written(folder) - set(wanted)), ""
    except Damaged as error:
        return [], without(folder / FILE, str(error))


def write_down(folder: Path, wanted: Iterable[str]) -> None:
    """Remember what is subscribed to now; raises OSError."""
    lines = set(wanted)
    try:
        if lines == _written(folder):
            return
    except Damaged as error:
        without(folder / FILE, str(error))
    replace(folder / FILE, "".join(f"{topic}\n" for topic in sorted(lines)).encode())


def _written(folder: Path) -> set[str]:
    """Return what was written down; raises Damaged."""
    path = folder / FILE
    data = read_state(path, LARGEST)
    if not data:
        return set()
    *lines, rest = data.split(b"\n")
    if rest or len(lines) > MOST:
        raise Damaged(f"{path}: is cut off, or has more than {MOST} filters")
    try:
        return {checked_filter(line.decode()) for line in lines}
    except ValueError as error:
        raise Damaged(f"{path}: {error}") from error
