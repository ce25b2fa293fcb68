"""A case in, an answer out: the broker with real MQTT and a model on loopback."""

import json
import threading
import time
from collections.abc import Callable

import pytest
from brokers import GOOD, REPLIES, Broker, Device, case
from provider import Call, Provider

New = Callable[..., Broker]


def test_answer(new_broker: New, device: Device, model: Provider) -> None:
    """A valid answer comes back with its id, correlation, usage, cost and model."""
    new_broker(model.base).start()
    device.send(case(1), correlation=b"\x00\xff-1")
    assert device.reply(b"\x00\xff-1") == {
        "id": "m-1",
        "status": "ok",
        "answer": json.loads(GOOD),
        "usage": {
            "input_tokens": 100,
            "output_tokens": 20,
            "cost": pytest.approx(0.0003),
        },
        "model": "openai/model-0",
    }
    [call] = model.calls
    assert call.body["response_format"]["type"] == "json_schema"
    assert call.headers["authorization"] == "Bearer secret"


def test_repair(new_broker: New, device: Device, model: Provider) -> None:
    """An invalid answer goes back once, with what is wrong; both calls are counted."""
    bad = json.dumps({"label": "dim", "entities": []})
    model.answer = lambda _call: bad if len(model.calls) == 1 else GOOD
    new_broker(model.base).start()
    device.send(case(1))
    reply = device.reply("m-1")
    assert reply["status"] == "ok"
    assert reply["usage"]["input_tokens"] == 200
    [_, second] = model.calls
    assert second.body["messages"][-2] == {
        "role": "assistant",
        "content": '{"label":"dim","entities":[]}',
    }
    assert "'dim' is not one of the labels" in second.body["messages"][-1]["content"]


@pytest.mark.parametrize(
    "bad",
    [
        '{"label": "off", "entities": [{"label": "place", "text": "attic"}]}',
        "I would say: off",
        "",
    ],
)
def test_abstains_after_two(
    new_broker: New, device: Device, model: Provider, bad: str
) -> None:
    """After two answers that are not valid it abstains; sent again, nobody is asked."""
    model.answer = lambda _call: bad
    new_broker(model.base).start()
    for count in (1, 2):
        device.send(case(1, deadline_ms=4_000_000_000_000))
        reply = device.reply("m-1", count)
        assert reply["status"] == "abstain"
        assert "answer" not in reply
    assert len(model.calls) == 2


def test_nothing_fits(new_broker: New, device: Device, model: Provider) -> None:
    """A model that says that nothing fits is taken at its word."""
    model.answer = lambda _call: '{"label": null, "entities": []}'
    new_broker(model.base).start()
    device.send(case(1))
    assert device.reply("m-1")["status"] == "abstain"
    assert len(model.calls) == 1


@pytest.mark.parametrize("status", [500, 503, 429, 401, 400])
def test_fallback(
    new_broker: New, device: Device, model: Provider, status: int
) -> None:
    """Where the first model fails, the second is asked, with the schema, once each."""
    with Provider(lambda _call: status) as broken:
        new_broker(broken.base, model.base).start()
        device.send(case(1))
        reply = device.reply("m-1")
    assert reply["model"] == "openai/model-1"
    [first], [second] = broken.calls, model.calls
    assert second.body["response_format"] == first.body["response_format"]
    assert second.body["messages"] == first.body["messages"]


def test_timeout(new_broker: New, device: Device, model: Provider) -> None:
    """A model that does not answer in time is left, and the next one asked."""
    over = threading.Event()

    def hang(_call: Call) -> str:
        over.wait(60)
        return GOOD

    with Provider(hang) as hung:
        new_broker(hung.base, model.base, more="timeout_s = 1").start()
        device.send(case(1))
        assert device.reply("m-1")["model"] == "openai/model-1"
        over.set()


def test_nobody_answers(new_broker: New, device: Device) -> None:
    """When all tries fail, the reply says so; sent again, the case is tried again."""
    with Provider(lambda _call: 500) as broken:
        new_broker(broken.base, more="attempts = 2").start()
        again = case(1)
        for count in (1, 2):
            device.send(again)
            reply = device.reply("m-1", count)
            assert (reply["status"], reply["error"]) == ("error", "unavailable")
            assert len(broken.calls) == 2 * count


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"not JSON", "Invalid JSON"),
        (b'{"id": "m-9"}', "device: Field required"),
        (b"[1]", "object"),
        (b"\xff\xfe", "Invalid JSON"),
        (
            b'{"id":"m-9","device":"d","pipeline":"p","text":"t","deadline_ms":1}',
            "neither labels nor entities",
        ),
    ],
)
def test_broken_case(
    new_broker: New, device: Device, model: Provider, payload: bytes, why: str
) -> None:
    """A broken case gets an error reply that says why, and does not come again."""
    new_broker(model.base).start()
    device.send(payload, correlation=b"c")
    reply = device.reply(b"c")
    assert reply["status"] == "error"
    assert why in reply["error"]
    assert reply["id"] == ("m-9" if b"m-9" in payload else "")
    device.send(case(1))
    device.reply("m-1")
    assert len(model.calls) == 1


