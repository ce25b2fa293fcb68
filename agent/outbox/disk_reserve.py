"""A file that reserves room on the disk for the time when the disk is full."""

import errno
import os
from pathlib import Path

from agent.core.quarantine import make_way

PROBE_BYTES = 65_536
NO_ROOM = {errno.ENOSPC, errno.EDQUOT}


class Spare:
    """Owns the file that reserves room on the disk."""

    def __init__(self, path: Path, size: int) -> None:
        """`size` is in bytes; a file of that size from an earlier run is used.

        Raises OSError.
        """
        self._path = path
        self._size = size
        make_way(path)
        self._held = path.exists() and path.stat().st_size >= size

    def keep(self) -> bool:
        """Reserve the room once twice of it is free; return whether it is reserved.

        Raises OSError other than for want of room.
        """
        if not self._held and self._free() > 2 * self._size:
            self._held = self._allocate()
        return self._held

    def give_up(self) -> bool:
        """Give the room back if the disk is full; return whether that was done."""
        if not self._held or self._free() > self._size:
            return False
        self._path.unlink(missing_ok=True)
        self._held = False
        return True

    def is_denied(self) -> bool:
        """Tell whether the disk refuses more room now, by trying.

        `_free` does not know of quotas.
        """
        probe = self._path.with_name(f"{self._path.name}-probe")
        make_way(probe)
        try:
            with probe.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, PROBE_BYTES)
        except OSError as error:
            return error.errno in NO_ROOM
        finally:
            probe.unlink(missing_ok=True)
        return False

    def _free(self) -> int:
        disk = os.statvfs(self._path.parent)
        return disk.f_bavail * disk.f_frsize

    def _allocate(self) -> bool:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, self._size)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            self._path.unlink()
            return False
        finally:
            os.close(descriptor)
        return True
