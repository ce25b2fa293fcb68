"""A case in, an answer out: the broker with real MQTT and a model on loopback."""

import json
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from harness.brokers import GOOD, REPLIES, SETTINGS, Broker, Device, case
from harness.provider import Provider, after
from harness.stage import Mosquitto

New = Callable[..., Broker]


@pytest.mark.parametrize("status", [500, 503, 429, 401, 400])
def test_fallback(
    new_broker: New, device: Device, model: Provider, status: int
) -> None:
    """Where the first model fails, the second is asked once, with the schema.

    The first is asked once, too, or in plainer forms where it may refuse the form.
    """
    with Provider(lambda _call: status) as broken:
        new_broker(broken.base, model.base).start()
        device.send(case(1))
        reply = device.reply("m-1")
    assert reply["model"] == "openai/model-1"
    (first, *plainer), [second] = broken.calls, model.calls
    assert bool(plainer) == (status == 400)
    assert second.body["response_format"] == first.body["response_format"]
    assert second.body["messages"] == first.body["messages"]


def test_timeout(new_broker: New, device: Device, model: Provider) -> None:
    """A model that does not answer in time is left, and the next one asked."""
    over = threading.Event()
    with Provider(after(over, GOOD)) as hung:
        new_broker(hung.base, model.base, more="timeout_s = 1").start()
        device.send(case(1))
        assert device.reply("m-1")["model"] == "openai/model-1"
        over.set()


def test_nobody_answers(new_broker: New, device: Device) -> None:
    """When all tries fail, the reply says so; sent again, it rests from the failure."""
    with Provider(lambda _call: 500) as broken:
        new_broker(broken.base, more="attempts = 2").start()
        again = case(1)
        for count in (1, 2):
            device.send(again)
            reply = device.reply("m-1", count)
            assert (reply["status"], reply["error"]) == ("error", "unavailable")
            assert len(broken.calls) == 2


def test_reply_topics(new_broker: New, device: Device, model: Provider) -> None:
    """Replies go only where the configuration lets them."""
    broker = new_broker(model.base, more='reply_topics = ["slm/+/answer"]')
    broker.start()
    device.send(case(1), reply_to="home/door/unlock")
    broker.wait_log("case", outcome="unaddressed")
    device.send(case(2))
    device.reply("m-2")
    assert len(model.calls) == 1


def test_deadline_while_waiting(new_broker: New, device: Device) -> None:
    """A case that waits for its turn until its deadline is never asked about."""
    over = threading.Event()
    with Provider(after(over, GOOD)) as model:
        broker = new_broker(model.base, more="concurrency = 1")
        broker.start()
        device.send(case(1))
        model.wait_calls(1)
        device.send(case(2, deadline_ms=int(time.time() * 1000) + 500))
        broker.wait_log("case", outcome="expired")
        over.set()
        device.reply("m-1")
    assert len(model.calls) == 1


def test_twin_with_less_time(new_broker: New, device: Device) -> None:
    """A case that came before with less time takes nothing from the one after it."""
    over = threading.Event()
    with Provider(after(over, GOOD)) as model:
        broker = new_broker(model.base, more="concurrency = 1")
        broker.start()
        device.send(case(1))
        model.wait_calls(1)
        device.send(case(2, deadline_ms=int(time.time() * 1000) + 2000), b"short")
        device.send(case(2), b"long")
        broker.wait_log("case", id="m-2", outcome="expired")
        over.set()
        assert device.reply(b"long")["status"] == "ok"
    assert len(model.calls) == 2
    assert not device.replies[b"short"]


def test_answer_too_large_for_mqtt(tmp_path: Path, model: Provider) -> None:
    """An answer that MQTT does not carry to the group does not end the connection."""
    with ExitStack() as stack:
        settings = f"{SETTINGS}max_packet_size 6000\n"
        mosquitto = Mosquitto(tmp_path / "mosquitto", settings)
        stack.enter_context(closing(mosquitto)).start()
        device = stack.enter_context(closing(Device(mosquitto.port)))
        broker = stack.enter_context(
            closing(Broker(tmp_path, mosquitto.port, [model.base]))
        )
        broker.start()
        named = [{"label": "place", "text": "hall"}] * 200
        model.answer = lambda _call: json.dumps({"label": "off", "entities": named})
        device.send(case(1, text="hall " * 200))
        assert device.reply("m-1")["error"] == "reply too large"
        model.answer = lambda _call: GOOD
        device.send(case(2))
        assert device.reply("m-2")["status"] == "ok"
        assert broker.count_log("disconnected") == 0


