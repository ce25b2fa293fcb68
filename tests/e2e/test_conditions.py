"""Alerts: each is up while something is wrong, and over when it is over."""

import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from harness.casework import BRISK, asking, fill, gone, wait_alert
from harness.stage import DEVICE, REPOSITORY, Agent, Client, Mosquitto, free_port
from harness.upstreams import Asked, Says, ScriptedLLM

HURRY = {
    "daemon.status.HEALTH_S": 0.2,
    **BRISK,
    "escalation.cases.REST_S": 1.0,
}
HOME = (["home/+/utterance"], '[upstream]\npolicy = "always_local"\n')


@dataclass
class World:
    """What surrounds a running agent, and can be made wrong and right."""

    agent: Agent
    client: Client
    stack: ExitStack
    upstream: int = field(default_factory=free_port)
    sent: int = 0

    def say(self) -> None:
        """Send a message that is answered here, and wait for the answer."""
        self.sent += 1
        self.client.ask([self.sent])
        self.client.wait_answered(self.sent)

    def reload(self) -> None:
        """Reload, and wait until that is over."""
        os.kill(self.agent.pid, signal.SIGHUP)
        self.agent.wait_told("RELOADING=1")
        self.agent.wait_told("READY=1")

    @property
    def filler(self) -> Path:
        """What fills the disk."""
        return self.agent.state / "filler"

    @property
    def calibration(self) -> Path:
        """The operator's own calibration."""
        return self.agent.config.parent / "home.calibration.json"

    @property
    def written(self) -> Path:
        """A file of the device's state."""
        return self.agent.state / "written"


def damage_outbox(world: World) -> None:
    """Let the daemon find an outbox that is none, at its next start."""
    world.agent.terminate()
    (world.agent.state / "outbox.db").write_bytes(b"this is no database\n" * 500)
    world.agent.start()


def fill_disk(world: World) -> None:
    """Take the room that is left."""
    fill(world.agent.state)


def free_disk(world: World) -> None:
    """Give it back."""
    world.filler.unlink()


def set_clock_back(world: World) -> None:
    """Let a file have been written tomorrow, as the clock sees it."""
    world.written.touch()
    tomorrow = time.time() + 86_400
    os.utime(world.written, (tomorrow, tomorrow))


def set_clock_right(world: World) -> None:
    """Let it have been written now."""
    os.utime(world.written)


def calibrate_for_another(world: World) -> None:
    """Put a calibration in place that was made with another model."""
    shipped = json.loads((REPOSITORY / "models/home/calibration.json").read_text())
    world.calibration.write_text(json.dumps(shipped | {"fingerprint": "0" * 64}))
    world.reload()


def calibrate_anew(world: World) -> None:
    """Go back to the one that fits."""
    world.calibration.unlink()
    world.reload()


def break_configuration(world: World) -> None:
    """Reload a file that cannot be meant."""
    text = world.agent.config.read_text("utf-8")
    world.agent.config.write_text(f"{text}\n[engine]\nthreads = 0\n", "utf-8")
    os.kill(world.agent.pid, signal.SIGHUP)


def mend_configuration(world: World) -> None:
    """Reload the file as it was."""
    text = world.agent.config.read_text("utf-8")
    world.agent.config.write_text(text.replace("[engine]\nthreads = 0\n", ""), "utf-8")
    world.reload()


def be_silent(_world: World) -> None:
    """Send nothing."""


def speak(world: World) -> None:
    """Send messages until one was noticed in time."""
    told = world.client.said[f"slm/{DEVICE}/alert/input_stalled"]
    while told[-1]:
        world.say()


def ask_in_vain(world: World) -> None:
    """Send more cases than the outbox holds, though nobody answers."""
    for number in range(300):
        world.client.send(f"ask/{number}", f"{number} {'x' * 2000}")


def answer(world: World) -> None:
    """Let upstream answer."""

    def any_label(_asked: Asked) -> Says:
        return Says(answer={"label": "qa_factoid", "entities": []})

    world.stack.enter_context(ScriptedLLM(any_label, world.upstream))


@pytest.mark.parametrize(
    ("name", "detail", "wrong", "right"),
    [
        ("calibration_mismatch", "home", calibrate_for_another, calibrate_anew),
        ("clock_wrong", "written", set_clock_back, set_clock_right),
        ("disk_low", "of the disk", fill_disk, free_disk),
        ("input_stalled", "home", be_silent, speak),
        ("outbox_damaged", "outbox.db.damaged", damage_outbox, World.reload),
        ("outbox_filling", "cases wait", ask_in_vain, answer),
        ("outbox_full", "stop_acking", ask_in_vain, answer),
        ("reload_refused", "threads", break_configuration, mend_configuration),
        ("upstream_gone", "", ask_in_vain, answer),
    ],
)
def test_up_and_over(
    broker: Mosquitto,
    small_disk: Path,
    client: Client,
    new_agent: Callable[..., Agent],
    name: str,
    detail: str,
    wrong: Callable[[World], None],
    right: Callable[[World], None],
) -> None:
    """What is wrong stands at the broker for whoever comes, until it is right."""
    port = free_port()
    expect = "expect_s = 1.0\n" if name == "input_stalled" else ""
    pipelines = {"home": (HOME[0], f"{expect}{HOME[1]}"), "ask": asking()}
    agent = new_agent(
        broker.port,
        upstream=gone(port),
        outbox="max_bytes = 1048576",
        state=small_disk,
        pipelines=pipelines,
        hurry=HURRY,
    )
    models = '[models]\non_mismatch = "warn"\n'
    agent.config.write_text(agent.config.read_text("utf-8") + models, "utf-8")
    agent.start()
    with ExitStack() as stack:
        world = World(agent, client, stack, port)
        wrong(world)
        said = wait_alert(client, name, up=True)
        assert detail in said
        with Client(broker.port, "late") as late:
            assert wait_alert(late, name, up=True) == said
        right(world)
        wait_alert(client, name, up=False)
        with Client(broker.port, "later") as later:
            later.send("home/later/utterance", "turn on the lights in the kitchen")
            later.wait(lambda: "home/later/utterance" in later.results)
            assert f"slm/{DEVICE}/alert/{name}" not in later.said
