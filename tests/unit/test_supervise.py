"""What a process of ours does alike, daemon or broker: begins, reloads, ends."""

import asyncio
import os
import signal
import weakref
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import pytest

from agent.core.errors import ConfigError, Undelivered, Unready
from agent.daemon import supervise
from agent.daemon.supervise import (
    Lifetime,
    Supervision,
    feed_watchdog,
    one_after_another,
    part,
    say_offline,
    signals,
)

if TYPE_CHECKING:
    from agent.mqtt.link import Link

pytestmark = pytest.mark.timeout(20)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what systemd is told."""
    heard: list[str] = []
    monkeypatch.setattr(supervise, "notify", heard.append)
    return heard


class Plan:
    """What runs, by its number."""

    def __init__(self, number: int) -> None:
        """Take the number."""
        self.number = number


async def test_one_runs_after_another_and_none_is_kept() -> None:
    """What made room is freed before the next one runs: it may hold models."""
    alive: list[weakref.ref[Plan]] = []
    freed: list[bool] = []

    def new(number: int) -> Plan:
        plan = Plan(number)
        alive.append(weakref.ref(plan))
        return plan

    async def run(plan: Plan) -> Plan | None:
        freed.append(all(ref() is None for ref in alive[:-1]))
        return new(plan.number + 1) if plan.number < 3 else None

    def instead(_plan: Plan, error: Exception) -> Plan:
        raise error

    left = await one_after_another(Supervision(), lambda: new(1), run, instead)
    assert left is None
    assert freed == [True, True, True]


async def test_what_cannot_run_is_replaced_or_ends_the_process() -> None:
    """The error of what cannot begin goes to whoever knows what ran before."""
    ran: list[int] = []

    async def run(plan: Plan) -> Plan | None:
        if plan.number == 2:
            raise ConfigError("no outbox")
        if plan.number == 4:
            raise Unready("no room")
        ran.append(plan.number)
        return Plan(plan.number + 1)

    def instead(plan: Plan, error: ConfigError | Unready) -> Plan:
        if isinstance(error, Unready):
            raise error
        assert str(error) == "no outbox"
        return Plan(plan.number + 1)

    with pytest.raises(Unready):
        await one_after_another(Supervision(), lambda: Plan(1), run, instead)
    assert ran == [1, 3]


async def test_a_stop_leaves_what_has_not_begun() -> None:
    """Whoever asks for the end gets it, and what was opened meanwhile is told of."""
    supervision = Supervision()

    async def run(plan: Plan) -> Plan | None:
        supervision.stop.set()
        return Plan(plan.number + 1)

    def instead(_plan: Plan, error: Exception) -> Plan:
        raise error

    left = await one_after_another(supervision, lambda: Plan(1), run, instead)
    assert left
    assert left.number == 2


@dataclass
class Work:
    """A service whose work is what the test says."""

    life: Lifetime[str]
    work: Callable[[], Coroutine[Any, Any, None]]
    reloads: Callable[[], None] = lambda: None
    finished: list[str] = field(default_factory=list)
    in_hand: int = 0

    def jobs(self) -> Mapping[str, Coroutine[Any, Any, None]]:
        """Return the work."""
        return {"work": self.work()}

    def exposed(self) -> AbstractContextManager[None]:
        """Serve nothing."""
        return nullcontext()

    async def reload(self) -> None:
        """Do as the test says."""
        self.reloads()

    def hung(self) -> Sequence[str]:
        """Hang nowhere."""
        return []

    async def finish(self) -> None:
        """Note that it was in order."""
        self.finished.append("in order")


async def idle() -> None:
    """Wait until cancelled."""
    await asyncio.Event().wait()


async def test_a_signal_ends_it_in_order(told: list[str]) -> None:
    """SIGTERM: systemd is told, what is in hand is finished, nothing follows."""
    supervision = Supervision()
    work = Work(Lifetime(supervision), idle)
    with signals(supervision):
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGTERM)
        assert await work.life.serve(work) is None
    assert told == ["STOPPING=1"]
    assert work.finished == ["in order"]


async def test_a_refused_reload_changes_nothing(told: list[str]) -> None:
    """The next one takes over: a reload that cannot be meant is said, and we go on."""
    supervision = Supervision()
    life: Lifetime[str] = Lifetime(supervision)
    results = iter(["refused", "taken"])

    def reload() -> None:
        if next(results) == "refused":
            asyncio.get_running_loop().call_soon(supervision.hangup.set)
            raise ConfigError("agent.toml: x\nagent.toml: y")
        life.make_room("the next one")

    work = Work(life, idle, reload)
    supervision.hangup.set()
    assert await life.serve(work) == "the next one"
    assert [line.partition("\n")[0] for line in told] == [
        "RELOADING=1",
        "READY=1",
        "RELOADING=1",
    ]
    assert told[1].endswith("STATUS=reload refused: agent.toml: x; agent.toml: y")


async def test_a_bug_in_a_callback_ends_it() -> None:
    """As it would in a task: systemd starts us anew."""

    async def work() -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        await idle()

    service = Work(Lifetime(Supervision()), work)
    with pytest.raises(ExceptionGroup) as caught:
        await service.life.serve(service)
    assert caught.value.subgroup(ZeroDivisionError)
    asyncio.get_running_loop().set_exception_handler(None)


async def test_the_watchdog_is_fed_unless_something_hangs(
    told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is fed each half of its time, and not while a part hangs."""
    monkeypatch.setattr(supervise, "watchdog_interval", lambda: 0.001)
    answers = [[], ["model"], ["model"], []]
    over = asyncio.Event()

    def hung() -> Sequence[str]:
        if not answers:
            over.set()
            return ["over"]
        return answers.pop(0)

    feeding = asyncio.ensure_future(feed_watchdog(hung))
    await over.wait()
    feeding.cancel()
    assert told == ["WATCHDOG=1", "WATCHDOG=1"]


@dataclass
class Road:
    """A link, whose last words are heard or not."""

    hears: bool = True
    connected: bool = True
    said: list[tuple[str, bytes, bool]] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)

    async def connection(self) -> "Road":
        """Return the connection."""
        return self

    async def publish(
        self, topic: str, payload: bytes, *, retain: bool
    ) -> "asyncio.Future[None]":
        """Hear it, or not."""
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.hears:
            self.said.append((topic, payload, retain))
            answer.set_result(None)
        else:
            answer.set_exception(Undelivered("gone"))
        return answer

    def hang_up(self) -> None:
        """Note that our last will is left to speak."""
        self.ends.append("hung up")

    async def close(self) -> None:
        """Note it."""
        self.ends.append("closed")


@pytest.mark.parametrize("hears", [True, False])
async def test_the_last_words(*, hears: bool) -> None:
    """Where the broker does not hear that we go, our last will says it."""
    road = Road(hears)
    link = cast("Link", road)
    await part(lambda: say_offline(link, "slm/pi/status"), link)
    if hears:
        assert road.said == [("slm/pi/status", b"offline", True)]
        assert road.ends == ["closed"]
    else:
        assert road.ends == ["hung up", "closed"]


async def test_nobody_waits_for_a_broker_that_is_away() -> None:
    """Without a connection there are no last words."""
    road = Road(connected=False)
    await say_offline(cast("Link", road), "slm/pi/status")
    assert road.said == []
