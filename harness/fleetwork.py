"""What the tests of fleets share: the office that signs, and its devices."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent.fleet.signing import Content, sign, write_keys
from harness.stage import Agent, Client, Mosquitto, text_of

TOPIC = "office/fleet"
HURRY = {"daemon.fleet_updates.LOOK_S": 0.1, "daemon.fleet_updates.SETTLE_S": 0.1}
LOST = 'agent.mqtt.url = "mqtt://127.0.0.1:9"'  # where nobody is


class Office:
    """Owns the keys of a fleet, and publishes its files."""

    def __init__(self, folder: Path, client: Client) -> None:
        """Make the keys."""
        folder.mkdir(parents=True, exist_ok=True)
        self.private, self.public = folder / "fleet.key", folder / "fleet.pub"
        write_keys(self.private, self.public)
        self._client = client

    def join(self, agent: Agent, probation_s: float = 1.0, more: str = "") -> Agent:
        """Make a device a member; `more` are lines of [fleet]."""
        lines = (
            f'\n[fleet]\npublic_key_files = ["{self.public}"]\n'
            f'topic = "{TOPIC}"\n{more}'
            f"probation_s = {probation_s}\n[metrics]\nport = 0\n"
        )
        agent.config.write_text(agent.config.read_text("utf-8") + lines, "utf-8")
        return agent

    def signed(self, toml: str) -> bytes:
        """Return a signed fleet file that takes every device."""
        text = f'unlisted = "accept"\n{toml}'
        return sign(Content(text.encode()), self.private.read_bytes())

    def push(self, data: bytes) -> None:
        """Publish a file, retained."""
        self._client.send(TOPIC, data, retain=True)

    def report(self, device: str) -> dict[str, Any]:
        """Return what a device said last."""
        said = self._client.said[f"slm/{device}/fleet"]
        found: dict[str, Any] = json.loads(said[-1]) if said else {}
        return found

    def wait(self, device: str, **wanted: object) -> dict[str, Any]:
        """Wait for a report with these values."""
        self._client.wait(lambda: wanted.items() <= self.report(device).items())
        return self.report(device)


def asked(client: Client, device: str, start: int) -> None:
    """Ask a device, and see that it answers."""
    before = client.answers
    client.send(f"{device}/home/utterance", text_of(start))
    client.wait_answers(before + 1)


def member(
    office: Office,
    new_agent: Callable[..., Agent],
    broker: Mosquitto,
    device: str = "pi",
    probation_s: float = 1.0,
) -> Agent:
    """Start a device that belongs to the fleet."""
    pipelines = {"one": ([f"{device}/+/utterance"], "")}
    agent = new_agent(broker.port, hurry=HURRY, device=device, pipelines=pipelines)
    office.join(agent, probation_s).start()
    return agent


def version(number: int, max_error: float = 0.1, more: str = "") -> str:
    """Return a fleet file that changes what the pipeline `one` may get wrong."""
    return (
        f"version = {number}\n{more}\n[pipelines.one.decide]\nmax_error = {max_error}\n"
    )
