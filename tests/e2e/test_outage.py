"""Upstream is gone, the outbox or the disk is full: bounded, and nothing is lost."""

import json
import os
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.casework import (
    BRISK,
    ask,
    asking,
    calls,
    entries,
    fill,
    final,
    finals,
    gone,
    http,
    in_outbox,
    wait_alert,
    wait_finals,
    well,
)
from harness.stage import DEVICE, Agent, Client, Mosquitto, free_port
from harness.upstreams import Asked, Says, ScriptedLLM

NewAgent = Callable[..., Agent]
HURRY = {
    **BRISK,
    "escalation.cases.REST_S": 1.0,
    "daemon.status.HEALTH_S": 0.2,
}
MIB = 2**20
LONG = "x" * 2000  # for a model one word
LOCAL = (["home/+"], '[upstream]\npolicy = "always_local"\n')


def send_long(client: Client, numbers: Sequence[int], topic: str = "ask") -> None:
    """Publish texts that fill an outbox of a MiB with about 120 of them."""
    for number in numbers:
        client.send(f"{topic}/{number}", f"{number} {LONG}", message_id=f"q-{number}")


def any_label(_asked: Asked) -> Says:
    """Answer with some label."""
    return Says(answer={"label": "qa_factoid", "entities": []})


def health(client: Client) -> dict[str, Any]:
    """Return the last health."""
    said = client.said[f"slm/{DEVICE}/health"]
    found: dict[str, Any] = json.loads(said[-1]) if said else {}
    return found


def most_in_a_second(times: Sequence[float]) -> int:
    """Return how many there are at most in any second."""
    times = sorted(times)
    return max(bisect_left(times, at + 1.0) - n for n, at in enumerate(times))


def files_of(agent: Agent) -> int:
    """Return the bytes of the outbox on the disk, with log and spare."""
    paths = [agent.state / f"outbox.db{end}" for end in ("", "-wal", "-spare")]
    return sum(path.stat().st_size for path in paths if path.exists())


def test_local_does_not_wait(
    broker: Mosquitto, new_agent: NewAgent, client: Client
) -> None:
    """While upstream says nothing, what can be answered here is, and the rest waits."""
    with ScriptedLLM(lambda _: None) as llm:
        agent = new_agent(
            broker.port,
            upstream=http(llm),
            pipelines={"ask": asking(), "home": LOCAL},
            hurry=HURRY,
        )
        agent.start()
        for number in range(200):
            ask(client, [number], "home" if number % 2 else "ask")
        wait_finals(client, 100)
        client.wait(lambda: _waiting(client) == 100)
        assert {r["by"] for [r] in client.results.values()} <= {"linear", "encoder"}
        agent.kill()
        assert in_outbox(agent, "finish IS NULL") == 100


def test_stop_acking(broker: Mosquitto, new_agent: NewAgent, client: Client) -> None:
    """A full outbox leaves new messages to the MQTT broker, also over a crash.

    When upstream returns, all are asked about, once.
    """
    port = free_port()
    agent = new_agent(
        broker.port,
        upstream=gone(port),
        outbox=f"max_bytes = {MIB}",
        pipelines={"ask": asking()},
        hurry=HURRY,
    )
    agent.start()
    send_long(client, range(300))
    detail = wait_alert(client, "outbox_full", up=True)
    assert "stop_acking" in detail
    with Client(broker.port, "late") as late:
        assert wait_alert(late, "outbox_full", up=True) == detail
    held = in_outbox(agent)
    assert 50 < held < 200
    assert files_of(agent) <= MIB
    agent.kill()
    agent.start()
    agent.wait_log("alert", 2, alert="outbox_full")
    assert held <= in_outbox(agent) <= held + 5
    assert not client.results
    with ScriptedLLM(any_label, port) as llm:
        wait_finals(client, 300)
        wait_alert(client, "outbox_full", up=False)
        wait_alert(client, "upstream_gone", up=False)
        assert agent.terminate() == 0
        assert set(calls(llm).values()) == {1}
        assert len(llm.asked) == 300
    assert {said["upstream"] for said in finals(client).values()} == {"answered"}
    assert client.answers == len(finals(client)) == 300
    assert in_outbox(agent) == 0


