"""The watchdog of the unit: fed by progress, and by nothing else."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from harness.brokers import GOOD, Broker, Device, case
from harness.provider import Provider, after
from harness.stage import Mosquitto

New = Callable[..., Broker]
# A busy disk may well take longer than that.
HURRY = {"deadlines.STALL_S": 0.3, "service.STALL_S": 60.0}
LONG = 12  # so many meals take longer than what is hung in these tests is given
PLAIN = "cache = { entries = 0 }\n"


@pytest.fixture(autouse=True)
def watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let brokers find a watchdog that wants to be fed every 50 ms."""
    monkeypatch.setenv("WATCHDOG_USEC", "100000")


def fed(broker: Broker) -> None:
    """Wait until the watchdog was fed for longer than what hangs is given."""
    for _ in range(LONG):
        broker.wait_told("WATCHDOG=1")
    assert [line for line in broker.lines if line["event"] == "stalled"] == []


def told_meanwhile(broker: Broker) -> list[str]:
    """Return all that the service manager was told, and was not read yet."""
    said = []
    broker._notify.settimeout(0)
    with suppress(BlockingIOError):
        while True:
            said.append(broker._notify.recv(4096).decode())
    return said


@pytest.mark.parametrize(
    ("hang", "deadline_s", "what"),
    [("llm.ask", 3600, "ask"), ("coordinator.Coordinator._known", 1, "case")],
    ids=["a model", "a case"],
)
def test_what_hangs_is_not_fed(
    new_broker: New, device: Device, hang: str, deadline_s: float, what: str
) -> None:
    """What is past its time, and ends by no timeout, keeps the watchdog hungry."""
    hurry = HURRY | {
        hang: "__import__('harness.hung_parts').hung_parts.ask",
        "llm_router.PAUSE_MAX_S": 0.1,
        "coordinator.MARGIN_S": 0.1,
    }
    broker = new_broker("http://127.0.0.1:1", more="timeout_s = 0.1", hurry=hurry)
    broker.start()
    fed(broker)
    device.send(case(1, deadline_ms=int((time.time() + deadline_s) * 1000)))
    broker.wait_log("stalled", parts=what)
    told_meanwhile(broker)
    broker.wait_log("stalled", 5)
    assert told_meanwhile(broker) == []


def test_a_disk_that_hangs_is_not_fed(
    new_broker: New, device: Device, model: Provider
) -> None:
    """An answer that does not get to the disk keeps the watchdog hungry, too."""
    hurry = HURRY | {
        "service.STALL_S": 0.3,
        "reply_store.keep": "__import__('harness.hung_parts').hung_parts.write",
    }
    broker = new_broker(model.base, hurry=hurry)
    broker.start()
    device.send(case(1))
    broker.wait_log("stalled", parts="disk")
    told_meanwhile(broker)
    broker.wait_log("stalled", 5)
    assert told_meanwhile(broker) == []


def test_a_connection_that_hangs_is_not_fed(new_broker: New) -> None:
    """A try to connect that never ends keeps the watchdog hungry, too."""
    hurry = {
        "service.CONNECT_S": 0.5,
        "group.Link._connect": "__import__('harness.hung_parts').hung_parts.ask",
    }
    broker = new_broker("http://127.0.0.1:1", hurry=hurry)
    broker.start(ready=False)
    broker.wait_log("stalled", parts="connection")


def test_a_slow_model_is_no_reason(new_broker: New, device: Device) -> None:
    """While a model takes its time, and others wait for their turn, it is fed."""
    over = threading.Event()
    with Provider(after(over, GOOD)) as model:
        broker = new_broker(model.base, more=PLAIN + "concurrency = 1", hurry=HURRY)
        broker.start()
        device.send(case(1))
        device.send(case(2))
        model.wait_calls(1)
        fed(broker)
        over.set()
        for number in (1, 2):
            assert device.reply(f"m-{number}")["status"] == "ok"


def test_a_model_that_is_down_is_no_reason(new_broker: New, device: Device) -> None:
    """Errors, refused connections and timeouts of models do not stop the feeding."""
    over = threading.Event()
    with Provider(after(over, 500)) as hung, Provider(lambda _call: 500) as broken:
        bases = [hung.base, broken.base, "http://127.0.0.1:1"]
        broker = new_broker(*bases, more="timeout_s = 0.5", hurry=HURRY)
        broker.start()
        device.send(case(1))
        assert device.reply("m-1")["status"] == "error"
        over.set()
        fed(broker)


def test_mqtt_that_is_away_is_no_reason(
    new_broker: New, mosquitto: Mosquitto, device: Device
) -> None:
    """While MQTT is away, also with cases in hand whose replies wait, it is fed."""
    over = threading.Event()
    with Provider(after(over, GOOD)) as model:
        broker = new_broker(model.base, more=PLAIN, hurry=HURRY)
        broker.start()
        device.send(case(1))
        model.wait_calls(1)
        mosquitto.stop()
        broker.wait_log("disconnected")
        over.set()
        broker.wait_log("connect_failed")
        fed(broker)
        mosquitto.start()
        broker.wait_told("READY=1")
        fed(broker)
