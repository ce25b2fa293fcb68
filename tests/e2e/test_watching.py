"""doctor, tap and top, against a real broker and a real daemon."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from stage import (
    BROKER,
    DEVICE,
    REPOSITORY,
    Agent,
    Client,
    Mosquitto,
    free_port,
    text_of,
)


def told(agent: Agent, *arguments: str) -> "subprocess.Popen[str]":
    """Start a command of slm-agent with the agent's configuration."""
    return subprocess.Popen(
        [sys.executable, "-m", "agent", *arguments, "--config", agent.config],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )


def findings(agent: Agent) -> tuple[int, dict[str, list[dict[str, str]]]]:
    """Return the exit status of doctor and its findings by subject."""
    running = told(agent, "doctor", "--json")
    out, _ = running.communicate()
    found: dict[str, list[dict[str, str]]] = {}
    for line in out.splitlines():
        said = json.loads(line)
        found.setdefault(said["subject"], []).append(said)
    return running.returncode, found


def test_all_is_well(agent: Agent) -> None:
    """Beside a running daemon everything is found in order, and it runs on."""
    status, found = findings(agent)
    assert status == 0, found
    for subject in (
        "state",
        "clock",
        "runtime",
        "bundles",
        "broker",
        "publish",
        "home",
    ):
        assert [said["level"] for said in found[subject]] == ["ok"], found[subject]
    assert agent.count_log("disconnected") == 0


def test_nobody_answers(new_agent: Callable[..., Agent]) -> None:
    """Without a broker there is one error about it, and the rest is looked at."""
    status, found = findings(new_agent(free_port()))
    assert status == 2
    assert found["broker"][0]["level"] == "error"
    assert found["bundles"][0]["level"] == "ok"


def test_access_is_refused(tmp_path: Path, new_agent: Callable[..., Agent]) -> None:
    """A topic that the broker's access list closes is named."""
    rules = tmp_path / "acl"
    rules.write_text("topic read #\n", "utf-8")
    broker = Mosquitto(tmp_path / "b", f"{BROKER}acl_file {rules}\n")
    broker.start()
    try:
        status, found = findings(new_agent(broker.port))
    finally:
        broker.close()
    assert status == 2
    assert found["publish"][0]["level"] == "error"
    assert "refused" in found["publish"][0]["detail"]


def test_the_state_cannot_be_written(new_agent: Callable[..., Agent]) -> None:
    """A state folder that is none is an error."""
    agent = new_agent(free_port())
    (agent.config.parent / "state").write_text("a file", "utf-8")
    status, found = findings(agent)
    assert (status, found["state"][0]["level"]) == (2, "error")


def test_tap_shows_what_comes(agent: Agent, client: Client) -> None:
    """Results and dead letters are shown as they come, without their texts."""
    running = told(agent, "tap", "--limit", "2")
    for number in range(1000):  # until it has subscribed
        client.ask([number])
        client.wait_answered(number + 1)
        if running.poll() is not None:
            break
    lines = running.communicate()[0].splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"{DEVICE}/home  resolved")
    assert text_of(0) not in "".join(lines)


def test_tap_for_programs(agent: Agent, client: Client) -> None:
    """With --json each line is the payload as it was published."""
    running = told(agent, "tap", "--json", "--limit", "1")
    for number in range(1000):
        client.ask([number])
        client.wait_answered(number + 1)
        if running.poll() is not None:
            break
    said = json.loads(running.communicate()[0])
    assert said in [r for found in client.results.values() for r in found]


def test_top_shows_every_device(agent: Agent, client: Client) -> None:
    """Each device has a row made of what it says of itself."""
    client.wait_said(f"slm/{DEVICE}/status", b"online")
    out, _ = told(agent, "top", "--json").communicate()
    [row] = [json.loads(line) for line in out.splitlines()]
    assert (row["device"], row["status"]) == (DEVICE, "online")
    assert row["rss_bytes"] > 10_000_000
    table, _ = told(agent, "top", "--once").communicate()
    assert DEVICE in table
