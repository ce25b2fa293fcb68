"""Read files with one kind of error, and replace them as a whole.

After a crash there is the old file or the new one.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from agent.core.errors import ConfigError
from agent.core.quarantine import make_way


def read_bytes(path: Path, refused: type[ConfigError] = ConfigError) -> bytes:
    """Return the content of a file; raises `refused` if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise refused(f"{path}: {error.strerror or error}") from error
    except ValueError as error:  # a path with NUL
        raise refused(f"{path}: {error}") from error


def exists(path: Path) -> bool:
    """Tell whether a file exists; raises ConfigError if that cannot be found out."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:  # a path with NUL
        raise ConfigError(f"{path}: {error}") from error
    return True


def first_line(path: Path, key: str) -> str:
    """Return the first line of a file with a secret; raises ConfigError.

    Only the end of the line is removed, because a space may belong to a password. `key`
    is the configuration key that names the file, for the error.
    """
    try:
        line = read_bytes(path).partition(b"\n")[0].removesuffix(b"\r").decode()
    except UnicodeDecodeError:
        raise ConfigError(f"{key}: {path}: is no text in UTF-8") from None
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from error
    if "\0" in line:
        raise ConfigError(f"{key}: {path}: the first line has a NUL character")
    if not line.strip():
        raise ConfigError(f"{key}: {path}: the first line is empty")
    return line


def replace(path: Path, content: bytes) -> None:
    """Replace the file at `path`, or create it; durable when this returns.

    Missing folders are created. Raises OSError, and then the old file is unchanged.
    """
    with replacing(path) as file:
        file.write(content)


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file that replaces the one at `path`, durably, once it is written.

    Missing folders are created. Raises OSError; if the writing fails, the old file is
    unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.new")
    make_way(path)
    make_way(part)
    with part.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
