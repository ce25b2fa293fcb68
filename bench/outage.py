"""Are local results as fast while upstream is gone? The ratio of their latencies.

One daemon on a real Mosquitto answers seven of ten messages itself and asks a scripted
endpoint about three. The endpoint is there and gone in turns, so that whatever else the
machine does falls on both. Latency is from publish to result, at a client.

Run: .venv/bin/python bench/outage.py --out bench/results/outage-$(uname -m).json
Needs mosquitto, and the tests beside it. Ratios matter, not milliseconds.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests" / "e2e"))

from casework import asking, http, question, well
from stage import Agent, Client, Mosquitto, free_port
from upstreams import ScriptedLLM

TURNS = 4  # of each kind
MESSAGES = 500  # a turn
A_SECOND = 25
ASKED = 3  # of ten
WARM_UP = 100
HURRY = {"upstream.COOL_DOWN_S": 1.0, "escalation.REST_S": 1.0}


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that this share does not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def turn(client: Client, numbers: range) -> list[float]:
    """Publish at a steady pace; return milliseconds from publish to local result."""
    sent: dict[str, float] = {}
    heard: dict[str, float] = {}

    def note() -> None:
        now = time.perf_counter()
        for topic in sent.keys() & client.results.keys() - heard.keys():
            heard[topic] = now

    client.on_answer = note
    began = time.perf_counter()
    for count, number in enumerate(numbers):
        time.sleep(max(0.0, began + count / A_SECOND - time.perf_counter()))
        if number % 10 < ASKED:
            client.send(f"ask/{number}", question(number), message_id=f"q-{number}")
        else:
            sent[f"home/{number}"] = time.perf_counter()
            client.send(f"home/{number}", question(number), message_id=f"q-{number}")
    client.wait(lambda: sent.keys() <= client.results.keys())
    note()
    client.on_answer = lambda: None
    return [(heard[topic] - sent[topic]) * 1000 for topic in sent]


def measure() -> dict[str, Any]:
    """Return the latencies of both kinds of turns, and their ratios."""
    port = free_port()
    kinds: dict[str, list[list[float]]] = {"there": [], "gone": []}
    numbers = iter(range(0, 10**6, MESSAGES))
    with tempfile.TemporaryDirectory() as folder:
        broker = Mosquitto(Path(folder) / "broker")
        with closing(broker):
            broker.start()
            with ScriptedLLM(well, port) as llm:
                agent = Agent(
                    Path(folder) / "agent",
                    broker.port,
                    upstream=http(llm, "rate = 1000.0\nconcurrency = 4"),
                    pipelines={
                        "ask": asking(),
                        "home": (["home/+"], '[upstream]\npolicy = "always_local"\n'),
                    },
                    hurry=HURRY,
                )
            with closing(agent), closing(Client(broker.port)) as client:
                agent.start()
                turn(client, range(10**6, 10**6 + WARM_UP))
                for _ in range(TURNS):
                    first = next(numbers)
                    with ScriptedLLM(well, port):
                        _drain(client, first)
                        kinds["there"].append(
                            turn(client, range(first, first + MESSAGES))
                        )
                    first = next(numbers)
                    kinds["gone"].append(turn(client, range(first, first + MESSAGES)))
                agent.kill()
    return {
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load_1m": round(os.getloadavg()[0], 1),
        "messages_a_turn": MESSAGES,
        "messages_a_second": A_SECOND,
        **{kind: _figures(turns) for kind, turns in kinds.items()},
        "ratio_p50": _ratio(kinds, 0.5),
        "ratio_p99": _ratio(kinds, 0.99),
    }


def _drain(client: Client, sent: int) -> None:
    """Wait until all that waited since the last turn is answered."""
    asked = (WARM_UP + sent) * ASKED // 10
    client.wait(lambda: sum(t.startswith("ask/") for t in client.results) >= asked, 300)


def _figures(turns: Sequence[Sequence[float]]) -> dict[str, Any]:
    together = [value for each in turns for value in each]
    return {
        "ms_p50": round(percentile(together, 0.5), 2),
        "ms_p99": round(percentile(together, 0.99), 2),
        "ms_p99_of_each_turn": [round(percentile(each, 0.99), 2) for each in turns],
    }


def _ratio(kinds: dict[str, list[list[float]]], share: float) -> float:
    """Return gone over there: the median of neighbouring turns' ratios."""
    pairs = zip(kinds["gone"], kinds["there"], strict=True)
    return round(
        median(percentile(a, share) / percentile(b, share) for a, b in pairs), 2
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    found = json.dumps(measure(), indent=1)
    print(found)
    if options.out:
        options.out.write_text(found + "\n", "utf-8")


if __name__ == "__main__":
    main()