def test_mqtt_3(new_broker: New, mosquitto: object, model: Provider) -> None:
    """With MQTT 3.1.1 the payload says where the reply goes, and the id names it."""
    device = Device(mosquitto.port, version=4)  # type: ignore[attr-defined]
    new_broker(model.base, mqtt='version = "3.1.1"').start()
    device.send(case(1, reply_to=REPLIES))
    assert device.reply("m-1")["status"] == "ok"
    device.close()


def test_health(new_broker: New, device: Device, model: Provider) -> None:
    """Status and health say what is up, what was done, and what it cost."""
    broker = new_broker(
        model.base,
        more="[budget]\ncalls_per_day = 10\nmoney_per_day = 1.0",
        hurry={"status.HEALTH_S": 0.1},
    )
    broker.start()
    device.send(case(1))
    device.reply("m-1")
    health = device.health("one", lambda h: h["cases"] == {"ok": 1})
    assert health["calls"] == 1
    assert (health["input_tokens"], health["output_tokens"]) == (100, 20)
    assert health["cost"] == pytest.approx(0.0003)
    assert health["budget_left"]["calls"] == 9
    assert health["budget_left"]["money"] == pytest.approx(0.9997)
    assert health["budget_left"]["tokens"] is None
    assert health["models"] == ["openai/model-0"]
    assert health["ms_p50"] > 0
    assert device.said["slm/broker/one/status"] == [b"online"]
    broker.kill()
    device.wait(lambda: device.said["slm/broker/one/status"][-1] == b"offline")


def test_a_full_disk(
    new_broker: New,
    device: Device,
    model: Provider,
) -> None:
    """A disk without any room ends nothing: what was paid for is told, and once."""
    broker = new_broker(
        model.base,
        hurry={
            "status.HEALTH_S": 0.1,
            "main.Store.write": "__import__('harness.full_disk').full_disk.write",
        },
    )
    broker.start()
    device.send(case(1))
    assert device.reply("m-1")["status"] == "ok"
    told = device.said["slm/broker/one/health"]
    seen = len(told)
    device.wait(lambda: len(told) > seen + 3)
    device.send(case(2))
    assert device.reply("m-2")["status"] == "ok"
    assert broker.terminate() == 0
    assert len(model.calls) == 2


@pytest.mark.parametrize("shared", [False, True])
def test_whose_answers_are_given_again(
    new_broker: New, device: Device, model: Provider, *, shared: bool
) -> None:
    """What one device paid for is given to others only where the operator says so.

    And whatever leads a model on, as a guess does, makes another question.
    """
    more = f"cache = {{shared = {str(shared).lower()}}}"
    broker = new_broker(model.base, more=more)
    broker.start()
    text = "turn off the lights in the hall"

    def answered(number: int, name: str, **having: Any) -> None:
        one = case(number, text=text, device=name, **having)
        device.send(one, reply_to=f"slm/{name}/answer")
        broker.wait_log("case", id=one.id, outcome="ok")

    answered(1, "pi")
    answered(2, "pi-2")
    assert len(model.calls) == (1 if shared else 2)
    answered(3, "pi", guess={"label": "on", "entities": []})
    answered(4, "pi")
    assert len(model.calls) == (2 if shared else 3)


def test_same_question(new_broker: New, device: Device, model: Provider) -> None:
    """The same question under another id is answered from the cache, free of charge."""
    new_broker(model.base, hurry={"status.HEALTH_S": 0.1}).start()
    text = "turn off the lights in the hall"
    device.send(case(1, text=text))
    device.reply("m-1")
    device.send(case(2, text=text))
    reply = device.reply("m-2")
    assert (reply["id"], reply["answer"]) == ("m-2", json.loads(GOOD))
    assert reply["usage"] == {"input_tokens": 0, "output_tokens": 0, "cost": 0.0}
    device.send(case(3, text=text, labels={"off": "switch off"}))
    device.reply("m-3")
    assert len(model.calls) == 2
    assert device.health("one", lambda h: h["cache_hits"] == 1)
