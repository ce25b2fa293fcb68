"""How often the process died at work on something, counted in a small file.

What is counted outlives a kill, not a loss of power: it is written, never synced.
"""

import os
from contextlib import suppress
from pathlib import Path

from agent.core.quarantine import Damaged, make_way, read_state

MOST_DEATHS = 3  # of the process at one message or case, which is then given up
SLOTS = 16  # that can be told apart; mostly one is in use
KEY = 32  # bytes
SLOT = KEY + 1


class Deaths:
    """Owns the file; keys are 32 ASCII characters."""

    def __init__(self, path: Path) -> None:
        """Read what an earlier process left; what cannot be read counts nothing."""
        self._path = path
        self._counts: dict[str, int] = {}
        with suppress(Damaged, ValueError):
            data = read_state(path, SLOTS * SLOT) or b""
            for start in range(0, len(data) - KEY, SLOT):
                key = data[start : start + KEY].decode("ascii")
                self._counts[key] = min(data[start + KEY], MOST_DEATHS)

    def of(self, key: str) -> int:
        """Return how often the process died at work on `key`."""
        return self._counts.get(key, 0)

    def begin(self, key: str) -> None:
        """Note that work on `key` begins: if no `end` follows, the process died."""
        self._counts[key] = min(self.of(key) + 1, MOST_DEATHS)
        while len(self._counts) > SLOTS:
            del self._counts[next(iter(self._counts))]
        self._write()

    def end(self, key: str) -> None:
        """Note that work on `key` is over, and the process is there."""
        if self._counts.pop(key, None) is not None:
            self._write()

    def _write(self) -> None:
        """Write it in place; where that fails, nothing is counted."""
        data = b"".join(
            key.encode("ascii").ljust(KEY)[:KEY] + bytes([count])
            for key, count in self._counts.items()
        )
        with suppress(OSError):
            make_way(self._path)
            descriptor = os.open(
                self._path, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK, 0o600
            )
            try:
                os.pwrite(descriptor, data, 0)
                os.ftruncate(descriptor, len(data))
            finally:
                os.close(descriptor)
