"""Final results on their way from the outbox to the broker, oldest first.

Each stays in the outbox until the broker has acknowledged it. After a crash it is
published again: the same bytes, so that whoever knows the id can tell.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from functools import partial

import structlog

from agent.errors import Refused, Undelivered
from agent.link import Link
from agent.outbox import cases as book
from agent.outbox.cases import Final
from agent.outbox.store import Database, Store

AT_ONCE = 50
AGAIN_S = 1.0
REFUSED_S = 30.0  # how long a result rests that the broker does not take
TOMBSTONES_S = 86_400.0  # how long an ended case is remembered

log = structlog.get_logger()


class Finals:
    """Owns what is ended and not yet published."""

    def __init__(self, store: Store, link: Link, went: Callable[[], None]) -> None:
        """`went` is called when some have left the outbox: there is room."""
        self._store = store
        self._link = link
        self._went = went
        self._woken = asyncio.Event()
        self._woken.set()  # what the last process left
        self._resting: dict[str, float] = {}  # until when, by key

    def wake(self) -> None:
        """Say that there may be something to publish."""
        self._woken.set()

    async def run(self) -> None:
        """Publish until cancelled."""
        while True:
            await self._wait()
            self._woken.clear()
            while finals := await self._due():
                connection = await self._link.connection()
                try:
                    pubacks = [
                        await connection.publish(final.topic, final.payload)
                        for final in finals
                    ]
                except Undelivered:
                    continue
                said = await asyncio.gather(*pubacks, return_exceptions=True)
                await self._published(finals, said)

    async def _wait(self) -> None:
        """Wait for something new, or until what rests has rested."""
        if not self._resting:
            await self._woken.wait()
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(AGAIN_S):
                await self._woken.wait()

    async def _due(self) -> list[Final]:
        now = time.monotonic()
        self._resting = {k: t for k, t in self._resting.items() if t > now}
        due = partial(book.finished, limit=AT_ONCE, besides=list(self._resting))
        return await self._store.read(due)

    async def _published(
        self, finals: Sequence[Final], said: Sequence[BaseException | None]
    ) -> None:
        done = []
        for final, error in zip(finals, said, strict=True):
            if error is None:
                done.append(final.key)
            elif isinstance(error, Undelivered):
                refused = isinstance(error, Refused)
                log.warning("final_not_published", topic=final.topic, why=str(error))
                rest = REFUSED_S if refused else AGAIN_S
                self._resting[final.key] = time.monotonic() + rest
            else:
                raise error
        if done:
            await self._store.write(partial(_forget, keys=done, now=time.time()))
            self._went()


def _forget(db: Database, keys: Sequence[str], now: float) -> None:
    for key in keys:
        book.forget(db, key, now)
    book.prune(db, now - TOMBSTONES_S)
