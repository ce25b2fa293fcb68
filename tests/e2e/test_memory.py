"""Memory of a daemon that has worked for a while."""

from collections.abc import Callable

import pytest

from harness.stage import Agent, Client, Mosquitto


@pytest.mark.parametrize(
    "thousands", [3, pytest.param(13, marks=[pytest.mark.slow, pytest.mark.long])]
)
def test_resident_memory(
    broker: Mosquitto, new_agent: Callable[..., Agent], client: Client, thousands: int
) -> None:
    """At most 165 MB are resident, and once they have settled they do not grow."""
    agent = new_agent(broker.port, fresh=True)
    agent.start()
    resident = []
    for number in range(0, thousands * 1000, 1000):
        client.ask(range(number, number + 1000))
        client.wait_answered(number + 1000)
        resident.append(agent.resident_mb())
    assert max(resident[:10]) <= 165
    if thousands > 10:
        assert max(resident[10:]) < max(resident[3:10]) + 3, resident
    assert agent.terminate() == 0
    assert client.answers == thousands * 1000
