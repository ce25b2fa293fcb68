"""Turns to ask upstream: in order, at the rate, and one at a time while it fails."""

import asyncio
import time

import pytest

from agent.core import circuit as module
from agent.core.pacing import Pacer

pytestmark = pytest.mark.timeout(30)


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let who fails rest for a moment only."""
    for name in ("REST_S", "MINUTE_S", "UNREACHED_S"):
        monkeypatch.setattr(module, name, 0.2)


def fail(pacer: Pacer, times: int = 1) -> None:
    """Say that calls failed."""
    for _ in range(times):
        pacer.circuit.failed(time.monotonic(), reached=True)


async def test_the_rate() -> None:
    """No two calls begin closer together than the rate allows."""
    pacer, began = Pacer(20.0), time.monotonic()
    for _ in range(5):
        async with pacer.turn():
            pacer.circuit.answered(time.monotonic())
    assert time.monotonic() - began >= 4 / 20


async def test_what_is_neither_closes_nothing() -> None:
    """A call that nobody was asked by leaves the circuit open, and the next one probes.

    So does one that is cancelled: a deadline of ours is no failure of theirs.
    """
    pacer = Pacer(1e6)
    fail(pacer, 5)
    async with pacer.turn():
        pass  # a spent budget, a full outbox
    assert pacer.circuit.is_failing
    before = pacer.circuit.next_at()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05), pacer.turn():
            await asyncio.Event().wait()
    assert pacer.circuit.is_failing
    assert pacer.circuit.next_at() == before
    async with pacer.turn():
        pacer.circuit.answered(time.monotonic())
    assert not pacer.circuit.is_failing


async def test_one_probe_at_a_time() -> None:
    """While somebody fails others wait for the one who asks, and for its answer."""
    pacer = Pacer(1e6)
    fail(pacer, 5)
    inside, most = 0, 0
    begun, answer = asyncio.Event(), asyncio.Event()

    async def ask() -> None:
        nonlocal inside, most
        async with pacer.turn():
            inside += 1
            most = max(most, inside)
            begun.set()
            await answer.wait()
            pacer.circuit.answered(time.monotonic())
            inside -= 1

    asking = [asyncio.ensure_future(ask()) for _ in range(8)]
    await begun.wait()
    await asyncio.sleep(0.3)  # longer than anybody rests
    assert inside == 1
    answer.set()
    await asyncio.gather(*asking)
    assert most == 1


async def test_a_stranger_gets_two_calls_at_first() -> None:
    """Nobody who was never heard gets a flood: of ten who ask at once, two do."""
    pacer = Pacer(1e6)
    inside, told = 0, asyncio.Event()

    async def ask() -> None:
        nonlocal inside
        async with pacer.turn():
            inside += 1
            await told.wait()
            pacer.circuit.answered(time.monotonic())

    asking = [asyncio.ensure_future(ask()) for _ in range(10)]
    for _ in range(20):
        await asyncio.sleep(0)
    assert inside == 2
    told.set()
    await asyncio.gather(*asking)
    assert inside == 10


async def test_in_order() -> None:
    """Who came first goes first, after a rest too; who gave up keeps nobody waiting."""
    pacer, order = Pacer(1e6), []
    fail(pacer, 5)

    async def ask(number: int) -> None:
        async with pacer.turn():
            order.append(number)
            pacer.circuit.answered(time.monotonic())

    asking = [asyncio.ensure_future(ask(number)) for number in range(5)]
    await asyncio.sleep(0)
    asking[0].cancel()
    asking[2].cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    assert order == [1, 3, 4]
