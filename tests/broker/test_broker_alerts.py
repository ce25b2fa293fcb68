"""What is wrong at the upstream side is retained where an operator looks."""

import json
import os
import signal
from collections.abc import Callable

from harness.brokers import Broker, Device, case
from harness.provider import Provider
from harness.proxy import PUBLISH, Fate, Proxy, Way, kind

CORRELATION, UNKNOWN = b"\x09", b"\x7f"  # properties of PUBLISH (MQTT 5, 3.3.2.3)


def test_a_malformed_packet(
    proxy: Proxy, new_broker: Callable[..., Broker], device: Device, model: Provider
) -> None:
    """It raises `poison` once; the cases behind it are answered."""

    def gate(way: Way, packet: bytes) -> Fate | bytes:
        if way is Way.BROKER and kind(packet) == PUBLISH:
            name = b"\x00\x05first"
            return packet.replace(CORRELATION + name, UNKNOWN + name)
        return Fate.PASS

    proxy.gate = gate
    broker = new_broker(model.base, url=f"mqtt://127.0.0.1:{proxy.port}")
    broker.start()
    device.send(case(1), b"first")
    device.send(case(2), b"second")
    assert device.reply("second")["status"] == "ok"
    topic = "slm/broker/one/alert/poison"
    device.wait(lambda: any(device.said[topic]))
    alert = json.loads(device.said[topic][-1])
    assert alert["alert"] == "poison"
    assert "slm/upstream/home" in alert["detail"]
    assert proxy.connections == 2  # for cases and for the group
    assert broker.terminate() == 0


def test_a_refused_reload(
    new_broker: Callable[..., Broker], device: Device, model: Provider
) -> None:
    """It raises `reload_refused` until a reload succeeds."""
    broker = new_broker(model.base)
    broker.start()
    good = broker.config.read_text("utf-8")
    topic = "slm/broker/one/alert/reload_refused"
    broker.config.write_text("models = 3\n", "utf-8")
    os.kill(broker.pid, signal.SIGHUP)
    device.wait(lambda: any(device.said[topic]))
    assert "models" in json.loads(device.said[topic][-1])["detail"]
    broker.config.write_text(good, "utf-8")
    os.kill(broker.pid, signal.SIGHUP)
    device.wait(lambda: device.said[topic][-1] == b"")
    assert broker.terminate() == 0
