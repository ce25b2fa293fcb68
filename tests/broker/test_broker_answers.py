"""What comes of a case, by one broker that runs for all these tests."""

import itertools
import json
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from agent.protocol.cases import Request
from harness.brokers import GOOD, SETTINGS, Broker, Device, case
from harness.provider import Provider
from harness.stage import Mosquitto

Stage = tuple[Mosquitto, Provider, Broker]
NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Run one broker for all tests of this module: it takes seconds to start."""
    folder = tmp_path_factory.mktemp("answers")
    with (
        closing(Mosquitto(folder / "mosquitto", SETTINGS)) as mosquitto,
        Provider(lambda _call: GOOD) as model,
    ):
        mosquitto.start()
        broker = Broker(folder, mosquitto.port, [model.base])
        with closing(broker):
            broker.start()
            yield mosquitto, model, broker


def fresh(**having: Any) -> Request:
    """Return a case that no test has sent yet."""
    return case(next(NUMBERS), **having)


@pytest.fixture
def broker(stage: Stage) -> Broker:
    """Return the broker."""
    return stage[2]


@pytest.fixture
def model(stage: Stage) -> Provider:
    """Return its model, which gives a valid answer and was not asked yet."""
    model = stage[1]
    model.calls.clear()
    model.answer = lambda _call: GOOD
    return model


@pytest.fixture
def device(stage: Stage) -> Iterator[Device]:
    """Connect a device that sends cases and hears replies."""
    with closing(Device(stage[0].port)) as connected:
        yield connected


def test_answer(device: Device, model: Provider) -> None:
    """A valid answer comes back with its id, correlation, usage, cost and model."""
    one = fresh()
    device.send(one, correlation=b"\x00\xff-1")
    assert device.reply(b"\x00\xff-1") == {
        "id": one.id,
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


def test_repair(device: Device, model: Provider) -> None:
    """An invalid answer goes back once, with what is wrong; both calls are counted."""
    bad = json.dumps({"label": "dim", "entities": []})
    model.answer = lambda _call: bad if len(model.calls) == 1 else GOOD
    one = fresh()
    device.send(one)
    reply = device.reply(one.id)
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
def test_abstains_after_two(device: Device, model: Provider, bad: str) -> None:
    """After two answers that are not valid it abstains; sent again, nobody is asked."""
    model.answer = lambda _call: bad
    one = fresh()
    for count in (1, 2):
        device.send(one)
        reply = device.reply(one.id, count)
        assert reply["status"] == "abstain"
        assert "answer" not in reply
    assert len(model.calls) == 2


def test_half_a_character(device: Device, model: Provider) -> None:
    """An answer that was cut in the middle of a character is not valid, and no more."""
    broken = {"message": {"role": "assistant", "content": "off \ud83d"}}
    model.answer = lambda _call: {"choices": [broken], "model": "m"}
    one = fresh()
    device.send(one)
    assert device.reply(one.id)["status"] == "abstain"
    model.answer = lambda _call: GOOD
    other = fresh()
    device.send(other)
    assert device.reply(other.id)["status"] == "ok"


def test_no_answer_in_the_journal(
    broker: Broker, device: Device, model: Provider
) -> None:
    """An answer in a form of its own is not quoted by the warnings of libraries."""
    odd = {"message": {"role": "assistant", "content": ["Mrs Miller"]}}
    model.answer = lambda _call: {"choices": [odd], "model": "m"}
    one = fresh()
    device.send(one)
    assert device.reply(one.id)["status"] == "abstain"
    assert not [line for line in broker.noise if "Miller" in line]


def test_a_topic_that_mqtt_hangs_up_on(
    broker: Broker, device: Device, model: Provider
) -> None:
    """A reply that no MQTT broker takes is not tried, which would never end."""
    device.send(fresh(reply_to="slm/pi/\x01"), correlation=b"c", reply_to="")
    one = fresh()
    device.send(one)
    device.reply(one.id)
    assert broker.count_log("disconnected") == 0
    assert len(model.calls) == 1


def test_nothing_fits(device: Device, model: Provider) -> None:
    """A model that says that nothing fits is taken at its word."""
    model.answer = lambda _call: '{"label": null, "entities": []}'
    one = fresh()
    device.send(one)
    assert device.reply(one.id)["status"] == "abstain"
    assert len(model.calls) == 1


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b'{"id": "m-9", "device": "pi"}', "pipeline: must be given"),
        (
            b'{"id":"m-9","device":"pi","pipeline":"p","text":"t","deadline_ms":1}',
            "neither labels nor entities",
        ),
    ],
)
def test_broken_case(device: Device, model: Provider, payload: bytes, why: str) -> None:
    """A broken case gets an error reply that says why, and does not come again."""
    device.send(payload, correlation=b"c")
    reply = device.reply(b"c")
    assert reply["status"] == "error"
    assert why in reply["error"]
    assert reply["id"] == "m-9"
    one = fresh()
    device.send(one)
    device.reply(one.id)
    assert len(model.calls) == 1


@pytest.mark.parametrize("payload", [b"not JSON", b'{"id": "m-9"}', b"[1]", b"\xff"])
def test_broken_case_of_nobody(
    broker: Broker, device: Device, model: Provider, payload: bytes
) -> None:
    """A broken case that names no device is counted, and answered to nobody.

    Else it could have the broker write to any device.
    """
    before = broker.count_log("case")
    device.send(payload, correlation=b"nobody")
    broker.wait_log("case", before + 1)
    one = fresh()
    device.send(one)
    device.reply(one.id)
    assert b"nobody" not in device.replies
    assert len(model.calls) == 1


def test_another_device(broker: Broker, device: Device, model: Provider) -> None:
    """A reply goes to the device that the case names, and to no other topic."""
    for reply_to in (
        "slm/pi-2/answer",
        "zigbee2mqtt/lamp/set",
        "slm/pi/request/reload",
    ):
        one = fresh()
        device.send(one, reply_to=reply_to)
        broker.wait_log("case", id=one.id, outcome="unaddressed")
    assert model.calls == []


@pytest.mark.parametrize(
    "reply_to", ["", "slm/broker/one/status", "slm/upstream/home", "$SYS/x"]
)
def test_nowhere_to_reply(
    broker: Broker, device: Device, model: Provider, reply_to: str
) -> None:
    """A case whose reply nobody could hear, or only we, is not paid for."""
    one = fresh()
    device.send(one, reply_to=reply_to)
    broker.wait_log("case", id=one.id, outcome="unaddressed")
    assert model.calls == []


def test_expired(broker: Broker, device: Device, model: Provider) -> None:
    """A case whose deadline has passed is dropped, counted, and not paid for."""
    late, one = fresh(deadline_ms=int(time.time() * 1000) - 1), fresh()
    device.send(late)
    device.send(one)
    device.reply(one.id)
    broker.wait_log("case", id=late.id, outcome="expired")
    assert len(model.calls) == 1
    assert late.id.encode() not in device.replies


def test_asked_with_repair(device: Device, model: Provider) -> None:
    """A case with a repair is a question of its own, and its last try."""
    one = fresh()
    device.send(one)
    device.reply(one.id)
    model.answer = lambda _call: "nonsense"
    repair = {"answer": {"label": "off"}, "error": "entities: missing"}
    again = Request.model_validate(one.model_dump() | {"repair": repair})
    device.send(again, correlation=b"again")
    assert device.reply(b"again")["status"] == "abstain"
    assert len(model.calls) == 2
    assert "entities: missing" in model.calls[1].body["messages"][-1]["content"]
