"""SIGHUP: another configuration takes over without losing a case, or is refused."""

import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from harness.brokers import GOOD, Broker, Device, case
from harness.provider import Provider, after
from harness.stage import Mosquitto

New = Callable[..., Broker]
PLAIN = "cache = { entries = 0 }\n"


def hang_up(broker: Broker) -> None:
    """Ask a broker to reload, and do not wait."""
    os.kill(broker.pid, signal.SIGHUP)


def change(broker: Broker, before: str, after: str) -> None:
    """Change broker.toml."""
    text = broker.config.read_text("utf-8")
    assert before in text
    broker.config.write_text(text.replace(before, after), "utf-8")


@contextmanager
def gated() -> Iterator[tuple[Provider, threading.Event]]:
    """Run a model that answers once the gate is open."""
    gate = threading.Event()
    with Provider(after(gate, GOOD)) as model:
        try:
            yield model, gate
        finally:
            gate.set()


def asked_once(*models: Provider) -> bool:
    """Tell whether no case was asked about twice, by any model."""
    asked = Counter(call.text for model in models for call in model.calls)
    return set(asked.values()) == {1}


def test_another_model_while_cases_are_in_flight(
    new_broker: New, device: Device, model: Provider
) -> None:
    """What is in hand the old model answers, what comes later the new one; all once."""
    with gated() as (old, gate):
        broker = new_broker(old.base, more=PLAIN + "concurrency = 2")
        broker.start()
        for number in range(6):
            device.send(case(number))
        old.wait_calls(2)
        change(broker, old.base, model.base)
        change(broker, "openai/model-0", "openai/another")
        hang_up(broker)
        broker.wait_log("stopping")
        for number in range(6, 12):
            device.send(case(number))
        device.wait(lambda: device.acked == 12)
        gate.set()
        replies = [device.reply(f"m-{number}") for number in range(12)]
        by = Counter(reply["model"] for reply in replies)
        assert by == {"openai/model-0": 6, "openai/another": 6}
        assert (len(old.calls), len(model.calls)) == (6, 6)
        assert asked_once(old, model)
    device.health("one", lambda h: h["models"] == ["openai/another"])
    assert broker.terminate() == 0
    assert all(len(replies) == 1 for replies in device.replies.values())
    assert device.said["slm/broker/one/status"][-1] == b"offline"


def test_what_was_not_asked_is_handed_over(
    new_broker: New, device: Device, model: Provider
) -> None:
    """A reload waits for the answer that is paid, and leaves the rest for later."""
    with gated() as (old, gate):
        broker = new_broker(
            old.base, more=PLAIN + "concurrency = 1", hurry={"service.FINISH_S": 0.2}
        )
        broker.start()
        for number in range(3):
            device.send(case(number))
        old.wait_calls(1)
        change(broker, old.base, model.base)
        hang_up(broker)
        broker.wait_log("left_unfinished", cases=3)
        gate.set()
        for number in range(3):
            device.reply(f"m-{number}")
        assert (len(old.calls), len(model.calls)) == (1, 2)
        assert asked_once(old, model)
    assert all(len(replies) == 1 for replies in device.replies.values())


def test_a_stop_ends_the_wait_of_a_reload(new_broker: New, device: Device) -> None:
    """SIGTERM while a reload waits: it ends in order, and nothing is lost."""
    with gated() as (model, gate):
        broker = new_broker(model.base, more=PLAIN, hurry={"service.FINISH_S": 0.2})
        broker.start()
        device.send(case(1))
        model.wait_calls(1)
        hang_up(broker)
        broker.wait_log("left_unfinished")
        assert broker.terminate() == 0
        gate.set()
        broker.start()
        assert device.reply("m-1")["status"] == "ok"


