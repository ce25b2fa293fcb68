"""Read the outbox while the daemon writes it."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from agent.core.errors import ConfigError
from agent.outbox.store import Database


@contextmanager
def read_only(path: Path) -> Iterator[Database]:
    """Open a snapshot of the file; raises ConfigError, also while it is read.

    Close it soon: while it is open, the daemon's write-ahead log can only grow.
    """
    address = f"{path.absolute().as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(address, uri=True)) as db:
            db.execute("BEGIN")
            yield db
    except sqlite3.Error as error:
        raise ConfigError(f"{path}: {error}") from error
