"""A broker dies or is stopped in the middle: nobody is paid twice for an answer."""

import threading
from collections.abc import Callable

from harness.brokers import GOOD, Broker, Device, case
from harness.provider import Call, Provider, after
from harness.proxy import PUBLISH, Fate, Proxy, Way, all_pass, kind
from harness.stage import DEADLINE_S

New = Callable[..., Broker]
REPLIES = b"slm/pi/answer"


def test_killed_in_mid_call(new_broker: New, device: Device) -> None:
    """Killed while it asks, it gets the case again and asks once more, not oftener."""
    over = threading.Event()

    def first_hangs(_call: Call) -> str:
        if len(model.calls) == 1:
            over.wait(60)
        return GOOD

    with Provider(first_hangs) as model:
        broker = new_broker(model.base)
        broker.start()
        device.send(case(1))
        model.wait_calls(1)
        broker.kill()
        broker.start()
        assert device.reply("m-1")["status"] == "ok"
        over.set()
    assert len(model.calls) == 2


def test_killed_before_the_reply(
    proxy: Proxy, new_broker: New, device: Device, model: Provider
) -> None:
    """Killed with the answer stored and the reply not sent, it asks nobody again."""
    lost = threading.Event()

    def lose(way: Way, packet: bytes) -> Fate:
        if way is Way.DEVICE and kind(packet) == PUBLISH and REPLIES in packet[:20]:
            lost.set()
            return Fate.DROP
        return Fate.PASS

    url = f"mqtt://127.0.0.1:{proxy.port}"
    broker = new_broker(model.base, url=url, more="cache = { entries = 0 }")
    broker.start()
    proxy.gate = lose
    device.send(case(1))
    assert lost.wait(DEADLINE_S)
    broker.kill()
    assert not device.replies
    proxy.gate = all_pass
    broker.start()
    assert device.reply("m-1")["status"] == "ok"
    assert len(model.calls) == 1


def test_connection_lost_in_mid_call(
    proxy: Proxy, new_broker: New, device: Device
) -> None:
    """A case that comes again while it is worked on waits for the same answer."""
    over = threading.Event()
    with Provider(after(over, GOOD)) as model:
        broker = new_broker(model.base, url=f"mqtt://127.0.0.1:{proxy.port}")
        broker.start()
        device.send(case(1))
        model.wait_calls(1)
        proxy.drop_connections()
        broker.wait_told("READY=1")
        over.set()
        assert device.reply("m-1")["status"] == "ok"
        device.send(case(2))
        device.reply("m-2")
        assert broker.terminate() == 0
    assert len(model.calls) == 2
    assert len(device.replies[b"m-1"]) == 1


def test_sent_again(new_broker: New, device: Device, model: Provider) -> None:
    """Sent again, a case gets the stored answer, after a restart too.

    Another text under the same id is another case.
    """
    broker = new_broker(model.base, more="cache = { entries = 0 }")
    broker.start()
    one = case(1)
    device.send(one, correlation=b"a")
    first = device.reply(b"a")
    device.send(one.model_copy(update={"deadline_ms": one.deadline_ms + 1}), b"b")
    assert device.reply(b"b") == first
    broker.kill()
    broker.start()
    device.send(one, correlation=b"c")
    assert device.reply(b"c") == first
    assert len(model.calls) == 1
    device.send(case(1, text="turn off the other hall"), correlation=b"d")
    device.reply(b"d")
    assert len(model.calls) == 2


def test_stopped_in_mid_call(new_broker: New, device: Device) -> None:
    """SIGTERM: what is in flight is answered, exit status 0, `offline`."""
    over = threading.Event()
    with Provider(after(over, GOOD)) as model:
        broker = new_broker(model.base)
        broker.start()
        device.send(case(1))
        model.wait_calls(1)
        broker.interrupt()
        broker.wait_told("STOPPING=1")
        device.send(case(2))
        over.set()
        assert device.reply("m-1")["status"] == "ok"
        assert broker.wait() == 0
        device.wait(lambda: b"offline" in device.said["slm/broker/one/status"])
        assert len(model.calls) == 1
        broker.start()
        assert device.reply("m-2")["status"] == "ok"
    assert len(device.replies[b"m-1"]) == 1


def test_goodbye_that_is_lost(
    proxy: Proxy, new_broker: New, device: Device, model: Provider
) -> None:
    """Where MQTT does not hear that a broker goes, its last wills say it."""

    def lose(way: Way, packet: bytes) -> Fate:
        said = way is Way.DEVICE and kind(packet) == PUBLISH and b"offline" in packet
        return Fate.DROP if said else Fate.PASS

    broker = new_broker(model.base, url=f"mqtt://127.0.0.1:{proxy.port}")
    broker.start()
    proxy.gate = lose
    assert broker.terminate() == 0
    for topic in ("one/status", "slm-broker/member/one"):
        heard = device.said[f"slm/broker/{topic}"]
        device.wait(lambda: heard[-1] == b"offline")  # noqa: B023


def test_stop_does_not_wait_for_ever(new_broker: New, device: Device) -> None:
    """A model that hangs delays a stop up to a limit; the case comes again."""
    over = threading.Event()

    def first_hangs(_call: Call) -> str:
        if len(model.calls) == 1:
            over.wait(60)
        return GOOD

    with Provider(first_hangs) as model:
        broker = new_broker(model.base, hurry={"service.FINISH_S": 0.5})
        broker.start()
        device.send(case(1))
        model.wait_calls(1)
        assert broker.terminate() == 0
        assert broker.count_log("left_unfinished") == 1
        broker.start()
        assert device.reply("m-1")["status"] == "ok"
        over.set()
