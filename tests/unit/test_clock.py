"""Time: what the clock tells, and what waits as long as it was to when it is set."""

import asyncio
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from test_upstream import Patterns, Wire, case, plan, reply

from agent.config.section import Limit
from agent.core import clock as clocks
from agent.core.clock import Clock, Step
from agent.core.types import Guarantee, Task
from agent.escalation import cases as module
from agent.escalation.budget import BudgetLedger, Prices
from agent.escalation.cases import Escalation, EscalationSettings
from agent.escalation.upstream import (
    UpstreamClient,
    UpstreamSettings,
)
from agent.inference.bundle import Bundle
from agent.inference.decide import Policy
from agent.inference.pipeline import Pipeline
from agent.outbox import SCHEMA, cases
from agent.outbox.store import Database, Store
from agent.protocol.cases import Reply, Request
from agent.protocol.messages import Topics
from agent.protocol.payload import Reader
from agent.telemetry.alerts import Alerts
from agent.telemetry.counters import Counters
from agent.telemetry.rejected_topics import RejectedTopics
from harness.casework import upstream_client

pytestmark = pytest.mark.timeout(60)
DAY = 86_400.0
DEADLINE_S = 20.0


class Times:
    """A wall clock that can be set, beside one that cannot."""

    def __init__(self) -> None:
        """Both begin together."""
        self.wall = 1_800_000_000.0
        self.running = 100.0
        self.looks = 0
        self.looked = asyncio.Event()

    def clock(self) -> Clock:
        """Return the clock that goes by these."""
        return Clock(self._look, lambda: self.running)

    def passes(self, seconds: float) -> None:
        """Let time pass."""
        self.wall += seconds
        self.running += seconds

    def _look(self) -> float:
        self.looks += 1
        self.looked.set()
        return self.wall

    async def wait_looks(self, count: int) -> None:
        """Wait until somebody looked so often from now on."""
        enough = self.looks + count
        while self.looks < enough:
            self.looked.clear()
            await self.looked.wait()


def test_one_run_of_the_machine_has_one_name() -> None:
    """Whichever clock asks; and what runs on does not go back."""
    one, other = Clock(), Clock()
    assert one.boot == other.boot
    assert len(one.boot) > 10
    assert one.running() <= other.running()
    assert one.now() == pytest.approx(one.wall(), abs=1.0)


