"""Chaos: whoever dies and whatever breaks, each message ends once, and is asked once.

A call to the model counts as in flight from its request to the durable record of its
answer. So it may be made again only by a caller who died, or was cut off, in between.
"""

import json
import os
import platform
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import pytest

from harness.brokers import Broker
from harness.casework import (
    BRISK,
    HASTE,
    asking,
    entries,
    finals,
    http,
    in_outbox,
    question,
    results,
    well,
)
from harness.proxy import Proxy
from harness.stage import REPOSITORY, Agent, Client, Mosquitto
from harness.upstreams import Asked, Says, ScriptedLLM

NewAgent = Callable[..., Agent]
SHARE = 10, 3  # of ten messages, three are asked about
TAKES_S = 0.03  # a model's answer
HURRY = {**BRISK, "escalation.cases.REST_S": 1.0}
LOCAL = (["home/+"], '[upstream]\npolicy = "always_local"\n')


class Chaotic(Protocol):
    """Something that may die and come back."""

    def kill(self) -> None:
        """Die."""

    def start(self) -> None:
        """Come back."""


@dataclass
class Model:
    """What a model was asked, and when."""

    times: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def __call__(self, asked: Asked) -> Says:
        """Note, and answer after a while."""
        self.times[asked.text].append(time.monotonic())
        threading.Event().wait(TAKES_S)
        return well(asked)

    def check(self, breaks: list[float], concurrency: int) -> tuple[int, int]:
        """Check that only what was in flight at a break was asked again.

        Return how many calls there were, and how many of them repeated one.
        """
        repeats = dict.fromkeys(breaks, 0)
        for text, times in self.times.items():
            for before, after in pairwise(times):
                between = [at for at in breaks if before < at < after]
                assert between, (text, times, breaks)
                repeats[between[-1]] += 1
        assert all(number <= concurrency for number in repeats.values()), repeats
        return sum(map(len, self.times.values())), sum(repeats.values())


