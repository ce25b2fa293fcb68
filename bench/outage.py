"""Are local results as fast while upstream is gone, or its outbox full? Ratios of p99.

One daemon on a real Mosquitto answers seven of ten messages itself and asks a scripted
endpoint, in a process of its own, about three. In turns the endpoint is there, gone,
and gone with the outbox full (the oldest case ends with each new one), so that whatever
else the machine does falls on all three. Latency is from publish to local result, at a
client, at a rate that leaves the machine idle most of the time. Each turn is compared
with the one before it in which the endpoint was there; the median of these ratios
counts.

Run: .venv/bin/python bench/outage.py --out bench/results/outage-$(uname -m).json
Needs mosquitto, and the tests beside it; takes eight minutes of a quiet machine. Ratios
matter, not milliseconds.
"""

import argparse
import json
import multiprocessing
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from itertools import count
from multiprocessing.synchronize import Event
from pathlib import Path
from statistics import median
from typing import Any

from harness.casework import BRISK, asking, gone, question, wait_alert, well
from harness.stage import Agent, Client, Mosquitto, free_port
from harness.upstreams import ScriptedLLM

A_SECOND = 40
ASKED = 3  # of ten
WARM_UP = 200
SETTLING = 40
FILLING = 500  # long texts: more than the outbox takes
LONG = "x" * 2000  # for a model one word
OUTBOX = 'max_bytes = 2097152\nwhen_full = "drop_oldest"'
LOCAL = (["home/+"], '[upstream]\npolicy = "always_local"\n')
HURRY = {**BRISK, "escalation.cases.REST_S": 1.0}
DRAIN_S = 300.0


class Timed(Client):
    """A client that knows when the first result for each topic came."""

    def __init__(self, port: int) -> None:
        """Connect."""
        self.at: dict[str, float] = {}
        super().__init__(port)

    def _heard(self, client: object, data: object, raw: Any) -> None:
        now = time.perf_counter()
        if "/result/" in raw.topic:
            self.at.setdefault(json.loads(raw.payload)["topic"], now)
        super()._heard(client, data, raw)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that this share does not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def serve(port: int, ready: Event, over: Event) -> None:
    """Answer every question until it is over."""
    with ScriptedLLM(well, port):
        ready.set()
        over.wait()


@contextmanager
def endpoint(port: int) -> Iterator[None]:
    """Have an endpoint, in a process of its own: its work is not to be the client's."""
    context = multiprocessing.get_context("spawn")
    ready, over = context.Event(), context.Event()
    process = context.Process(target=serve, args=(port, ready, over))
    process.start()
    try:
        if not ready.wait(DRAIN_S):
            raise RuntimeError("the endpoint does not start")
        yield
    finally:
        over.set()
        process.join()


@dataclass
class Run:
    """A client, and all that it sent."""

    client: Timed
    messages: int  # a turn
    numbers: Iterator[int] = field(default_factory=count)
    asked: int = 0  # cases

    def turn(self, messages: int) -> list[float]:
        """Publish at a steady pace; return the ms from publish to local result."""
        sent: dict[str, float] = {}
        began = time.perf_counter()
        for place in range(messages):
            time.sleep(max(0.0, began + place / A_SECOND - time.perf_counter()))
            number = next(self.numbers)
            if place % 10 < ASKED:
                self.ask(number, question(number))
            else:
                sent[f"home/{number}"] = time.perf_counter()
                self.send(f"home/{number}", question(number))
        self.client.wait(lambda: sent.keys() <= self.client.at.keys())
        return [(self.client.at[topic] - at) * 1000 for topic, at in sent.items()]

    def ask(self, number: int, text: str) -> None:
        """Publish what becomes a case."""
        self.asked += 1
        self.send(f"ask/{number}", text)

    def send(self, topic: str, text: str) -> None:
        """Publish a message with an id of its own."""
        self.client.send(topic, text, message_id=topic)

    def drain(self) -> None:
        """Wait until every case has ended."""
        ended = self.client.results
        self.client.wait(
            lambda: sum(t.startswith("ask/") for t in ended) >= self.asked, DRAIN_S
        )

    def settled(self) -> list[float]:
        """Measure once all that was sent before is worked off."""
        self.turn(SETTLING)  # results come in the order of arrival
        return self.turn(self.messages)

    def there(self, port: int) -> list[float]:
        """Measure with the endpoint there, and nothing waiting."""
        with endpoint(port):
            self.drain()
            return self.settled()

    def gone(self, _port: int) -> list[float]:
        """Measure without the endpoint; the outbox takes every case."""
        return self.settled()

    def full(self, _port: int) -> list[float]:
        """Measure with the outbox full."""
        for _ in range(FILLING):
            number = next(self.numbers)
            self.ask(number, f"{number} {LONG}")
        wait_alert(self.client, "outbox_full", up=True)
        return self.settled()


def measure(turns: int, messages: int) -> dict[str, Any]:
    """Return the latencies of all kinds of turns, and their ratios."""
    load = os.getloadavg()[0]
    port = free_port()
    found: dict[str, list[list[float]]] = {"there": [], "gone": [], "full": []}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        broker = stack.enter_context(closing(Mosquitto(folder / "broker")))
        broker.start()
        agent = Agent(
            folder / "agent",
            broker.port,
            upstream=gone(port, "rate = 1000.0\nconcurrency = 4"),
            outbox=OUTBOX,
            pipelines={"ask": asking(), "home": LOCAL},
            hurry=HURRY,
        )
        stack.enter_context(closing(agent))
        run = Run(stack.enter_context(closing(Timed(broker.port))), messages)
        agent.start()
        run.turn(WARM_UP)
        kinds: dict[str, Callable[[int], list[float]]] = {
            "there": run.there, "gone": run.gone, "full": run.full,
        }  # fmt: skip
        for _ in range(turns):
            for kind, turn in kinds.items():
                found[kind].append(turn(port))
        agent.kill()
    return {
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load_1m_before": round(load, 1),
        "messages_a_turn": messages,
        "of_which_local": len(found["there"][0]),
        "messages_a_second": A_SECOND,
        **{kind: _figures(each) for kind, each in found.items()},
        **{f"{kind}_to_there": _ratios(found, kind) for kind in ("gone", "full")},
    }


def _figures(turns: Sequence[Sequence[float]]) -> dict[str, Any]:
    together = [value for each in turns for value in each]
    return {
        "ms_p50": round(percentile(together, 0.5), 2),
        "ms_p99": round(percentile(together, 0.99), 2),
        "ms_p99_of_each_turn": [round(percentile(each, 0.99), 2) for each in turns],
    }


def _ratios(found: dict[str, list[list[float]]], kind: str) -> dict[str, Any]:
    """Return a kind over there, turn by turn, and the medians of that."""
    p50, p99 = (
        [
            percentile(a, share) / percentile(b, share)
            for a, b in zip(found[kind], found["there"], strict=True)
        ]
        for share in (0.5, 0.99)
    )
    return {
        "p50": round(median(p50), 2),
        "p99": round(median(p99), 2),
        "p99_of_each_pair": [round(ratio, 2) for ratio in p99],
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--turns", type=int, default=5, help="of each kind")
    parser.add_argument("--messages", type=int, default=1000, help="a turn")
    parser.add_argument("--out", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    found = json.dumps(measure(options.turns, options.messages), indent=1)
    print(found)
    if options.out:
        options.out.write_text(found + "\n", "utf-8")


if __name__ == "__main__":
    main()
