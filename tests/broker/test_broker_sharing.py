"""Brokers of a group share the cases, and no case is paid for twice."""

import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

from agent.protocol.cases import same_question
from harness.brokers import GOOD, SETTINGS, Broker, Device, case
from harness.provider import Call, Provider
from harness.proxy import Proxy
from harness.stage import Mosquitto

New = Callable[..., Broker]
PLAIN = "cache = { entries = 0 }\nconcurrency = 8"


def answers_by(device: Device) -> Counter[str]:
    """Count what each broker told the group."""
    told = device.said["slm/broker/slm-broker/answer"]
    return Counter(json.loads(body)["by"] for body in told)


def test_each_sent_twice_at_once(
    new_broker: New, device: Device, model: Provider
) -> None:
    """Two brokers, 300 cases, each sent twice at once: each asked once, load shared.

    MQTT deals them out in turn, so that both brokers get every case.
    """
    for name in ("one", "two"):
        new_broker(model.base, name=name, more=PLAIN).start()
    for number in range(300):
        device.send(case(number), correlation=f"a-{number}".encode())
        device.send(case(number), correlation=f"b-{number}".encode())
    device.wait(lambda: sum(map(len, device.replies.values())) == 600)
    asked = Counter(call.text for call in model.calls)
    assert len(asked) == 300
    assert set(asked.values()) == {1}
    for number in range(300):
        [one], [two] = (device.replies[f"{c}-{number}".encode()] for c in "ab")
        assert one == two
        assert (one["id"], one["status"]) == (f"m-{number}", "ok")
    shares = answers_by(device)
    assert sum(shares.values()) == 300
    assert min(shares["one"], shares["two"]) >= 60


def test_sent_again_to_the_other(
    new_broker: New, device: Device, model: Provider
) -> None:
    """A case sent again later may come to the other broker, which knows the answer."""
    for name in ("one", "two"):
        new_broker(model.base, name=name, more=PLAIN).start()
    again = case(1)
    for count in range(4):
        device.send(again, correlation=b"%d" % count)
        device.reply(b"%d" % count)
    assert len(model.calls) == 1


def test_newcomer_knows(new_broker: New, device: Device, model: Provider) -> None:
    """A broker that comes later knows what others answered and what they work on."""
    over = threading.Event()

    def second_is_slow(call: Call) -> str:
        if "hall 2" in call.text:
            over.wait(60)
        return GOOD

    model.answer = second_is_slow
    new_broker(model.base, name="one", more=PLAIN).start()
    answered, worked_on = case(1), case(2)
    device.send(answered)
    device.reply("m-1")
    device.send(worked_on)
    model.wait_calls(2)
    two = new_broker(model.base, name="two", more=PLAIN)
    two.start()
    for again in (answered, worked_on):
        for count in range(2):
            device.send(again, correlation=f"{again.id}-{count}".encode())
    for count in range(2):
        device.reply(f"m-1-{count}")
    over.set()
    for count in range(2):
        device.reply(f"m-2-{count}")
    assert len(model.calls) == 2
    two.wait_log("case", count=2)


def test_newcomer_waits(new_broker: New, device: Device, model: Provider) -> None:
    """A newcomer waits for each that is there, but not for ever for one that hangs."""
    one = new_broker(model.base, name="one", more=PLAIN)
    one.start()
    os.kill(one.pid, signal.SIGSTOP)
    two = new_broker(model.base, name="two", more=PLAIN, hurry={"group.WELCOME_S": 0.5})
    two.start()
    assert two.wait_log("no_welcome")["by"] == ["one"]
    for number in range(2):  # one of them goes to the newcomer
        device.send(case(number))
    device.wait(lambda: len(device.replies) == 1)
    os.kill(one.pid, signal.SIGCONT)
    device.wait(lambda: len(device.replies) == 2)


def test_killed_holder(new_broker: New, device: Device) -> None:
    """The claims of a broker that died are void: another answers what it worked on."""
    over = threading.Event()

    def first_hangs(_call: Call) -> str:
        if len(model.calls) == 1:
            over.wait(60)
        return GOOD

    with Provider(first_hangs) as model:
        brokers = {name: new_broker(model.base, name=name, more=PLAIN) for name in "ab"}
        for broker in brokers.values():
            broker.start()
        device.send(case(1), correlation=b"1")
        model.wait_calls(1)
        device.send(case(1), correlation=b"2")
        [said] = device.said["slm/broker/slm-broker/claim"][-1:]
        holder = json.loads(said)["by"]
        brokers.pop(holder).kill()
        device.wait(lambda: any(device.replies.values()))
        over.set()
    assert len(model.calls) == 2
    [other] = brokers
    assert answers_by(device) == {other: 1}


def test_stop_hands_over(new_broker: New, device: Device, model: Provider) -> None:
    """A broker that stops leaves new cases to the others of its group."""
    one, two = (new_broker(model.base, name=n, more=PLAIN) for n in ("one", "two"))
    one.start()
    two.start()
    assert one.terminate() == 0
    for number in range(10):
        device.send(case(number))
    for number in range(10):
        device.reply(f"m-{number}")
    two.wait_log("case", count=10)


def test_connections_break(
    mosquitto: Mosquitto, new_broker: New, device: Device, model: Provider
) -> None:
    """Brokers whose connections break in mid-stream answer every case all the same."""
    with ExitStack() as stack:
        proxies = [Proxy(mosquitto.port) for _ in "ab"]
        for name, proxy in zip("ab", proxies, strict=True):
            stack.callback(proxy.cut)
            url = f"mqtt://127.0.0.1:{proxy.port}"
            new_broker(model.base, name=name, more=PLAIN, url=url).start()
        for number in range(200):
            for copy in "xy":
                device.send(case(number), correlation=f"{copy}-{number}".encode())
            if number % 50 == 25:
                answered = number
                device.wait(lambda: len(device.replies) > answered)  # noqa: B023
                proxies[number // 50 % 2].drop_connections()
        device.wait(lambda: len(device.replies) == 400)
    assert all(reply["status"] == "ok" for [reply, *_] in device.replies.values())


def test_nobody_may_be_told(tmp_path: Path, model: Provider) -> None:
    """An answer that MQTT lets nobody tell is told once, not with each connection."""
    settings = f"{SETTINGS}acl_file {{folder}}/acl\n"
    with ExitStack() as stack:
        mosquitto = stack.enter_context(
            closing(Mosquitto(tmp_path / "mosquitto", settings))
        )
        acl = "topic readwrite #\ntopic deny slm/broker/slm-broker/answer\n"
        (mosquitto.folder / "acl").write_text(acl, "utf-8")
        mosquitto.start()
        proxy = Proxy(mosquitto.port)
        stack.callback(proxy.cut)
        device = stack.enter_context(closing(Device(mosquitto.port)))
        url = f"mqtt://127.0.0.1:{proxy.port}"
        broker = Broker(tmp_path, 0, [model.base], url=url)
        stack.callback(broker.close)
        broker.start()
        for number in range(3):
            device.send(case(number))
            device.reply(f"m-{number}")
        broker.wait_log("answer_not_told", count=3)
        proxy.drop_connections()
        broker.wait_told("READY=1")
        last = case(4)
        device.send(last)
        device.reply("m-4")
        broker.wait_log("answer_not_told", key=same_question(last))
        assert broker.count_log("answer_not_told") == 4