@pytest.mark.parametrize(
    "reply_to", ["", "slm/broker/one/status", "slm/upstream/home", "$SYS/x"]
)
def test_nowhere_to_reply(
    new_broker: New, device: Device, model: Provider, reply_to: str
) -> None:
    """A case whose reply nobody could hear, or only we, is not paid for."""
    broker = new_broker(model.base)
    broker.start()
    device.send(case(1), reply_to=reply_to)
    broker.wait_log("case", outcome="unaddressed")
    assert model.calls == []


def test_reply_topics(new_broker: New, device: Device, model: Provider) -> None:
    """Replies go only where the configuration lets them."""
    broker = new_broker(model.base, more='reply_topics = ["slm/+/answer"]')
    broker.start()
    device.send(case(1), reply_to="home/door/unlock")
    broker.wait_log("case", outcome="unaddressed")
    device.send(case(2))
    device.reply("m-2")
    assert len(model.calls) == 1


def test_expired(new_broker: New, device: Device, model: Provider) -> None:
    """A case whose deadline has passed is dropped, counted, and not paid for."""
    broker = new_broker(model.base, hurry={"service.HEALTH_S": 0.1})
    broker.start()
    device.send(case(1, deadline_ms=int(time.time() * 1000) - 1))
    device.send(case(2))
    device.reply("m-2")
    health = device.health("one", lambda h: h["cases"].get("ok") == 1)
    assert health["cases"] == {"expired": 1, "ok": 1}
    assert len(model.calls) == 1
    assert b"m-1" not in device.replies


def test_deadline_while_waiting(new_broker: New, device: Device) -> None:
    """A case that waits for its turn until its deadline is never asked about."""
    over = threading.Event()

    def slow(_call: Call) -> str:
        over.wait(60)
        return GOOD

    with Provider(slow) as model:
        broker = new_broker(model.base, more="concurrency = 1")
        broker.start()
        device.send(case(1))
        model.wait_calls(1)
        device.send(case(2, deadline_ms=int(time.time() * 1000) + 500))
        broker.wait_log("case", outcome="expired")
        over.set()
        device.reply("m-1")
    assert len(model.calls) == 1


def test_mqtt_3(new_broker: New, mosquitto: object, model: Provider) -> None:
    """With MQTT 3.1.1 the payload says where the reply goes, and the id names it."""
    device = Device(mosquitto.port, version=4)  # type: ignore[attr-defined]
    new_broker(model.base, mqtt='version = "3.1.1"').start()
    device.send(case(1, reply_to=REPLIES))
    assert device.reply("m-1")["status"] == "ok"
    device.close()


def test_asked_with_repair(new_broker: New, device: Device, model: Provider) -> None:
    """A case with a repair is a question of its own, and its last try."""
    new_broker(model.base).start()
    first = case(1)
    device.send(first)
    device.reply("m-1")
    model.answer = lambda _call: "nonsense"
    repair = {"answer": {"label": "off"}, "error": "entities: missing"}
    device.send(
        case(1, deadline_ms=first.deadline_ms, repair=repair), correlation=b"again"
    )
    assert device.reply(b"again")["status"] == "abstain"
    assert len(model.calls) == 2
    assert "entities: missing" in model.calls[1].body["messages"][-1]["content"]


def test_same_question(new_broker: New, device: Device, model: Provider) -> None:
    """The same question under another id is answered from the cache, free of charge."""
    new_broker(model.base, hurry={"service.HEALTH_S": 0.1}).start()
    text = "turn off the lights in the hall"
    device.send(case(1, text=text))
    device.reply("m-1")
    device.send(case(2, text=text, device="other"))
    reply = device.reply("m-2")
    assert (reply["id"], reply["answer"]) == ("m-2", json.loads(GOOD))
    assert reply["usage"] == {"input_tokens": 0, "output_tokens": 0, "cost": 0.0}
    device.send(case(3, text=text, labels={"off": "switch off"}))
    device.reply("m-3")
    assert len(model.calls) == 2
    assert device.health("one", lambda h: h["cache_hits"] == 1)


def test_health(new_broker: New, device: Device, model: Provider) -> None:
    """Status and health say what is up, what was done, and what it cost."""
    broker = new_broker(
        model.base,
        more="[budget]\ncalls_per_day = 10\nmoney_per_day = 1.0",
        hurry={"service.HEALTH_S": 0.1},
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
