"""Memory of a daemon that has worked for a while."""

import pytest

from harness.stage import Agent, Client


@pytest.mark.slow
def test_resident_memory(agent: Agent, client: Client) -> None:
    """After 10,000 messages at most 165 MB are resident, and it does not grow on."""
    resident = []
    for number in range(0, 13_000, 1000):
        client.ask(range(number, number + 1000))
        client.wait_answered(number + 1000)
        resident.append(agent.resident_mb())
    assert resident[9] <= 165
    assert max(resident[10:]) < max(resident[3:10]) + 3, resident
    assert agent.terminate() == 0
    assert client.answers == 13_000
