"""Replace a file as a whole: after a crash there is the old file or the new one."""

import os
from pathlib import Path


def replace(path: Path, content: bytes) -> None:
    """Replace the file at `path`, or create it; durable when this returns.

    Missing folders are created. Raises OSError, and then the old file is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.new")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