def test_drop_oldest(broker: Mosquitto, new_agent: NewAgent, client: Client) -> None:
    """With `drop_oldest` the oldest that wait end `full`, no more than need to."""
    port = free_port()
    agent = new_agent(
        broker.port,
        upstream=gone(port, "rate = 1000.0\nconcurrency = 2"),
        outbox=f'max_bytes = {MIB}\nwhen_full = "drop_oldest"',
        pipelines={"ask": asking()},
        hurry=HURRY,
    )
    agent.start()
    send_long(client, range(300))
    client.wait(lambda: _ended(client, "full") + _waiting(client) == 300)
    wait_finals(client, _ended(client, "full"))
    dropped = sorted(int(n.removeprefix("q-")) for n in finals(client))
    assert 100 < len(dropped) < 250
    # The oldest, but for those that somebody had in hand at that time.
    assert max(dropped) < len(dropped) + 10
    assert files_of(agent) <= MIB
    with ScriptedLLM(any_label, port):
        wait_finals(client, 300)
        wait_alert(client, "outbox_full", up=False)
        assert agent.terminate() == 0
    outcomes = Counter(said["upstream"] for said in finals(client).values())
    assert outcomes == {"full": len(dropped), "answered": 300 - len(dropped)}
    assert client.answers == 300


def test_drop_lowest(broker: Mosquitto, new_agent: NewAgent, client: Client) -> None:
    """With `drop_lowest` what is least important ends `full`, be it the new one."""
    port = free_port()
    agent = new_agent(
        broker.port,
        upstream=gone(port, "rate = 1000.0\nconcurrency = 2"),
        outbox=f'max_bytes = {MIB}\nwhen_full = "drop_lowest"',
        pipelines={
            "low": asking("low/+", "priority = 1"),
            "high": asking("high/+", "priority = 8"),
        },
        hurry=HURRY,
    )
    agent.start()
    send_long(client, range(60), "low")
    send_long(client, range(60, 300), "high")
    client.wait(lambda: _ended(client, "full") + _waiting(client) == 300)
    wait_finals(client, _ended(client, "full"))
    first = Counter(said["pipeline"] for said in finals(client).values())
    assert first["low"] >= 58  # but for two that may be in hand
    assert first["high"] >= 50
    send_long(client, range(300, 310), "low")
    client.wait(lambda: _ended(client, "full") + _waiting(client) == 310)
    wait_finals(client, _ended(client, "full"))
    then = Counter(said["pipeline"] for said in finals(client).values())
    # Some may still have fitted; what did not, nobody more important went for.
    assert (then - first)["high"] <= 2  # which were on their way when we counted
    with ScriptedLLM(any_label, port):
        wait_finals(client, 310)
        assert agent.terminate() == 0
    outcomes = Counter(said["upstream"] for said in finals(client).values())
    assert outcomes == {"full": then.total(), "answered": 310 - then.total()}
    assert client.answers == 310


def test_rate(broker: Mosquitto, new_agent: NewAgent, client: Client) -> None:
    """However much waits when upstream returns, calls keep to the rate."""
    port = free_port()
    rate, workers = 20, 4
    agent = new_agent(
        broker.port,
        upstream=gone(port, f"rate = {rate}.0\nconcurrency = {workers}"),
        pipelines={"ask": asking()},
        hurry=HURRY,
    )
    agent.start()
    ask(client, range(100))
    agent.wait_log("handled", 100)
    wait_alert(client, "upstream_gone", up=True)
    arrived: list[float] = []

    def note(asked: Asked) -> Says:
        arrived.append(time.monotonic())
        return well(asked)

    with ScriptedLLM(note, port) as llm:
        wait_finals(client, 100)
        assert agent.terminate() == 0
        assert len(llm.asked) == 100
    # The ledger's time is that of the decision: no stall on the way bunches it.
    assert most_in_a_second([entry.egress.at for entry in entries(agent)]) <= rate + 2
    # Where calls arrive, a stall bunches no more of them than there are workers.
    assert most_in_a_second(arrived) <= rate + 2 + workers
    assert {said["upstream"] for said in finals(client).values()} == {"answered"}


