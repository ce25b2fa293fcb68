"""Brokers of a group whose connections break: nobody waits in vain, nor pays again."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Any

from harness.brokers import GOOD, Broker, Device, case
from harness.provider import Call, Provider
from harness.proxy import Fate, Proxy, Way
from harness.stage import Mosquitto

New = Callable[..., Broker]
PLAIN = "cache = { entries = 0 }\nconcurrency = 8"
HURRY = {"status.HEALTH_S": 0.1}


def words(device: Device, say: str) -> list[dict[str, Any]]:
    """Return what the brokers said to each other, of one kind."""
    said = map(json.loads, list(device.said["slm/broker/slm-broker/claim"]))
    return [word for word in said if word["say"] == say]


@dataclass
class Scene:
    """Brokers of which one holds a case, and another waits for its answer."""

    device: Device
    model: Provider
    over: threading.Event  # the model answers the first call
    brokers: dict[str, Broker]
    proxies: dict[str, Proxy]
    holder: str
    waiter: str

    def cut(self, name: str) -> None:
        """Cut a broker off, until MQTT tells the others."""
        self.proxies[name].cut()
        self.wait_member(name, b"offline")

    def wait_member(self, name: str, said: bytes) -> None:
        """Wait until MQTT says of a broker that it is there, or gone."""
        topic = f"slm/broker/slm-broker/member/{name}"
        self.device.wait(lambda: self.device.said[topic][-1] == said)


@contextmanager
def one_waits(
    mosquitto: Mosquitto, new_broker: New, names: str, **hurry: float
) -> Iterator[Scene]:
    """Set the scene: brokers by their names, and a case that came to two of them."""
    over = threading.Event()

    def first_hangs(_call: Call) -> str:
        if len(model.calls) == 1:
            over.wait(60)
        return GOOD

    with ExitStack() as stack:
        model = stack.enter_context(Provider(first_hangs))
        stack.callback(over.set)
        device = stack.enter_context(closing(Device(mosquitto.port)))
        proxies = {name: Proxy(mosquitto.port) for name in names}
        brokers = {}
        for name, proxy in proxies.items():
            stack.callback(proxy.cut)
            brokers[name] = new_broker(
                model.base,
                name=name,
                more=PLAIN,
                url=f"mqtt://127.0.0.1:{proxy.port}",
                hurry=HURRY | {f"group.{key}": value for key, value in hurry.items()},
            )
            brokers[name].start()
        for copy in (b"1", b"2"):
            device.send(case(1), correlation=copy)
        model.wait_calls(1)
        holder = words(device, "claim")[0]["by"]

        def waiting() -> list[str]:
            return [
                name
                for name in names
                if name != holder
                and device.said[f"slm/broker/{name}/health"]
                and json.loads(device.said[f"slm/broker/{name}/health"][-1])[
                    "in_flight"
                ]
            ]

        device.wait(lambda: bool(waiting()))
        [waiter] = waiting()
        yield Scene(device, model, over, brokers, proxies, holder, waiter)


def test_the_end_of_a_claim_is_missed(mosquitto: Mosquitto, new_broker: New) -> None:
    """Who waits for another, and misses its answer and its going, asks by itself."""
    with one_waits(mosquitto, new_broker, "ab", WELCOME_S=1.0) as scene:
        scene.cut(scene.waiter)
        scene.over.set()
        scene.device.wait(lambda: len(scene.device.replies) == 1)
        scene.cut(scene.holder)
        scene.proxies[scene.waiter].restore()
        scene.device.wait(lambda: len(scene.device.replies) == 2)


def test_the_claim_of_the_dead_is_void(mosquitto: Mosquitto, new_broker: New) -> None:
    """Who was away as the holder died hears from a third that the case is free."""
    with one_waits(mosquitto, new_broker, "abc", WELCOME_S=1.0) as scene:
        scene.cut(scene.waiter)
        scene.brokers[scene.holder].kill()
        scene.wait_member(scene.holder, b"offline")
        scene.proxies[scene.waiter].restore()
        scene.device.wait(lambda: len(scene.device.replies) == 1)


def test_the_first_back_waits(mosquitto: Mosquitto, new_broker: New) -> None:
    """Who is back first after all were cut off waits for the holder, and pays not."""
    with one_waits(mosquitto, new_broker, "ab", WELCOME_S=3600) as scene:
        scene.cut(scene.waiter)
        scene.cut(scene.holder)
        for name in (scene.waiter, scene.holder):
            scene.proxies[name].restore()
            scene.wait_member(name, b"online")
        scene.over.set()
        scene.device.wait(lambda: len(scene.device.replies) == 2)
        assert len(scene.model.calls) == 1


def test_told_while_the_other_was_away(
    proxy: Proxy, new_broker: New, device: Device, model: Provider
) -> None:
    """A broker learns what another answered before it came, once that one is back."""
    url = f"mqtt://127.0.0.1:{proxy.port}"
    old = new_broker(model.base, name="old", more=PLAIN, url=url)
    old.start()
    again = case(1)
    device.send(again)
    device.reply("m-1")
    proxy.cut()
    device.wait(lambda: b"offline" in device.said["slm/broker/slm-broker/member/old"])
    new_broker(model.base, name="new", more=PLAIN).start()
    proxy.restore()
    device.wait(lambda: {"old", "new"} == {w["by"] for w in words(device, "welcome")})
    for count in range(4):
        device.send(again, correlation=b"%d" % count)
        device.reply(b"%d" % count)
    assert len(model.calls) == 1


def test_cut_while_it_comes(proxy: Proxy, new_broker: New, model: Provider) -> None:
    """A broker whose connection breaks while it waits to be welcomed comes again."""
    cuts = []

    def gate(way: Way, packet: bytes) -> Fate:
        if way is Way.BROKER and b'"say":"welcome"' in packet and not cuts:
            cuts.append(packet)
            return Fate.CUT
        return Fate.PASS

    new_broker(model.base, name="one", more=PLAIN).start()
    proxy.gate = gate
    patient = {
        "group.WELCOME_S": 3600,
        "group.Link._connect.__globals__['INTRODUCTION_S']": 3600,
    }
    url = f"mqtt://127.0.0.1:{proxy.port}"
    new_broker(model.base, name="two", url=url, hurry=patient).start()
    assert cuts