@dataclass
class Storm:
    """Messages in portions, each with something bad behind it."""

    messages: int
    seed: int = 7
    sent: int = 0

    def rage(self, client: Client, deeds: list[Callable[[], None]]) -> int:
        """Send everything, do everything, and wait until every message has ended.

        Return how many seconds it took.
        """
        began = time.monotonic()
        random.Random(self.seed).shuffle(deeds)  # noqa: S311
        ten, asked = SHARE
        for number in range(self.messages):
            kind = "ask" if number % ten < asked else "home"
            text = question(number)
            client.send(f"{kind}/{number}", text, message_id=f"q-{number}")
            self.sent += 1
            if deeds and self.sent % (self.messages // (len(deeds) + 1)) == 0:
                client.wait_answered(self.sent // 2, 180)
                deeds.pop()()
        while deeds:
            deeds.pop()()
        client.wait_answered(self.messages, 300)
        client.wait_acked(self.messages)
        return round(time.monotonic() - began)

    def check(self, client: Client) -> int:
        """Check that every message has one final result; return how many came twice."""
        ended = finals(client)
        assert ended.keys() == {f"q-{number}" for number in range(self.messages)}
        ten, asked = SHARE
        for name, said in ended.items():
            number = int(name.removeprefix("q-"))
            expected = "upstream" if number % ten < asked else "encoder"
            assert said["by"] in {expected, "linear"}
            # Upstream settles all it is asked; the model leaves what it doubts.
            assert said["status"] == "resolved" or expected != "upstream"
            assert said["topic"].endswith(f"/{number}")
        return sum(len(heard) for heard in results(client).values()) - len(ended)


def deaths(who: Chaotic, breaks: list[float]) -> Callable[[], None]:
    """Return what kills somebody with -9 and starts it again."""

    def deed() -> None:
        breaks.append(time.monotonic())
        who.kill()
        breaks.append(time.monotonic())
        who.start()

    return deed


def tell(transport: str, **figures: int) -> None:
    """Print what happened, and keep it in the file that SLM_CHAOS_OUT names."""
    print(f"by {transport}: {figures}")  # noqa: T201  with -s, for who wants to know
    name = os.environ.get("SLM_CHAOS_OUT")
    if name:
        path = REPOSITORY / name
        told = json.loads(path.read_text("utf-8")) if path.exists() else {}
        told |= {"machine": platform.machine(), transport: figures}
        path.write_text(json.dumps(told, indent=1) + "\n", "utf-8")


SIZES = [
    pytest.param(400, (4, 2, 3), id="400"),
    pytest.param(5000, (10, 5, 7), id="5000", marks=pytest.mark.long),
]


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("messages", "times"), SIZES)
def test_by_mqtt(
    tmp_path: Path,
    broker: Mosquitto,
    proxy: Proxy,
    new_agent: NewAgent,
    client: Client,
    messages: int,
    times: tuple[int, int, int],
) -> None:
    """By MQTT and `slm-agent broker`: a model is asked again only if the broker died.

    The device dies as well, and its network breaks: whatever it asks again, the broker
    has the answer.
    """
    kills, broker_kills, cuts = times
    model = Model()
    broker_deaths: list[float] = []
    with (
        ScriptedLLM(model) as llm,
        closing(
            Broker(tmp_path / "upstream", broker.port, [f"http://127.0.0.1:{llm.port}"])
        ) as upstream,
    ):
        agent = new_agent(
            proxy.port,
            upstream=f'transport = "mqtt"\n{HASTE}',
            pipelines={"ask": asking(), "home": LOCAL},
            hurry=HURRY,
        )
        upstream.start()
        agent.start()
        storm = Storm(messages)
        took_s = storm.rage(
            client,
            [
                *[deaths(agent, [])] * kills,
                *[deaths(upstream, broker_deaths)] * broker_kills,
                *[proxy.drop_connections] * cuts,
            ],
        )
        assert agent.terminate() == 0
        assert upstream.terminate() == 0
        assert in_outbox(agent) == 0
        asked = len(entries(agent))
    twice = storm.check(client)
    calls, repeats = model.check(broker_deaths, concurrency=16)
    assert calls - repeats == messages * SHARE[1] // SHARE[0]
    tell(
        "mqtt",
        messages=messages,
        finals=len(finals(client)),
        came_twice=twice,
        model_calls=calls,
        of_which_repeated=repeats,
        requests=asked,
        agent_killed=kills,
        broker_side_killed=broker_kills,
        connections_cut=cuts,
        seconds=took_s,
    )


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("messages", "times"), SIZES)
def test_by_http(
    proxy: Proxy,
    new_agent: NewAgent,
    client: Client,
    messages: int,
    times: tuple[int, int, int],
) -> None:
    """By HTTP: a model is asked again only if the device died, or the endpoint did."""
    kills, hang_ups, cuts = times
    model = Model()
    breaks: list[float] = []
    with ScriptedLLM(model) as llm:
        agent = new_agent(
            proxy.port,
            upstream=http(llm),
            pipelines={"ask": asking(), "home": LOCAL},
            hurry=HURRY,
        )
        agent.start()

        def hang_up() -> None:
            breaks.append(time.monotonic())
            llm.hang_up()
            breaks.append(time.monotonic())

        storm = Storm(messages)
        took_s = storm.rage(
            client,
            [
                *[deaths(agent, breaks)] * kills,
                *[hang_up] * hang_ups,
                *[proxy.drop_connections] * cuts,
            ],
        )
        assert agent.terminate() == 0
        assert in_outbox(agent) == 0
        asked = len(entries(agent))
    twice = storm.check(client)
    calls, repeats = model.check(breaks, concurrency=8)
    assert calls - repeats == messages * SHARE[1] // SHARE[0]
    assert asked >= calls
    tell(
        "http",
        messages=messages,
        finals=len(finals(client)),
        came_twice=twice,
        model_calls=calls,
        of_which_repeated=repeats,
        requests=asked,
        agent_killed=kills,
        endpoint_hung_up=hang_ups,
        connections_cut=cuts,
        seconds=took_s,
    )
