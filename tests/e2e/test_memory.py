"""Memory of a daemon that has worked for a while."""

from collections.abc import Callable

import pytest

from harness.stage import Agent, Client, Mosquitto


@pytest.mark.slow
def test_resident_memory(
    broker: Mosquitto, new_agent: Callable[..., Agent], client: Client
) -> None:
    """After 10,000 messages at most 165 MB are resident, and it does not grow on."""
    agent = new_agent(broker.port, fresh=True)
    agent.start()
    resident = []
    for number in range(0, 13_000, 1000):
        client.ask(range(number, number + 1000))
        client.wait_answered(number + 1000)
        resident.append(agent.resident_mb())
    assert resident[9] <= 165
    assert max(resident[10:]) < max(resident[3:10]) + 3, resident
    assert agent.terminate() == 0
    assert client.answers == 13_000
