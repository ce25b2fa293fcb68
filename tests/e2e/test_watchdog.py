"""The watchdog: fed while we live or wait for others, not while a part hangs."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.casework import asking, fill, gone, http, wait_alert, well
from harness.proxy import PUBACK, Fate, Proxy, Way, all_pass, kind
from harness.stage import Agent, Client, Mosquitto, free_port
from harness.upstreams import ScriptedLLM

NewAgent = Callable[..., Agent]
TICK_S = 0.2
HURRY = {"daemon.watchdog.STALL_S": 2.0, "daemon.watchdog.STILL_S": 4.0}
LONG = 30  # ticks: half as long again as what makes a part hang
FOR_EVER = (
    "import asyncio, threading\nasync def hang(*_): await asyncio.Event().wait()\n"
)
SLEEPS = "def sleep(*_, **__): threading.Event().wait()\n"
PIPELINES = {
    "home": (["home/+/utterance"], ""),
    "ask": asking(),
    "hide": (["hide/+"], '[upstream]\npolicy = "always_upstream"\n'),
}


@pytest.fixture(autouse=True)
def systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Want to hear of the agent as often as the test needs it."""
    monkeypatch.setenv("WATCHDOG_USEC", str(round(TICK_S * 2e6)))
    monkeypatch.delenv("WATCHDOG_PID", raising=False)


@pytest.fixture
def llm() -> Iterator[ScriptedLLM]:
    """Answer what is asked."""
    with ScriptedLLM(well) as running:
        yield running


def fed(agent: Agent, times: int = LONG) -> None:
    """Wait until it was fed that often, and see that nothing was found to hang."""
    for _ in range(times):
        agent.wait_told("WATCHDOG=1")
    assert agent.count_log("stalled") == 0, agent.tail()


def hungry(agent: Agent, part: str) -> None:
    """Wait until a part is found to hang, and see that nothing is fed any more."""
    agent.wait_log("stalled", parts=part)
    heard(agent)
    agent.wait_log("stalled", count=agent.count_log("stalled") + 3)
    assert heard(agent) == []


def heard(agent: Agent) -> list[bytes]:
    """Return what the service manager was told and has not read yet."""
    found = []
    agent._notify.settimeout(0)
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(agent._notify.recv(4096))
    return found


@pytest.mark.parametrize(
    ("part", "place", "how", "topic"),
    [
        ("model", "inference.engine.answer", "sleep", "home/1/utterance"),
        (
            "delivery",
            "daemon.delivery.Delivery.deliver_once",
            "hang",
            "home/1/utterance",
        ),
        ("delivery", "daemon.delivery.Delivery._commit", "hang", "ask/1"),
        ("outbox", "outbox.store.Store._commit", "sleep", "ask/1"),
        (
            "finals",
            "escalation.final_results.ResultPublisher._published",
            "hang",
            "ask/1",
        ),
        ("cases", "escalation.cases.Escalation._expire", "hang", "ask/1"),
        ("privacy", "escalation.questions.redact", "sleep", "hide/1"),
    ],
)
def test_what_hangs_is_not_fed(
    broker: Mosquitto,
    client: Client,
    new_agent: NewAgent,
    llm: ScriptedLLM,
    part: str,
    place: str,
    how: str,
    topic: str,
) -> None:
    """Whichever part hangs is found out and named, and systemd would restart us."""
    agent = new_agent(
        broker.port,
        upstream=http(llm),
        pipelines=PIPELINES,
        hurry=HURRY,
        broken=f"{FOR_EVER}{SLEEPS}agent.{place} = {how}",
    )
    agent.start()
    client.send(topic, "turn on the lights in the kitchen")
    hungry(agent, part)


def test_idle_and_busy(
    broker: Mosquitto, client: Client, new_agent: NewAgent, llm: ScriptedLLM
) -> None:
    """It is fed while nothing comes, and while messages and cases end."""
    agent = new_agent(broker.port, upstream=http(llm), pipelines=PIPELINES, hurry=HURRY)
    agent.start()
    fed(agent)
    for number in range(LONG):
        client.send(f"home/{number}/utterance", "turn on the lights in the kitchen")
        client.send(f"ask/{number}", f"{number} lights in the kitchen")
        fed(agent, 1)
    client.wait_answered(2 * LONG)


def test_without_a_broker(
    broker: Mosquitto, client: Client, new_agent: NewAgent
) -> None:
    """A broker that is away is not our fault, whatever is in hand meanwhile."""
    agent = new_agent(
        broker.port, upstream=gone(free_port()), pipelines=PIPELINES, hurry=HURRY
    )
    agent.start()
    client.send("ask/1", "the lights in the kitchen")
    client.wait_acked(1)
    broker.stop()
    fed(agent)


@pytest.mark.parametrize(
    "outbox", ["", "max_bytes = 1048576"], ids=["upstream away", "stops acknowledging"]
)
def test_without_upstream(
    broker: Mosquitto, client: Client, new_agent: NewAgent, outbox: str
) -> None:
    """Neither is an upstream that is away, nor an outbox that is full by it."""
    agent = new_agent(
        broker.port,
        upstream=gone(free_port()),
        outbox=outbox,
        pipelines=PIPELINES,
        hurry=HURRY,
    )
    agent.start()
    for number in range(300):
        client.send(f"ask/{number}", f"{number} {'x' * 2000}")
    wait_alert(client, "outbox_full" if outbox else "upstream_gone", up=True)
    fed(agent)


def test_with_a_full_disk(
    broker: Mosquitto,
    small_disk: Path,
    client: Client,
    new_agent: NewAgent,
) -> None:
    """Neither is a disk that others filled, though no case can even end."""
    agent = new_agent(
        broker.port,
        upstream=gone(free_port()),
        state=small_disk,
        pipelines={"ask": asking(more="deadline_s = 3.0")},
        hurry=HURRY,
    )
    agent.start()
    fill(small_disk)
    for number in range(400):
        client.send(f"ask/{number}", f"{number} {'x' * 2000}")
    wait_alert(client, "outbox_full", up=True)
    fed(agent)


def test_a_broker_that_acknowledges_nothing(
    proxy: Proxy, client: Client, new_agent: NewAgent
) -> None:
    """It looks like a part of ours that hangs; to whom is restarted, like none."""
    hurry = HURRY | {"mqtt.link.INTRODUCTION_S": 0.5}
    agent = new_agent(proxy.port, pipelines={"home": PIPELINES["home"]}, hurry=hurry)
    agent.start()

    def lose(way: Way, packet: bytes) -> Fate:
        lost = way is Way.BROKER and kind(packet) == PUBACK
        return Fate.DROP if lost else Fate.PASS

    proxy.gate = lose
    client.send("home/1/utterance", "turn on the lights in the kitchen")
    hungry(agent, "delivery")
    agent.kill()
    before = agent.count_log("stalled")
    agent.start(ready=False)
    for _ in range(LONG):
        agent.wait_told("WATCHDOG=1")
    assert agent.count_log("stalled") == before
    proxy.gate = all_pass
    client.wait_answered(1)
