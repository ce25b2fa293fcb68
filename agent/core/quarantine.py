"""State files that a disk may have damaged: read with bounds, and set aside.

No state file may keep a process from starting. Whoever reads one validates it, renames
what is damaged, goes on without it, and raises an alert.
"""

import errno
import os
import shutil
import stat
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

KEPT = 3  # the newest; each is as large as the file was, and holds what it held
ENDINGS = ("", "-wal", "-shm")


class Damaged(Exception):
    """A state file is not what was written; the message names file and damage."""


def read_state(path: Path, most: int) -> bytes | None:
    """Return what a state file holds, at most `most` bytes; None: there is none.

    Raises Damaged for what is no file, is larger, or cannot be read.
    """
    try:
        # A pipe in its place must not make us wait.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Damaged(f"{path}: {error.strerror or error}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Damaged(f"{path}: is no file")
    with os.fdopen(descriptor, "rb") as file:
        try:
            data = file.read(most + 1)
        except OSError as error:
            raise Damaged(f"{path}: {error.strerror or error}") from error
    if len(data) > most:
        raise Damaged(f"{path}: is larger than {most} bytes")
    return data


def put_aside(path: Path) -> Path:
    """Rename a file, or what is in its place, and its log; raises OSError.

    So what is in them is not lost; the oldest of many that were put aside are removed.
    """
    stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
    aside = path.with_name(f"{path.name}.damaged-{stamp}")
    for ending in ENDINGS:
        with suppress(FileNotFoundError):
            Path(f"{path}{ending}").rename(f"{aside}{ending}")
    return aside


def put_asides(path: Path) -> list[Path]:
    """Return the files that were put aside, without their logs, the oldest first."""
    return sorted(path.parent.glob(f"{path.name}.damaged-*Z"))


def remove_older(path: Path) -> int:
    """Remove all but the newest that were put aside; return how many went."""
    older = put_asides(path)[:-KEPT]
    for aside in older:
        remove_aside(aside)
    return len(older)


def remove_aside(aside: Path) -> None:
    """Remove what was put aside, with its log."""
    for ending in ENDINGS:
        _remove(Path(f"{aside}{ending}"))


def _remove(path: Path) -> None:
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def without(path: Path, why: str) -> str:
    """Put a damaged state file aside; return what an alert says of it.

    Raises nothing: where it cannot be renamed it stays, and is not used.
    """
    try:
        aside = put_aside(path)
    except OSError as error:
        return f"{why}; it cannot be set aside: {error.strerror or error}"
    remove_older(path)
    return f"{why}; it is now {aside.name}"


def make_way(path: Path) -> None:
    """Put aside what is no file where one shall be written; raises OSError."""
    try:
        is_file = stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        is_file = False
    if not is_file:
        put_aside(path)
        remove_older(path)
