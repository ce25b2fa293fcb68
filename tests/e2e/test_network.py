"""Broker gone, network gone: the daemon stays, comes back, and loses nothing."""

import time
from collections.abc import Callable

import pytest

from harness.proxy import PUBLISH, Fate, Proxy, Way, all_drop, all_pass, kind
from harness.stage import DEVICE, Agent, Client, Mosquitto, topic_of

STATUS = f"slm/{DEVICE}/status"


def check_all(client: Client, number: int) -> None:
    """Check that each message has a final result, and all of its results one id."""
    assert client.results.keys() == {topic_of(n) for n in range(number)}
    for n in range(number):
        assert {r["id"] for r in client.results[topic_of(n)]} == {f"m-{n}"}


def test_broker_restarted(agent: Agent, broker: Mosquitto, client: Client) -> None:
    """Mosquitto stopped and started in mid-stream: every message is answered."""
    client.ask(range(1500), ids=True)
    for number in (200, 600, 1000):
        client.wait_answered(number)
        broker.stop()
        agent.wait_log("disconnected", number // 400 + 1)
        broker.start()
    client.wait_answered(1500)
    check_all(client, 1500)
    assert agent.terminate() == 0


def test_network_cut(
    proxy: Proxy, new_agent: Callable[..., Agent], client: Client
) -> None:
    """TCP cut again and again in mid-stream: all answered, duplicates have one id."""
    agent = new_agent(proxy.port)
    agent.start()
    for number in range(600):
        client.ask([number], ids=number % 2 == 0)
    for number in range(1, 4):
        client.wait_answered(number * 120)
        proxy.cut()
        proxy.restore()
        agent.wait_log("connected", number + 1)
    client.wait_answered(600)
    found = {topic: {r["id"] for r in rs} for topic, rs in client.results.items()}
    assert len(found) == 600
    assert len(set.union(*found.values())) == 600
    assert agent.terminate() == 0


@pytest.mark.slow
def test_network_cut_ten_seconds(
    proxy: Proxy, new_agent: Callable[..., Agent], client: Client
) -> None:
    """TCP cut for 10 s in mid-stream: the daemon is back by itself, nothing is lost."""
    agent = new_agent(proxy.port)
    agent.start()
    client.ask(range(500), ids=True)
    client.wait_answered(100)
    proxy.cut()
    time.sleep(10)  # not to wait for something: this is the fault
    proxy.restore()
    client.wait_answered(500)
    check_all(client, 500)
    assert agent.terminate() == 0


def test_black_hole(
    proxy: Proxy, new_agent: Callable[..., Agent], client: Client
) -> None:
    """A network that swallows all is noticed by the keepalive; nothing is lost."""
    agent = new_agent(proxy.port, mqtt="keepalive_s = 2")
    agent.start()
    client.ask(range(500), ids=True)
    client.wait_answered(100)
    proxy.gate = all_drop
    agent.wait_log("disconnected")
    proxy.gate = all_pass
    proxy.drop_connections()
    client.wait_answered(500)
    check_all(client, 500)
    assert agent.terminate() == 0


def test_a_goodbye_that_is_lost(
    proxy: Proxy, new_agent: Callable[..., Agent], client: Client
) -> None:
    """Where the broker does not hear `offline`, our last will says it."""

    def lose(way: Way, packet: bytes) -> Fate:
        said = way is Way.DEVICE and kind(packet) == PUBLISH and b"offline" in packet
        return Fate.DROP if said else Fate.PASS

    agent = new_agent(proxy.port)
    agent.start()
    client.wait_said(STATUS, b"online")
    proxy.gate = lose
    assert agent.terminate() == 0
    assert agent.count_log("offline_not_said") == 1
    client.wait(lambda: client.said[STATUS][-1] == b"offline")


def test_a_boot_does_not_wait_for_the_broker(
    broker: Mosquitto, new_agent: Callable[..., Agent]
) -> None:
    """Without a broker systemd hears after a while that we are there, and why."""
    broker.stop()
    agent = new_agent(broker.port, hurry={"daemon.app.PATIENCE_S": 0.1})
    agent.start(ready=False)
    assert "no connection to" in agent.wait_told("READY=1")
    assert agent.terminate() == 0


def test_start_without_broker(
    broker: Mosquitto, new_agent: Callable[..., Agent]
) -> None:
    """Without a broker the daemon stays up, and is ready once there is one."""
    broker.stop()
    agent = new_agent(broker.port)
    agent.start(ready=False)
    agent.wait_log("connect_failed")
    broker.start()
    agent.wait_told("READY=1")
    with Client(broker.port) as client:
        client.ask([1])
        client.wait_answered(1)
    broker.stop()
    agent.wait_log("disconnected")
    assert agent.terminate() == 0  # also without one
