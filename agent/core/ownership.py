"""One process owns a state directory: a second one is told whose it is."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Self

from agent.core.errors import ConfigError

PID = "pid"  # of the owner, below the directory


class Ownership:
    """Owns the state directories of a process until it ends."""

    def __init__(self) -> None:
        """Own nothing yet."""
        self._folders: set[Path] = set()
        self._stack = ExitStack()

    def take(self, folder: Path) -> None:
        """Own a directory, too, unless we do already; raises ConfigError."""
        folder = folder.absolute()
        if folder not in self._folders:
            self._stack.enter_context(owned(folder))
            self._folders.add(folder)

    def __enter__(self) -> Self:
        """Begin with what was taken."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give all of them back."""
        self._folders.clear()
        self._stack.close()


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Own a directory while the context lasts; it is made if it is missing.

    Raises ConfigError if it cannot be made or opened, or another process owns it. The
    kernel gives the ownership back however a process ends, and it takes no disk space.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(
            f"state.dir: {folder}: {error.strerror or error}; name a folder that this "
            "user may write to"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"state.dir: {folder}: {_owner(folder)}") from None
        with suppress(OSError):  # a full disk; the lock holds
            (folder / PID).write_text(f"{os.getpid()}\n", "ascii")
        yield
    finally:
        os.close(descriptor)


def _owner(folder: Path) -> str:
    """Name the process that owns a directory."""
    try:
        pid = int((folder / PID).read_text("ascii"))
    except (OSError, ValueError):
        return "another process uses it"
    return f"process {pid} uses it, and each needs one of its own"
