"""Take the day's spending over from a damaged file into a new one."""

from collections.abc import Sequence
from pathlib import Path

import structlog

from agent.config.section import Limit
from agent.core.errors import ConfigError
from agent.outbox import spending
from agent.outbox.readonly import read_only
from agent.outbox.spending import Spend
from agent.outbox.store import Database

log = structlog.get_logger()


def rescue(day: str, limits: Sequence[Limit], damaged: Path, db: Database) -> None:
    """Copy the spending of `day` (ISO 8601) from `damaged` into the new file `db`.

    If it cannot be read, every limit counts as spent, so that damage makes no budget
    larger.
    """
    try:
        with read_only(damaged) as old:
            spent = spending.by_scope(old, day)
    except ConfigError:
        log.warning("spending_unreadable", day=day)
        spent = {each.scope: _all(each) for each in limits}
    for scope, each in spent.items():
        spending.count(db, day, [scope], each)


def _all(limit: Limit) -> Spend:
    return Spend(limit.calls or 0, limit.tokens or 0, limit.micros or 0)
