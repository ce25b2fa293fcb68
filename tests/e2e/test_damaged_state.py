"""The daemon and damaged state: it starts, answers, and tells of it."""

import json
import random
from collections.abc import Callable
from functools import partial

import pytest

from agent.fleet.state import FOLDER, STATE
from harness.casework import asking, http, question, well
from harness.damage import DAMAGES
from harness.fleetwork import HURRY, Office, version
from harness.stage import Agent, Client, Mosquitto, text_of
from harness.upstreams import ScriptedLLM

FILES = {
    "device": "state_damaged",
    "subscriptions": "state_damaged",
    "homeassistant.json": "state_damaged",
    "inflight.ids": "state_damaged",
    f"{FOLDER}/{STATE}": "state_damaged",
    "outbox.db": "outbox_damaged",
}
DAMAGED = [
    ("device", "random"),
    ("subscriptions", "random"),
    ("subscriptions", "folder"),
    ("subscriptions", "huge"),
    ("homeassistant.json", "deep object"),
    ("homeassistant.json", "zeros"),
    ("homeassistant.json", "pipe"),
    ("inflight.ids", "folder"),
    ("inflight.ids", "loop"),
    ("outbox.db", "random"),
    ("outbox.db", "folder"),
    (f"{FOLDER}/{STATE}", "folder"),
    (f"{FOLDER}/{STATE}", "truncated"),
    (f"{FOLDER}/*.signed.json", "zeros"),
]


def active(client: Client, alert: str) -> bool:
    """Tell whether the device says last that an alert is active."""
    said = client.said[f"slm/pi/alert/{alert}"]
    return bool(said) and bool(said[-1]) and json.loads(said[-1])["alert"] == alert


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_every_start(
    broker: Mosquitto, client: Client, office: Office, new_agent: Callable[..., Agent]
) -> None:
    """Whatever was damaged, the next start answers, and the alert names it."""
    with ScriptedLLM(well) as llm:
        agent = new_agent(
            broker.port,
            hurry=HURRY,
            pipelines={"one": (["pi/+/utterance"], "")} | {"two": asking("two/+/x")},
            upstream=http(llm),
        )
        more = "[homeassistant]\nenable = true\n"
        office.join(agent)
        agent.config.write_text(agent.config.read_text("utf-8") + more, "utf-8")
        agent.start()
        office.push(office.signed(version(1)))
        office.wait("pi", state="applied", applied=1)
        client.send("two/0/x", question(0))
        client.wait_answers(1)
        for number, (name, damage) in enumerate(DAMAGED, start=1):
            agent.terminate()
            path = next(agent.state.glob(name))
            DAMAGES[damage](path, random.Random(number))  # noqa: S311
            agent.start()
            client.send(f"pi/{number}/utterance", text_of(number))
            client.send(f"two/{number}/x", question(number))
            client.wait_answers(1 + 2 * number)
            office.wait("pi", state="applied", applied=1)
            alert = FILES.get(name)
            if alert:
                client.wait(partial(active, client, alert))
                assert list(path.parent.glob(f"{path.name}.damaged-*"))
        agent.terminate()
        agent.start()
        client.wait(lambda: not active(client, "state_damaged"))
