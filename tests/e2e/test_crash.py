"""The daemon dies; nothing is lost, and what comes twice says so by its id."""

from collections.abc import Callable

import pytest

from harness.proxy import PUBACK, Fate, Proxy, Way, all_pass, kind
from harness.stage import DEVICE, Agent, Client, Mosquitto, text_of, topic_of


def test_kill_nine(agent: Agent, client: Client) -> None:
    """Five kill -9 in a stream of 2,000: all answered, a duplicate has the same id.

    Every other message has an id from its producer, the others one made here.
    """
    for number in range(2000):
        client.ask([number], ids=number % 2 == 0)
    for number in range(1, 6):
        client.wait_answered(number * 300)
        agent.kill()
        agent.start()
    client.wait_answered(2000)
    client.wait_acked(2000)
    assert agent.terminate() == 0
    found = {topic: {r["id"] for r in rs} for topic, rs in client.results.items()}
    assert found.keys() == {topic_of(number) for number in range(2000)}
    assert [topic for topic, names in found.items() if len(names) > 1] == []
    assert len(set.union(*found.values())) == 2000
    assert all(found[topic_of(n)] == {f"m-{n}"} for n in range(0, 2000, 2))


@pytest.mark.parametrize("ids", [True, False], ids=["producer", "made"])
@pytest.mark.parametrize("lost", ["result's PUBACK", "our PUBACK"])
def test_killed_between_result_and_ack(
    proxy: Proxy,
    new_agent: Callable[..., Agent],
    client: Client,
    lost: str,
    *,
    ids: bool,
) -> None:
    """Killed after its result and before its acknowledgement, a message comes again.

    The second result carries the id of the first.
    """
    loser = Way.DEVICE if lost == "our PUBACK" else Way.BROKER

    def lose(way: Way, packet: bytes) -> Fate:
        return Fate.DROP if way is loser and kind(packet) == PUBACK else Fate.PASS

    agent = new_agent(proxy.port)
    agent.start()
    proxy.gate = lose
    client.ask([7], ids=ids)
    client.wait_answers(1)
    agent.kill()
    proxy.gate = all_pass
    agent.start()
    client.wait_answers(2)
    first, second = client.results[topic_of(7)]
    assert first["id"] == second["id"]
    assert first["received_at"] < second["received_at"]


def test_retained_message(
    proxy: Proxy, new_agent: Callable[..., Agent], client: Client
) -> None:
    """A retained text is answered once, at the first subscription; crash or not."""

    def hold(way: Way, packet: bytes) -> Fate:
        held = way is Way.DEVICE and topic_of(1).encode() in packet
        return Fate.DROP if held else Fate.PASS

    client.send(topic_of(1), text_of(1), retain=True)
    client.wait_acked(1)
    proxy.gate = hold
    agent = new_agent(proxy.port)
    agent.start()
    agent.wait_log("handled")
    agent.kill()
    proxy.gate = all_pass
    agent.start()
    client.wait_answered(1)
    proxy.drop_connections()
    agent.wait_log("disconnected")
    client.ask([2])
    client.wait_answered(2)
    assert agent.terminate() == 0
    assert len({result["id"] for result in client.results[topic_of(1)]}) == 1


def test_last_will(agent: Agent, broker: Mosquitto, client: Client) -> None:
    """Killed, the device is `offline` for all to see, also for those who come later."""
    client.wait_said(f"slm/{DEVICE}/status", b"online")
    agent.kill()
    client.wait_said(f"slm/{DEVICE}/status", b"offline")
    with Client(broker.port, "late") as late:
        late.wait_said(f"slm/{DEVICE}/status", b"offline")


def test_stop_in_mid_stream(
    broker: Mosquitto, new_agent: Callable[..., Agent], client: Client
) -> None:
    """SIGTERM: exit 0, `offline`; what was not taken is answered after the start."""
    agent = new_agent(broker.port, mqtt="max_backlog = 100")
    agent.start()
    client.ask(range(500), ids=True)
    client.wait_answered(50)
    assert agent.terminate() == 0
    client.wait_said(f"slm/{DEVICE}/status", b"offline")
    client.wait_acked(500)
    unfinished = 500 - len(client.results)
    assert unfinished
    agent.start()
    client.wait_answered(500)
    assert agent.terminate() == 0
    assert client.answers == 500  # a stop in good order repeats nothing
    assert {r["id"] for [r] in client.results.values()} == {
        f"m-{number}" for number in range(500)
    }
