"""Opening the file: damaged, another program's or none at all, it is set aside."""

import errno
import os
import sqlite3
import stat
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from agent.core.errors import ConfigError
from agent.core.quarantine import put_aside

BIRTH = {  # can only be set before there are tables
    "page_size": "4096",
    "auto_vacuum": "INCREMENTAL",
    "journal_mode": "WAL",
}
PRAGMAS = {
    "synchronous": "FULL",  # a commit is on the disk when it returns
    "wal_autocheckpoint": "50",  # pages: a short log leaves room to delete in
    "temp_store": "MEMORY",  # savepoints need no second place that may be full
    "secure_delete": "ON",  # texts that are gone are overwritten
}
PLAUSIBLE = 1000  # more versions than that are none
DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
# What is in the place of a file cannot be the database, its log or its index.
IN_THE_WAY = {errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO}


class SetAside(Exception):
    """The file was damaged; it was put aside."""

    def __init__(self, aside: Path) -> None:
        """`aside` is where it is now."""
        super().__init__(str(aside))
        self.aside = aside


def open_database(
    path: Path, schema: str, first: Callable[[sqlite3.Connection], None]
) -> sqlite3.Connection:
    """Open the file, check every page, and bring it to the schema.

    `first` is the first change in a file that is new. Raises SetAside for a damaged
    file, ConfigError for one of a later version, OSError and sqlite3.Error.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _check_places(path)
    with ExitStack() as undo:
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        undo.callback(db.close)
        if _is_damaged(db) or not _bring_to(db, schema, path, first):
            # Rename before closing, because closing would remove the log.
            raise SetAside(put_aside(path))
        undo.pop_all()
        return db


def pragma(db: sqlite3.Connection, words: str) -> Any:
    """Run a pragma; return the first value it gives."""
    row = db.execute(f"PRAGMA {words}").fetchone()
    return row[0] if row else None


def _check_places(path: Path) -> None:
    """Make the file, and see that it and its log are files; raises SetAside, OSError.

    The log gets the mode of the file.
    """
    for ending, flags in (("", os.O_CREAT), ("-wal", 0), ("-shm", 0)):
        try:
            descriptor = os.open(
                f"{path}{ending}", os.O_RDWR | os.O_NONBLOCK | flags, 0o600
            )
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno in IN_THE_WAY:
                raise SetAside(put_aside(path)) from error
            raise
        is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        os.close(descriptor)
        if not is_file:
            raise SetAside(put_aside(path))


def _is_damaged(db: sqlite3.Connection) -> bool:
    try:
        for name, value in (BIRTH | PRAGMAS).items():
            pragma(db, f"{name}={value}")
        # Not quick_check, which misses an index that disagrees with its table: that
        # would be noticed later, and again after each restart.
        return bool(pragma(db, "integrity_check(1)") != "ok")
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF in DAMAGE:
            return True
        raise


def _bring_to(
    db: sqlite3.Connection,
    schema: str,
    path: Path,
    first: Callable[[sqlite3.Connection], None],
) -> bool:
    """Bring the file to the schema; return whether it has all of it then.

    It has not where it is the database of another program, or lost a table.
    """
    sample = sqlite3.connect(":memory:")
    sample.executescript(schema)
    ours = pragma(sample, "user_version")
    wanted = _columns(sample)
    sample.close()
    version = pragma(db, "user_version")
    if version > ours + PLAUSIBLE:
        return False
    if version > ours:
        raise ConfigError(
            f"{path}: written by a later version of slm-agent ({version}, here {ours})"
        )
    if version < ours or not version:
        try:
            db.executescript(f"BEGIN IMMEDIATE;\n{schema};")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
                raise
            return False  # a table of the same name with other columns
        if wanted <= _columns(db) and not version:
            first(db)
        db.execute("COMMIT")
    return wanted <= _columns(db)


def _columns(db: sqlite3.Connection) -> set[tuple[str, str]]:
    """Return every table, index and trigger, with each column of the tables."""
    return set(
        db.execute(
            "SELECT s.type || ' ' || s.name, coalesce(c.name, '') FROM sqlite_schema s"
            " LEFT JOIN pragma_table_xinfo(s.name) c WHERE s.name NOT LIKE 'sqlite_%'"
        )
    )
