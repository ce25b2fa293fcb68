"""The budget: reserved before a call, settled after it, never exceeded."""

import threading
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from agent.broker.config import BrokerFile
from agent.broker.counters import BrokerCounters
from agent.broker.llm import LanguageModel
from agent.broker.llm_router import LlmRouter
from agent.broker.main import SCHEMA
from agent.outbox.store import Database, Full, Store
from harness.brokers import GOOD, Broker, Device, case
from harness.provider import Provider, after

New = Callable[..., Broker]


def outcomes(device: Device, number: int) -> Counter[str]:
    """Wait for that many replies, and count what they say."""
    device.wait(lambda: sum(map(len, device.replies.values())) == number)
    return Counter(
        reply.get("error") or reply["status"]
        for replies in device.replies.values()
        for reply in replies
    )


def test_calls(new_broker: New, device: Device, model: Provider) -> None:
    """Of 40 cases at once and a budget of 10 calls, 10 are asked, over a restart."""
    broker = new_broker(model.base, more="[budget]\ncalls_per_day = 10")
    broker.start()
    for number in range(40):
        device.send(case(number))
    assert outcomes(device, 40) == {"ok": 10, "budget": 30}
    assert len(model.calls) == 10
    broker.kill()
    broker.start()
    device.send(case(99))
    assert device.reply("m-99")["error"] == "budget"
    assert len(model.calls) == 10


def test_tokens(new_broker: New, device: Device) -> None:
    """What calls in flight may take at most is never more than is left."""
    gate = threading.Event()
    behind = after(gate, GOOD)
    with Provider(lambda call: behind(call) if len(model.calls) > 1 else GOOD) as model:
        # A call may take about 2,900 tokens, and takes 120. Once the model has
        # answered, it is asked any number of cases at once.
        new_broker(model.base, more="[budget]\ntokens_per_day = 8800").start()
        device.send(case("first"))
        device.reply("m-first")
        device.replies.clear()
        for number in range(10):
            device.send(case(number))
        assert outcomes(device, 7) == {"budget": 7}
        gate.set()
        assert outcomes(device, 10) == {"budget": 7, "ok": 3}
        for number in range(10, 20):
            device.send(case(number))
            device.reply(f"m-{number}")
    assert len(model.calls) > 10


def test_killed_in_mid_call(new_broker: New, device: Device) -> None:
    """A call that a crash cut off stays paid: nobody knows what it took."""
    over = threading.Event()
    with Provider(after(over, GOOD)) as model:
        broker = new_broker(model.base, more="[budget]\ncalls_per_day = 1")
        broker.start()
        device.send(case(1))
        model.wait_calls(1)
        broker.kill()
        broker.start()
        assert device.reply("m-1")["error"] == "budget"
        assert len(model.calls) == 1
        over.set()


def test_failed_calls_are_free(
    new_broker: New, device: Device, model: Provider
) -> None:
    """A call that a provider refused costs nothing."""
    model.answer = lambda _call: 429 if len(model.calls) < 2 else GOOD
    more = "attempts = 5\n[budget]\ncalls_per_day = 1"
    new_broker(model.base, more=more).start()
    device.send(case(1))
    assert device.reply("m-1")["status"] == "ok"


async def test_no_room_to_settle(tmp_path: Path, model: Provider) -> None:
    """An answer that is paid is given, also where a full disk lets nobody book it."""

    class Filled(Store):
        """A store whose disk others fill after the first change."""

        full = False

        async def write(self, change: Callable[[Database], Any]) -> Any:
            """Make a change, if it is the first."""
            if self.full:
                raise Full("no room")
            self.full = True
            return await super().write(change)

    spec = {"model": "openai/m", "api_base": f"{model.base}/v1"}
    file = BrokerFile.model_validate(
        {"models": [spec], "budget": {"tokens_per_day": 100_000}}
    )
    opened = (LanguageModel(file.models[0], 1.0, 10.0, "secret"),)
    with closing(Filled(tmp_path / "broker.db", SCHEMA, 2**20)) as store:
        reply = await LlmRouter(file, opened, store, BrokerCounters()).ask(case(1))
    assert reply.status == "ok"