BAD = {
    "not TOML": ("[broker]", "[broker", "not valid TOML"),
    "unknown key": ("[broker]", "[broker]\ncolour = 1", "broker.colour: unknown key"),
    "no key": ('key_file = "key"', 'key_file = "gone"', "models.0.key_file"),
    "no price": (
        "price_in = 1.0\nprice_out = 10.0",
        "[budget]\nmoney_per_day = 1",
        "nobody knows what openai/model-0 costs",
    ),
    "no state": ('dir = "state"', 'dir = "broker.toml/state"', "broker.toml/state"),
}


def test_bad_files_are_refused(
    new_broker: New, device: Device, model: Provider
) -> None:
    """It goes on with the good one, and says why in its log and health."""
    broker = new_broker(model.base, more=PLAIN)
    broker.start()
    good = broker.config.read_text("utf-8")
    for number, (right, wrong, why) in enumerate(BAD.values()):
        change(broker, right, wrong)
        hang_up(broker)
        device.health("one", lambda h, why=why: why in (h["reload_refused"] or ""))
        assert why in broker.wait_log("reload_refused", count=number + 1)["why"]
        device.send(case(2 * number))
        assert device.reply(f"m-{2 * number}")["status"] == "ok"
        broker.config.write_text(good, "utf-8")
        hang_up(broker)
        device.health("one", lambda h: h["reload_refused"] is None)
        device.send(case(2 * number + 1))
        assert device.reply(f"m-{2 * number + 1}")["status"] == "ok"
    assert broker.terminate() == 0


def test_the_unit_is_told(new_broker: New, model: Provider) -> None:
    """Systemd hears when a reload begins, and that it ended, refused or not."""
    broker = new_broker(model.base)
    broker.start()
    hang_up(broker)
    broker.wait_told("RELOADING=1\nMONOTONIC_USEC=")
    broker.wait_told("READY=1\nSTATUS=connecting")
    broker.wait_told("READY=1\nSTATUS=connected")
    change(broker, "[broker]", "[brokr]")
    hang_up(broker)
    broker.wait_told("RELOADING=1")
    broker.wait_told("READY=1\nSTATUS=reload refused: ")


def test_without_mqtt(new_broker: New, mosquitto: Mosquitto, model: Provider) -> None:
    """A reload needs no MQTT: it may be what brings it back."""
    broker = new_broker(model.base, url="mqtt://127.0.0.1:1")
    broker.start(ready=False)
    broker.wait_log("connect_failed")
    change(broker, "mqtt://127.0.0.1:1", f"mqtt://127.0.0.1:{mosquitto.port}")
    hang_up(broker)
    broker.wait_told("READY=1\nSTATUS=connected")


def test_another_name_and_place(
    new_broker: New, device: Device, model: Provider
) -> None:
    """Under another name it leaves nothing behind: no status, and no subscription."""
    broker = new_broker(model.base, more=PLAIN)
    broker.start()
    change(broker, 'name = "one"', 'name = "two"\ngroup = "others"')
    hang_up(broker)
    device.wait(lambda: device.said["slm/broker/two/status"] == [b"online"])
    device.wait(lambda: device.said["slm/broker/one/status"][-1] == b"offline")
    for number in range(10):
        device.send(case(number))
    for number in range(10):
        device.reply(f"m-{number}")
    broker.wait_log("case", count=10)
    assert asked_once(model)


def test_in_a_group(new_broker: New, device: Device, model: Provider) -> None:
    """One of two brokers reloads under load: no case is paid for twice."""
    one, two = (new_broker(model.base, name=n, more=PLAIN) for n in ("one", "two"))
    one.start()
    two.start()
    for number in range(200):
        for copy in "ab":
            device.send(case(number), correlation=f"{copy}-{number}".encode())
        if number % 50 == 25:
            hang_up(one)
            one.wait_told("READY=1\nSTATUS=connected")
    device.wait(lambda: len(device.replies) == 400)
    assert asked_once(model)
    told = device.said["slm/broker/slm-broker/answer"]
    assert {json.loads(body)["by"] for body in told} == {"one", "two"}