def test_where_no_boot_is_named_each_process_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a crash is never taken for one of another run of the machine."""
    monkeypatch.setattr(clocks, "BOOT_ID", tmp_path / "nothing")
    monkeypatch.setattr(os, "getpid", lambda: 7)
    assert Clock().boot.startswith("7 ")


def test_the_wall_clock_is_told_as_it_is() -> None:
    """A date for people is that of now, also before anybody looked."""
    times = Times()
    clock = times.clock()
    times.wall += DAY
    assert clock.wall() == clock.now() + DAY


async def test_a_step_is_told_once() -> None:
    """What is slewed is none; a step counts from the look that sees it."""
    times = Times()
    clock = times.clock()
    for _ in range(100):
        times.passes(1.0)
        times.wall += 0.4
        assert clock.look() is None
    before = clock.now()
    started = before - times.running
    times.wall += 2 * DAY
    assert clock.now() == before
    step = clock.look()
    assert step
    assert step.by == pytest.approx(2 * DAY)
    assert (step.since, step.until) == pytest.approx((started, before))
    assert clock.now() == times.wall
    assert clock.look() is None
    times.wall -= DAY
    step = clock.look()
    assert step
    assert step.by == pytest.approx(-DAY)


class Slow(Wire):
    """Answers once it may."""

    def __init__(self) -> None:
        """Say nothing yet."""
        super().__init__([reply()])
        self.may = asyncio.Event()

    async def ask(self, request: Request, body: bytes, timeout_s: float) -> Reply:
        """Wait, then answer."""
        said = await super().ask(request, body, timeout_s)
        await self.may.wait()
        return said


class Away:
    """A link without a connection."""

    connected = False

    async def connection(self) -> None:
        """Never connect."""
        await asyncio.Event().wait()


def upstream_of(store: Store, wire: Wire) -> UpstreamClient:
    """Return an upstream without a cache."""
    budget = BudgetLedger(store, wire, Limit("", None, None, None), Prices(0.0, 0.0, 1))
    terms = UpstreamSettings(5.0, 1e6, 100, 0, 60.0)
    return upstream_client(terms, wire, budget, store, Patterns())


def new_escalation(
    store: Store, upstream: UpstreamClient, bundle: Bundle, clock: Clock
) -> Escalation:
    """Return an escalation of one case at a time, for a pipeline `home`."""
    pipeline = Pipeline(
        name="home",
        tasks=frozenset(Task),
        filters=("home/+",),
        reader=Reader(),
        bundle=bundle,
        policy=Policy(Guarantee.LABEL, 0.5),
        result_topic="result/home",
        dead_letter_topic="dead/home",
        plan=plan(),
    )
    link: Any = Away()
    alerts, counters = Alerts(link, Topics("pi")), Counters()
    terms = EscalationSettings("pi", 2**21, 1, "stop_acking", queues=True)
    return Escalation(
        terms,
        [pipeline],
        store,
        upstream,
        link,
        alerts,
        counters,
        RejectedTopics(alerts, counters),
        clock,
    )


@pytest.mark.parametrize("by", [2 * DAY, -2 * DAY])
async def test_deadlines_outlive_a_step(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, by: float
) -> None:
    """A case that waits while the clock is set is asked about, and ends in time."""
    monkeypatch.setattr(module, "TURN_S", 0.01)
    store, wire, times = Store(tmp_path / "o.db", SCHEMA, 2**21), Slow(), Times()
    works = new_escalation(store, upstream_of(store, wire), bundle, times.clock())
    running = asyncio.create_task(works.run())
    try:
        async for _ in works.take([case(name=f"m-{n}") for n in range(2)]):
            pass
        await wire.spoke.wait()  # one is asked about, the other waits
        times.wall += by
        await times.wait_looks(3)
        wire.may.set()
        await ended(store, times, 2)
        assert set(await store.read(outcomes)) == {"answered"}
        wire.may.clear()
        async for _ in works.take([case(name=f"n-{n}") for n in range(2)]):
            pass
        times.passes(DEADLINE_S + 1)
        await ended(store, times, 3)
        assert (await store.read(outcomes))[-1] == "timeout"
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        works.close()


async def ended(store: Store, times: Times, count: int) -> None:
    """Wait until so many cases have their final results."""
    while len(await store.read(outcomes)) < count:
        await times.wait_looks(1)


def outcomes(db: Database) -> list[str]:
    """Return what came of the cases, in order."""
    return [json.loads(f.payload)["upstream"] for f in cases.finished(db, 10)]


async def test_what_an_earlier_start_dated_stays(tmp_path: Path) -> None:
    """Only what the clock as it was has dated is set right, tombstones as well."""
    store = Store(tmp_path / "o.db", SCHEMA, 2**21)

    def book(db: Database) -> None:
        for name, at in (("old", 50.0), ("new", 150.0), ("newest", 1150.0)):
            row = cases.CaseRow(name, b"{}", "home", 5, at + 10, 0)
            cases.add(db, row, at)
            row = cases.CaseRow(f"{name}-ended", b"{}", "home", 5, at + 10, 0)
            cases.add(db, row, at)
            cases.finish(db, row.key, "topic", b"{}")
            cases.forget(db, row.key, at)
        cases.shift(db, Step(by=1000.0, since=100.0, until=200.0))

    def dates(db: Database) -> tuple[list[float], list[float]]:
        deadlines = [row.deadline for row in cases.waiting(db, 10)]
        stones = db.execute("SELECT at FROM tombstones ORDER BY number")
        return deadlines, [at for (at,) in stones]

    await store.write(book)
    assert await store.read(dates) == ([60.0, 1160.0, 1160.0], [50.0, 1150.0, 1150.0])
    store.close()
