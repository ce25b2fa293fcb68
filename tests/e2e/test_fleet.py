"""Fleet files at work: signed, applied, proven, taken back; messages are answered."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent.fleet.model import drawn
from harness.fleetwork import HURRY, LOST, Office, asked, member, version
from harness.stage import Agent, Client, Mosquitto, text_of


def test_a_version_is_applied_and_proves_itself(
    broker: Mosquitto, client: Client, office: Office, new_agent: Callable[..., Agent]
) -> None:
    """It runs at once, on probation, then stands; also after a restart."""
    agent = member(office, new_agent, broker)
    office.push(office.signed(version(1)))
    office.wait("pi", state="probation", applied=1)
    asked(client, "pi", 1)
    office.wait("pi", state="applied", applied=1, last_good=1)
    agent.wait_log("ready", 2)
    birth = json.loads(client.said["slm/pi/birth"][-1])
    assert birth["pipelines"]["one"]["max_error"] == 0.1
    agent.terminate()
    agent.start()
    asked(client, "pi", 2)
    birth = json.loads(client.said["slm/pi/birth"][-1])
    assert birth["pipelines"]["one"]["max_error"] == 0.1


def test_what_may_not_be_believed_is_refused(
    broker: Mosquitto,
    client: Client,
    office: Office,
    new_agent: Callable[..., Agent],
    tmp_path: Path,
) -> None:
    """A stranger's signature, an older version, a cut file: refused, each by name."""
    member(office, new_agent, broker)
    good = office.signed(version(2))
    office.push(good)
    office.wait("pi", state="applied", applied=2)
    stranger = Office(tmp_path / "stranger", client)
    broken = version(4, more='[agent.engine]\nthreads = "many"')
    for data, why in (
        (stranger.signed(version(3)), "key"),
        (office.signed(version(1)), "older"),
        (office.signed(version(2, 0.2)), "another file"),
        (good[: len(good) // 2], ""),
        (b"{}", ""),
        (office.signed(broken), "threads"),
    ):
        office.push(data)
        said = office.wait("pi", state="refused", applied=2)
        assert why in said["reason"], said
        asked(client, "pi", 1)
        office.push(good)
        office.wait("pi", state="applied", applied=2)


def said_by(agent: Agent, *words: str) -> tuple[list[dict[str, Any]], str]:
    """Return what another command says, for programs and for people."""
    out, noise = agent.command(*words, "--json").communicate()
    return [json.loads(line) for line in out.splitlines()], noise


def test_commands_see_what_runs(
    broker: Mosquitto,
    client: Client,
    office: Office,
    new_agent: Callable[..., Agent],
    tmp_path: Path,
) -> None:
    """check, doctor and try look at the version applied, and say which it is."""
    agent = member(office, new_agent, broker)
    office.push(office.signed(version(7, 0.2)))
    office.wait("pi", state="applied", applied=7)
    office.push(Office(tmp_path / "stranger", client).signed(version(8)))
    office.wait("pi", state="refused")
    found, _ = said_by(agent, "check")
    assert {"subject": "fleet", "level": "ok"}.items() <= found[0].items()
    assert found[0]["detail"] == "version 7 is applied"
    found, _ = said_by(agent, "doctor")
    fleet = [each for each in found if each["subject"] == "fleet"]
    assert [each["level"] for each in fleet] == ["ok", "ok", "warning"]
    assert "key" in fleet[-1]["detail"]
    [runs], noise = said_by(agent, "try", "one", text_of(1))
    [own], silence = said_by(agent, "try", "one", text_of(1), "--own")
    assert runs["threshold"] < own["threshold"]
    assert (noise, silence) == ("fleet: version 7 is applied\n", "")


def test_a_version_that_cuts_the_device_off_is_taken_back(
    broker: Mosquitto, client: Client, office: Office, new_agent: Callable[..., Agent]
) -> None:
    """The device comes back by itself, with the last good version, and says why."""
    member(office, new_agent, broker)
    office.push(office.signed(version(1)))
    office.wait("pi", state="applied", applied=1)
    office.push(office.signed(version(2, more=LOST)))
    said = office.wait("pi", state="rolled_back", applied=1)
    assert "broker" in said["reason"]
    asked(client, "pi", 1)


def test_a_fleet_file_from_disk(
    broker: Mosquitto,
    client: Client,
    office: Office,
    new_agent: Callable[..., Agent],
    tmp_path: Path,
) -> None:
    """It is read at each start and reload, and is worth what one by the topic is."""
    agent = new_agent(
        broker.port, hurry=HURRY, pipelines={"one": (["pi/+/utterance"], "")}
    )
    file = tmp_path / "fleet.signed.json"
    file.write_bytes(office.signed(version(1)))
    office.join(agent, more=f'file = "{file}"\n').start()
    office.wait("pi", state="applied", applied=1, last_good=1)
    asked(client, "pi", 1)
    file.write_bytes(office.signed(version(2, more=LOST)))
    os.kill(agent.pid, signal.SIGHUP)
    office.wait("pi", state="rolled_back", applied=1, desired=2)
    asked(client, "pi", 2)
    better = office.signed(version(3))
    file.write_bytes(better[: len(better) // 2])
    os.kill(agent.pid, signal.SIGHUP)
    assert "truncated" in office.wait("pi", state="refused", applied=1)["reason"]
    asked(client, "pi", 3)
    file.unlink()
    agent.terminate()
    agent.start()
    agent.wait_log("no_fleet_file")
    office.wait("pi", state="rolled_back", applied=1)
    asked(client, "pi", 4)
    file.write_bytes(better)
    os.kill(agent.pid, signal.SIGHUP)
    office.wait("pi", state="applied", applied=3, last_good=3)
    asked(client, "pi", 5)


def test_a_crash_on_probation_takes_a_version_back(
    broker: Mosquitto, client: Client, office: Office, new_agent: Callable[..., Agent]
) -> None:
    """A process that ends unexpectedly with a new version starts with the old one."""
    agent = member(office, new_agent, broker, probation_s=600)
    office.push(office.signed(version(1)))
    office.wait("pi", state="probation", applied=1)
    agent.wait_log("ready", 2)
    agent.kill()
    agent.start()
    said = office.wait("pi", state="rolled_back", applied=None)
    assert "unexpectedly" in said["reason"]
    asked(client, "pi", 1)


def test_a_staged_rollout(
    broker: Mosquitto, client: Client, office: Office, new_agent: Callable[..., Agent]
) -> None:
    """Ten percent take it, the others hold, then all; a bad one is taken back there."""
    names = [f"pi-{number}" for number in range(1000)]
    early = [name for name in names if drawn("autumn", name) < 10][:2]
    late = [name for name in names if drawn("autumn", name) >= 10][:2]
    for device in (*early, *late):
        member(office, new_agent, broker, device)
    ten = '[rollout]\nname = "autumn"\npercent = 10'
    office.push(office.signed(version(1, more=ten)))
    for device in early:
        office.wait(device, state="applied", applied=1)
    for device in late:
        office.wait(device, state="held", applied=None, desired=1)
    office.push(office.signed(version(2, more=ten.replace("10", "100"))))
    for device in (*early, *late):
        office.wait(device, state="applied", applied=2)
    office.push(office.signed(version(3, more=f"{LOST}\n{ten}")))
    for device in early:
        office.wait(device, state="rolled_back", applied=2)
    for device in late:
        office.wait(device, state="held", applied=2)
    for device in (*early, *late):
        asked(client, device, 1)
