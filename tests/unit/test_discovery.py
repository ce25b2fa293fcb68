"""What Home Assistant is told: new, gone, and what the broker does not take back."""

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from agent.core.errors import Refused
from agent.daemon.discovery import COMPONENTS, discover
from agent.protocol.homeassistant import discovery_topic

OLD = discovery_topic("old", "pi")
NEW = discovery_topic("homeassistant", "pi")


class Broker:
    """Takes what is published, but on some topics."""

    def __init__(self, *refused: str) -> None:
        """`refused`: the topics."""
        self.taken: list[tuple[str, bytes]] = []
        self._refused = refused

    async def publish(
        self, topic: str, payload: bytes, *, retain: bool
    ) -> asyncio.Future[None]:
        """Acknowledge at once."""
        assert retain
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if topic in self._refused:
            answer.set_exception(Refused("not authorized", topic))
        else:
            self.taken.append((topic, payload))
            answer.set_result(None)
        return answer


async def told(
    folder: Path, broker: Broker, rejected: list[str] | None = None
) -> list[str]:
    """Tell Home Assistant; return what an alert says of damage.

    `rejected` takes the topics that the broker refuses.
    """
    agent = SimpleNamespace(
        device=SimpleNamespace(id="pi"),
        homeassistant=SimpleNamespace(prefix="homeassistant", enable=True),
        state=SimpleNamespace(dir=folder),
    )
    parts = SimpleNamespace(
        config=SimpleNamespace(agent=agent), pipelines=[SimpleNamespace(name="home")]
    )
    damages: list[str] = []
    alerts = SimpleNamespace(state_damaged=damages.append)
    topics = SimpleNamespace(
        refused=lambda error: (
            None if rejected is None else rejected.append(error.topic)
        ),
        took=lambda _topic: None,
    )
    whole: Any = (broker, parts, alerts, topics)
    await discover(*whole)
    return [each for each in damages if each]


async def test_what_cannot_be_taken_back_keeps_nobody_off(tmp_path: Path) -> None:
    """A broker that refuses the topic of before still hears the one of now."""
    (tmp_path / COMPONENTS).write_text(json.dumps({OLD: {"slm_pi_p99": "sensor"}}))
    broker = Broker(OLD)
    assert await told(tmp_path, broker) == []
    assert [topic for topic, _ in broker.taken] == [NEW]
    assert list(json.loads((tmp_path / COMPONENTS).read_text())) == [NEW]


async def test_what_is_refused_now_is_told(tmp_path: Path) -> None:
    """The topic of now is a fault that somebody must mend; the device goes on."""
    rejected: list[str] = []
    await told(tmp_path, Broker(NEW), rejected)
    assert rejected == [NEW]
    assert not (tmp_path / COMPONENTS).exists()  # said again with the next connection
    before = json.dumps({NEW: {"slm_pi_gone": "sensor"}})
    (tmp_path / COMPONENTS).write_text(before)
    await told(tmp_path, Broker(NEW), rejected)
    assert rejected == [NEW, NEW]
    assert (tmp_path / COMPONENTS).read_text() == before  # what is gone is known then


async def test_a_damaged_memory(tmp_path: Path) -> None:
    """It is told of, and nothing is published where it names topics of others."""
    (tmp_path / COMPONENTS).write_text('{"zigbee2mqtt/lamp/set": {}}')
    broker = Broker()
    [damage] = await told(tmp_path, broker)
    assert "none of discovery" in damage
    assert [topic for topic, _ in broker.taken] == [NEW]
