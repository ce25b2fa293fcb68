"""A device that is given another name, as one moves a Pi to another room."""

import json
from collections.abc import Callable

from agent.mqtt.message_ids import new_ulid
from harness.stage import Agent, Client, Mosquitto


def retained(broker: Mosquitto, name: str) -> dict[str, bytes]:
    """Return what is retained under a device's name, as who comes now hears it."""
    probe = f"slm/probe/{new_ulid().hex()}"  # each time a new client: no old session
    with Client(broker.port, probe[-23:]) as late:
        late.send(probe, b"x")  # comes after all that was retained
        late.wait(lambda: probe in late.said)
        return {t: said[-1] for t, said in late.said.items() if f"/{name}/" in t}


def test_nothing_stays_under_the_old_name(
    broker: Mosquitto, new_agent: Callable[..., Agent]
) -> None:
    """After `device.id` changed, only the new name has a status, a birth, a health."""
    agent = new_agent(broker.port, device="kitchen")
    agent.start()
    assert agent.terminate() == 0
    assert retained(broker, "kitchen")["slm/kitchen/status"] == b"offline"
    text = agent.config.read_text("utf-8")
    agent.config.write_text(text.replace('"kitchen"', '"hall"'), "utf-8")
    agent.start()
    agent.wait_log("renamed", old="kitchen", device="hall")
    agent.wait_log("connected", 2)
    assert not retained(broker, "kitchen")
    now = retained(broker, "hall")
    assert now["slm/hall/status"] == b"online"
    assert json.loads(now["slm/hall/birth"])["device"] == "hall"
    assert agent.terminate() == 0
