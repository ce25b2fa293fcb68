"""Alerts: what the broker keeps is what is so, whatever it missed."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import pytest

from agent.core.errors import Undelivered
from agent.protocol.messages import Topics
from agent.telemetry.alerts import Alerts

if TYPE_CHECKING:
    from agent.mqtt.link import Link

TOPIC = "slm/pi/alert/disk_low"


@dataclass
class Broker:
    """A link and its connection: keeps what is retained, if it can be reached."""

    there: bool = True
    retained: dict[str, bytes] = field(default_factory=dict)

    async def connection(self) -> "Broker":
        """Return the connection."""
        return self

    async def publish(
        self, topic: str, payload: bytes, *, retain: bool
    ) -> "asyncio.Future[None]":
        """Keep a payload, or fail."""
        assert retain
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.there:
            self.retained[topic] = payload
            answer.set_result(None)
        else:
            answer.set_exception(Undelivered("gone"))
        return answer


@dataclass
class Bench:
    """Alerts on their way to a broker."""

    broker: Broker
    alerts: Alerts

    async def settle(self) -> None:
        """Let everything run that can."""
        for _ in range(50):
            await asyncio.sleep(0)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """Run alerts."""
    broker = Broker()
    alerts = Alerts(cast("Link", broker), Topics("pi"))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(alerts.run())
        yield Bench(broker, alerts)
        task.cancel()


async def test_up_and_over(bench: Bench) -> None:
    """An alert is retained while it is active, and emptied when it is over."""
    bench.alerts.activate("disk_low", "5 MB")
    await bench.settle()
    assert b"5 MB" in bench.broker.retained[TOPIC]
    assert bench.alerts.active == ["disk_low"]
    bench.alerts.clear("disk_low")
    await bench.settle()
    assert bench.broker.retained[TOPIC] == b""
    assert bench.alerts.active == []


async def test_over_while_nobody_hears(bench: Bench) -> None:
    """That an alert is over is said after the reconnect, if it was not heard before."""
    bench.alerts.activate("disk_low", "5 MB")
    await bench.settle()
    bench.broker.there = False
    bench.alerts.clear("disk_low")
    await bench.settle()
    assert bench.broker.retained[TOPIC]
    bench.broker.there = True
    bench.alerts.repeat()
    await bench.settle()
    assert bench.broker.retained[TOPIC] == b""


async def test_a_broker_that_forgot(bench: Bench) -> None:
    """What is active is said again after a reconnect."""
    bench.alerts.activate("disk_low", "5 MB")
    await bench.settle()
    bench.broker.retained.clear()
    bench.alerts.repeat()
    await bench.settle()
    assert b"5 MB" in bench.broker.retained[TOPIC]
