"""Room on the disk that is held for the time when there is none."""

import errno
import os
from pathlib import Path

PROBE_BYTES = 65_536
NO_ROOM = {errno.ENOSPC, errno.EDQUOT}


class Spare:
    """Owns a file that holds room on the disk for the time when there is none."""

    def __init__(self, path: Path, size: int) -> None:
        """Take where it lies, and its bytes; it may be there from before."""
        self._path = path
        self._size = size
        self._held = path.exists() and path.stat().st_size >= size

    def keep(self) -> bool:
        """Hold the room, as soon as there is plenty; return whether it is held."""
        if not self._held and self._free() > 2 * self._size:
            self._held = self._allocate()
        return self._held

    def give_up(self) -> bool:
        """Free the room if the disk is full; return whether there is more now."""
        if not self._held or self._free() > self._size:
            return False
        self._path.unlink(missing_ok=True)
        self._held = False
        return True

    def is_denied(self) -> bool:
        """Tell whether more room is refused now: of a quota, `_free` knows nothing."""
        probe = self._path.with_name(f"{self._path.name}-probe")
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
