"""Damaged files are renamed and kept, the newest three of them."""

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

KEPT = 3  # each is as large as the file was, and holds what it held
ENDINGS = ("", "-wal", "-shm")


def put_aside(path: Path) -> Path:
    """Rename a database and its log, and return the new path; raises OSError."""
    stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
    aside = path.with_name(f"{path.name}.damaged-{stamp}")
    for ending in ENDINGS:
        with suppress(FileNotFoundError):
            Path(f"{path}{ending}").rename(f"{aside}{ending}")
    return aside


def remove_older(path: Path) -> int:
    """Remove all but the newest renamed databases of `path`; return how many."""
    older = sorted(path.parent.glob(f"{path.name}.damaged-*Z"))[:-KEPT]
    for aside in older:
        for ending in ENDINGS:
            Path(f"{aside}{ending}").unlink(missing_ok=True)
    return len(older)
