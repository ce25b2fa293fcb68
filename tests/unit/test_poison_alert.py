"""The alert about poison: raised by each, ended by quiet."""

import asyncio
from typing import TYPE_CHECKING, cast

import pytest

from agent.core.types import Reason
from agent.protocol.messages import Topics
from agent.telemetry import poison
from agent.telemetry.alerts import Alerts
from agent.telemetry.poison import PoisonAlert
from harness.tiny import answered, unread

if TYPE_CHECKING:
    from agent.mqtt.link import Link

pytestmark = pytest.mark.timeout(10)


async def test_the_alert(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only poison raises it; it ends a while after the last one, not the first."""
    monkeypatch.setattr(poison, "QUIET_S", 1000.0)
    alerts = Alerts(cast("Link", None), Topics("pi"))
    watched = PoisonAlert(alerts)
    watched.look(answered())
    watched.look(unread())
    assert alerts.active == []
    watched.look(unread(reason=Reason.POISON))
    assert alerts.active == ["poison"]
    first = watched._end
    monkeypatch.setattr(poison, "QUIET_S", 0.0)
    watched.look(unread(reason=Reason.POISON))
    assert first
    assert first.cancelled()
    there = asyncio.Event()
    asyncio.get_running_loop().call_later(0.01, there.set)
    await there.wait()
    assert alerts.active == []
