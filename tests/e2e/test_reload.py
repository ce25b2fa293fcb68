"""Reloads at bad moments: nothing asked for is lost, and how we are is always true."""

import json
import os
import signal
from collections.abc import Callable

import pytest
from test_control import ask

from harness.fleetwork import Office, asked, version
from harness.stage import DEVICE, Agent, Client, Mosquitto

STATUS = f"slm/{DEVICE}/status"
ONE: dict[str, tuple[list[str], str]] = {"one": (["home/+/utterance"], "")}


def loading_takes(seconds: float) -> dict[str, object]:
    """Return what makes the agent need longer to open a configuration."""
    slowly = (
        "lambda real: lambda config: ("
        "__import__('structlog').get_logger().info('opening'), "
        "__import__('time').sleep(SECONDS), real(config))[2]"
    ).replace("SECONDS", str(seconds))
    place = "daemon.config_source.prepare"
    return {place: f"({slowly})(agent.{place})"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("moment", ["opening", "reloading", "disconnected"])
def test_a_stop_during_a_reload_is_a_stop(
    broker: Mosquitto,
    client: Client,
    new_agent: Callable[..., Agent],
    number: int,
    moment: str,
) -> None:
    """Whenever it comes, the process ends in order, and `offline` stands."""
    agent = new_agent(broker.port, pipelines=ONE, hurry=loading_takes(0.5))
    agent.start()
    client.wait_said(STATUS, b"online")
    os.kill(agent.pid, signal.SIGHUP)
    if moment == "opening":
        agent.wait_told("RELOADING=1")
    else:
        agent.wait_log(moment)
    os.kill(agent.pid, number)
    assert agent.wait() == 0, agent.tail()
    client.wait(lambda: client.said[STATUS][-1] == b"offline")


def test_a_reload_during_a_reload_is_not_lost(
    broker: Mosquitto, client: Client, new_agent: Callable[..., Agent]
) -> None:
    """What was changed after the files were read is taken by the next reload."""
    agent = new_agent(broker.port, pipelines=ONE, hurry=loading_takes(0.5))
    agent.start()
    path = agent.config.parent / "one.toml"
    text = path.read_text("utf-8")
    os.kill(agent.pid, signal.SIGHUP)
    agent.wait_log("reloading")
    path.write_text(f"{text}[decide]\nmax_error = 0.1\n", "utf-8")
    os.kill(agent.pid, signal.SIGHUP)
    agent.wait_log("ready", 3)

    def taken() -> bool:
        birth = json.loads(client.said[f"slm/{DEVICE}/birth"][-1])
        return bool(birth["pipelines"]["one"]["max_error"] == 0.1)

    client.wait(taken)


def test_a_reload_during_the_start_is_not_lost(
    broker: Mosquitto, client: Client, new_agent: Callable[..., Agent]
) -> None:
    """It is done once there is something to reload."""
    agent = new_agent(broker.port, pipelines=ONE, hurry=loading_takes(2.0))
    agent.start(ready=False)
    agent.wait_log("opening")
    os.kill(agent.pid, signal.SIGHUP)
    agent.wait_log("ready", 2)
    client.ask([1])
    client.wait_answered(1)


def test_a_retained_reload_is_no_request(
    broker: Mosquitto, client: Client, new_agent: Callable[..., Agent]
) -> None:
    """With MQTT 3.1.1 it comes with each connection, and would never end."""
    client.send(f"slm/{DEVICE}/request/reload", b"{}", retain=True)
    agent = new_agent(broker.port, mqtt='version = "3.1.1"')
    agent.start()
    agent.wait_log("request_ignored")
    assert ask(client, "ping")["status"] == "ok"
    assert agent.count_log("reloading") == 0
    client.send(f"slm/{DEVICE}/request/reload", b"", retain=True)


def test_what_cannot_be_opened_at_the_end_is_refused(
    broker: Mosquitto, client: Client, new_agent: Callable[..., Agent]
) -> None:
    """Where only the state cannot be opened, what ran before comes back and says so."""
    agent = new_agent(broker.port, pipelines=ONE)
    agent.start()
    good = agent.config.read_text("utf-8")
    bad = good.replace('dir = "state"', 'dir = "agent.toml/state"')
    agent.config.write_text(bad, "utf-8")
    os.kill(agent.pid, signal.SIGHUP)
    alert = f"slm/{DEVICE}/alert/reload_refused"
    client.wait(lambda: any(b"agent.toml/state" in said for said in client.said[alert]))
    client.ask([1])
    client.wait_answered(1)
    agent.config.write_text(good, "utf-8")
    assert ask(client, "reload")["status"] == "ok"
    client.wait(lambda: client.said[alert][-1] == b"")


def test_another_name_leaves_no_old_one_online(
    broker: Mosquitto, client: Client, new_agent: Callable[..., Agent]
) -> None:
    """After a reload with another device id, the old one is offline."""
    agent = new_agent(broker.port, pipelines=ONE)
    agent.start()
    client.wait_said(STATUS, b"online")
    text = agent.config.read_text("utf-8")
    agent.config.write_text(text.replace(f'id = "{DEVICE}"', 'id = "other"'), "utf-8")
    os.kill(agent.pid, signal.SIGHUP)
    client.wait_said("slm/other/status", b"online")
    client.wait_said(STATUS, b"offline")


def test_a_reload_on_probation_is_no_crash(
    broker: Mosquitto, client: Client, office: Office, new_agent: Callable[..., Agent]
) -> None:
    """Neither a reload nor one that is refused takes a version back, or keeps it."""
    agent = new_agent(broker.port, pipelines={"one": (["pi/+/utterance"], "")})
    office.join(agent, 3.0).start()
    office.push(office.signed(version(1)))
    office.wait("pi", state="probation", applied=1)
    agent.wait_log("ready", 2)
    good = agent.config.read_text("utf-8")
    agent.config.write_text(f"{good}\n[engine]\nthreads = 0\n", "utf-8")
    assert ask(client, "reload")["status"] == "error"
    agent.config.write_text(good, "utf-8")
    assert ask(client, "reload")["status"] == "ok"
    agent.wait_log("ready", 3)
    said = office.wait("pi", state="applied", applied=1)
    assert said["reason"] is None
    asked(client, "pi", 1)


def test_a_refused_reload_does_not_end_a_probation(
    broker: Mosquitto, client: Client, office: Office, new_agent: Callable[..., Agent]
) -> None:
    """The version must prove itself as before."""
    agent = new_agent(broker.port, pipelines={"one": (["pi/+/utterance"], "")})
    office.join(agent, 3.0).start()
    office.push(office.signed(version(1)))
    office.wait("pi", state="probation", applied=1)
    agent.wait_log("ready", 2)
    good = agent.config.read_text("utf-8")
    agent.config.write_text(f"{good}\n[engine]\nthreads = 0\n", "utf-8")
    assert ask(client, "reload")["status"] == "error"
    agent.config.write_text(good, "utf-8")
    office.wait("pi", state="applied", applied=1)


def test_a_stop_during_a_reload_on_probation_is_no_crash(
    broker: Mosquitto, client: Client, office: Office, new_agent: Callable[..., Agent]
) -> None:
    """What a reload opened and never ran has not died: it stays on probation."""
    slow = {"daemon.app.FAREWELL_S": 2.0}
    pipelines = {"one": (["pi/+/utterance"], "")}
    agent = office.join(new_agent(broker.port, pipelines=pipelines, hurry=slow), 5.0)
    agent.start()
    office.push(office.signed(version(1)))
    office.wait("pi", state="probation", applied=1)
    agent.wait_log("ready", 2)
    os.kill(agent.pid, signal.SIGHUP)
    agent.wait_log("reloading", 2)
    agent.terminate()
    agent.start()
    office.wait("pi", state="applied", applied=1)
    states = [json.loads(said)["state"] for said in client.said["slm/pi/fleet"]]
    assert "rolled_back" not in states


def test_a_fleet_file_that_nobody_judged_comes_again(
    broker: Mosquitto, client: Client, office: Office, new_agent: Callable[..., Agent]
) -> None:
    """One that arrived just before a crash is applied after it."""
    del client
    pipelines = {"one": (["pi/+/utterance"], "")}
    slow = {"daemon.fleet_updates.SETTLE_S": 600}
    agent = office.join(new_agent(broker.port, pipelines=pipelines, hurry=slow))
    agent.start()
    office.push(office.signed(version(1)))
    assert ask(office._client, "ping")["status"] == "ok"  # it came before this
    agent.kill()
    agent = Agent(agent.config.parent, broker.port, pipelines=pipelines)
    office.join(agent).start()
    try:
        office.wait("pi", state="applied", applied=1)
    finally:
        agent.close()