@pytest.mark.parametrize("crash", [False, True], ids=["goes on", "is killed"])
def test_disk_full(
    broker: Mosquitto,
    small_disk: Path,
    new_agent: NewAgent,
    client: Client,
    *,
    crash: bool,
) -> None:
    """A disk that others fill stops acknowledgements, and nothing else.

    There is an alert while it is so, what waits is not lost, and when there is room
    again all goes on by itself. A crash in the middle changes nothing of that.
    """
    port = free_port()
    agent = new_agent(
        broker.port,
        upstream=gone(port),
        state=small_disk,
        pipelines={"ask": asking(), "home": LOCAL},
        hurry=HURRY,
    )
    agent.start()
    send_long(client, range(50))
    client.wait(lambda: _waiting(client) == 50)
    filler = fill(small_disk)
    send_long(client, range(50, 600))
    wait_alert(client, "outbox_full", up=True)
    assert os.statvfs(small_disk).f_bavail >= 0
    held = in_outbox(agent)
    assert 50 <= held < 500
    if crash:
        agent.kill()
        agent.start()
        agent.wait_log("alert", 2, alert="outbox_full")
        assert in_outbox(agent) >= held
    ask(client, [700], "home")
    filler.unlink()
    wait_alert(client, "outbox_full", up=False)
    final(client, "home/700")
    assert in_outbox(agent) == 600
    assert list(finals(client)) == ["q-700"]
    with ScriptedLLM(any_label, port) as llm:
        wait_finals(client, 601)
        assert agent.terminate() == 0
        assert len(llm.asked) == 600
    assert agent.count_log("ready") == 1 + crash
    assert {said.get("upstream") for said in finals(client).values()} == {
        "answered",
        None,
    }
    assert client.answers == 601


def test_disk_stays_full(
    broker: Mosquitto, small_disk: Path, new_agent: NewAgent, client: Client
) -> None:
    """What is in the outbox ends though the disk stays full; the rest comes later."""
    with ScriptedLLM(any_label) as llm:
        agent = new_agent(
            broker.port,
            upstream=http(llm),
            state=small_disk,
            pipelines={"ask": asking(more="deadline_s = 3.0")},
            hurry=HURRY,
        )
        agent.start()
        send_long(client, range(5))
        wait_finals(client, 5)
        filler = fill(small_disk)
        send_long(client, range(5, 300))
        wait_alert(client, "outbox_full", up=True)
        client.wait(lambda: _in_hand(client) == 0)
        filler.unlink()
        wait_finals(client, 300)
        wait_alert(client, "outbox_full", up=False)
        assert agent.terminate() == 0
        assert set(calls(llm).values()) == {1}
    assert client.answers == 300
    outcomes = {said["upstream"] for said in finals(client).values()}
    assert outcomes <= {"answered", "timeout"}


def _in_hand(client: Client) -> int:
    told = health(client)["outbox"]
    return int(told["waiting"] + told["unpublished"])


def _waiting(client: Client) -> int:
    told = health(client)
    return int(told["outbox"]["waiting"]) if told else 0


def _ended(client: Client, how: str) -> int:
    told = health(client)
    return int(told["cases"].get(how, 0)) if told else 0


def test_first_start_on_a_full_disk(
    broker: Mosquitto, small_disk: Path, new_agent: NewAgent
) -> None:
    """Without room for an outbox it says so in a line, and starts when there is."""
    agent = new_agent(
        broker.port,
        upstream=gone(free_port()),
        state=small_disk,
        pipelines={"ask": asking()},
    )
    filler = fill(small_disk)
    agent.start(ready=False)
    assert agent.wait() == 1  # 2 would be a mistake of the operator's
    [said] = agent.noise
    assert said.startswith("error: the outbox does not open, free some room?")
    filler.unlink()
    agent.start()
    assert agent.terminate() == 0
