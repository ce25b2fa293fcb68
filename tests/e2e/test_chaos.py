"""A thief of the client id, black holes, frozen processes, a flood of connections."""

import os
import signal
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from harness.proxy import Proxy, all_drop, all_pass
from harness.stage import DEVICE, Agent, Client, Mosquitto, part, text_of, topic_of

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

ROUNDS = 3
PACE_S = 0.1  # a tenth of what a loaded machine of two cores answers
HELD_S = 4.0  # how long a fault lasts
BACK_S = 10.0
FLOOD = 300
SLOW = 5.0  # times the median before, which a noisy machine may take
# What lasts a minute in life lasts a second here: how long a thief is left alone, and a
# connection lasts that forgives the failures before it. A dead link is noticed in four
# seconds, not in 45.
HURRY = {"mqtt.link.YIELD_S": 1.0, "mqtt.link.FLAP_S": 2.0, "mqtt.link.STABLE_S": 1.0}
MQTT = "keepalive_s = 2"
CONNECT = b"\x10\x0f\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x02fl"


@contextmanager
def thief(broker: Mosquitto, agent: Agent) -> Iterator[None]:
    """Take the device's id and its session until the device notices.

    It acknowledges nothing, as one frozen: one that acknowledges takes the messages for
    good, whatever the device does.
    """
    noticed = agent.count_log("client_id_taken_over")
    client = paho.Client(
        CallbackAPIVersion.VERSION2,
        client_id=f"slm-agent-{DEVICE}",
        protocol=paho.MQTTv5,
        manual_ack=True,
    )
    client.reconnect_delay_set(1, 1)
    on = threading.Event()
    client.on_connect = lambda *_: on.set()
    session = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    session.SessionExpiryInterval = 604_800
    client.connect("127.0.0.1", broker.port, clean_start=False, properties=session)
    client.loop_start()
    assert on.wait(10)
    yield
    agent.wait_log("client_id_taken_over", noticed + 1)
    part(client)


@contextmanager
def black_hole(proxy: Proxy) -> Iterator[None]:
    """Swallow every packet of both sides, and leave the connections open."""
    proxy.gate = all_drop
    yield
    proxy.gate = all_pass


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Stop a process where it is."""
    os.kill(pid, signal.SIGSTOP)
    yield
    os.kill(pid, signal.SIGCONT)


@contextmanager
def flood(broker: Mosquitto) -> Iterator[None]:
    """Open hundreds of connections: half say nothing, half say half a CONNECT."""
    with ExitStack() as stack:
        for number in range(FLOOD):
            sock = socket.create_connection(("127.0.0.1", broker.port))
            stack.callback(sock.close)
            sock.sendall(CONNECT[: len(CONNECT) * (number % 2) // 2])
        yield


@contextmanager
def stream(client: Client) -> Iterator[list[str]]:
    """Send texts without a pause, each to its own topic; give the topics."""
    sent: list[str] = []
    over = threading.Event()

    def send() -> None:
        for number in count():
            sent.append(topic_of(number))
            client.send(sent[-1], text_of(number), message_id=f"m-{number}")
            if over.wait(PACE_S):
                return

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield sent
    finally:
        over.set()
        thread.join()


def latency(client: Client, name: str) -> float:
    """Return how many seconds an idle device takes to answer."""
    topic = f"home/idle-{name}/utterance"
    begun = time.monotonic()
    client.send(topic, text_of(1))
    client.wait(lambda: topic in client.results)
    return time.monotonic() - begun


def test_chaos(
    broker: Mosquitto, proxy: Proxy, client: Client, new_agent: Callable[..., Agent]
) -> None:
    """0 lost, none answered otherwise, and soon after the last fault all is as before.

    A message that comes again carries its id.
    """
    agent = new_agent(proxy.port, hurry=HURRY, mqtt=MQTT)
    agent.start()
    before = statistics.median(latency(client, f"before-{n}") for n in range(20))
    assert broker._process
    pid = broker._process.pid
    held = threading.Event()
    with stream(client) as sent:
        for _ in range(ROUNDS):
            for fault in (
                *(thief(broker, agent), black_hole(proxy), frozen(agent.pid)),
                *(frozen(pid), flood(broker)),
            ):
                with fault:
                    held.wait(HELD_S)
                answered = len(client.results)
                client.wait(lambda least=answered: len(client.results) > least + 20)
    over = time.monotonic()
    client.wait(lambda: set(sent) <= client.results.keys(), 120)
    caught_up = time.monotonic()
    for number in count():
        if latency(client, f"after-{number}") <= max(SLOW * before, 0.1):
            break
        assert time.monotonic() - caught_up < BACK_S
    back = time.monotonic() - over
    assert client.dead == {}
    assert agent.count_log("stalled") == 0
    decided = {
        topic: {(r["id"], r["label"], r["status"]) for r in results}
        for topic, results in client.results.items()
    }
    assert [topic for topic, said in decided.items() if len(said) > 1] == []
    assert agent.count_log("client_id_taken_over") >= ROUNDS
    assert agent.terminate() == 0
    assert back < BACK_S, f"{len(sent)} sent, idle {before * 1000:.1f} ms, {back:.1f} s"
