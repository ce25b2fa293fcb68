"""What goes on now and how long it may take: systemd's watchdog is fed by progress."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

STALL_S = 60.0  # what takes so much longer than it may is hung


class Deadlines:
    """Owns the times by which what goes on now must have come to an end."""

    def __init__(self) -> None:
        """Nothing goes on yet."""
        self._due: dict[object, tuple[str, float]] = {}

    @contextmanager
    def within(self, what: str, seconds: float) -> Iterator[None]:
        """Say how long the work inside may take."""
        mark = object()
        self._due[mark] = what, time.monotonic() + max(0.0, seconds)
        try:
            yield
        finally:
            del self._due[mark]

    def hung(self) -> str | None:
        """Name something that should have ended long ago; None: all is well."""
        latest = time.monotonic() - STALL_S
        return next((what for what, due in self._due.values() if due < latest), None)
