"""When escalation looks what is to be done: as something is due, and not else."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from test_clock import new_escalation, outcomes, upstream_of
from test_upstream import Wire, case, plan

from agent.core.clock import Clock
from agent.escalation import cases as module
from agent.escalation.cases import Escalation
from agent.escalation.transport import Unavailable
from agent.inference.bundle import Bundle
from agent.outbox import SCHEMA
from agent.outbox.store import Store

pytestmark = pytest.mark.timeout(60)
TURN_S, SOON_S = 0.02, 0.5


class Turns:
    """Counts the looks at what is overdue."""

    def __init__(self, works: Escalation, monkeypatch: pytest.MonkeyPatch) -> None:
        """Stand between."""
        self.count = 0
        self.looked = asyncio.Event()
        expire = works._expire

        async def counted() -> int:
            self.count += 1
            self.looked.set()
            return await expire()

        monkeypatch.setattr(works, "_expire", counted)

    async def wait(self, count: int) -> None:
        """Wait until there were so many."""
        while self.count < count:
            self.looked.clear()
            await self.looked.wait()


@asynccontextmanager
async def at_work(works: Escalation) -> AsyncIterator[None]:
    """Let it work."""
    running = asyncio.create_task(works.run())
    try:
        yield
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        works.close()


@pytest.fixture
def works(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> Escalation:
    """Return an escalation whose upstream answers nobody."""
    monkeypatch.setattr(module, "TURN_S", TURN_S)
    store = Store(tmp_path / "o.db", SCHEMA, 2**21)
    wire = Wire([Unavailable("no", maybe_paid=False)] * 100)
    return new_escalation(store, upstream_of(store, wire), bundle, Clock())


async def test_with_nothing_to_do_nobody_looks(
    works: Escalation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the first look it waits for something to happen, many turns long."""
    turns = Turns(works, monkeypatch)
    async with at_work(works):
        await turns.wait(1)
        await asyncio.sleep(20 * TURN_S)
        assert turns.count == 1
        works._stirred.set()
        await turns.wait(2)


async def test_a_case_ends_at_its_deadline_though_it_rests(
    works: Escalation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What rests until nobody asks for it any more is looked at as it is due."""
    pipeline = works._pipelines["home"]
    soon = replace(pipeline, plan=replace(plan(), deadline_s=SOON_S))
    monkeypatch.setattr(works, "_pipelines", {"home": soon})
    ended = asyncio.Event()
    end = works._publisher.end

    async def noted(*about: object, **more: object) -> bool:
        first = await end(*about, **more)  # type: ignore[arg-type]
        ended.set()
        return first

    monkeypatch.setattr(works._publisher, "end", noted)
    async with at_work(works):
        async for _ in works.take([case()]):
            pass
        await asyncio.wait_for(ended.wait(), module.IDLE_S / 3)
        assert await works._store.read(outcomes) == ["timeout"]
