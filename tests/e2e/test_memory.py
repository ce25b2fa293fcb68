"""Memory of a daemon that has worked for a while."""

from stage import Agent, Client


def test_resident_memory(agent: Agent, client: Client) -> None:
    """After 10,000 messages at most 150 MB are resident, and it does not grow on."""
    for number in range(0, 10_000, 1000):
        client.ask(range(number, number + 1000))
        client.wait_answered(number + 1000)
    after = agent.resident_mb()
    assert after <= 150
    for number in range(10_000, 13_000, 1000):
        client.ask(range(number, number + 1000))
        client.wait_answered(number + 1000)
    assert agent.resident_mb() < after + 2
    assert agent.terminate() == 0
    assert client.answers == 13_000
