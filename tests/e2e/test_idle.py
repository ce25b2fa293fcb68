"""An idle daemon sleeps: a Pi on a battery, or a card in a field, is not woken."""

from collections.abc import Callable

import pytest

from harness.casework import asking, http, question, well
from harness.fleetwork import Office, version
from harness.stage import Agent, Client, Mosquitto, free_port
from harness.upstreams import ScriptedLLM
from harness.wakes import AT_MOST, KEEPALIVE, wakes


def idle_agent(
    broker: Mosquitto, office: Office, llm: ScriptedLLM, new_agent: Callable[..., Agent]
) -> Agent:
    """Start an agent with all that could wake it."""
    agent = new_agent(
        broker.port,
        mqtt=KEEPALIVE,
        upstream=http(llm),
        pipelines={"home": (["home/+/utterance"], ""), "ask": asking()},
    )
    office.join(agent, more=f'file = "{agent.config.parent}/none"\n')
    text = agent.config.read_text("utf-8")
    port = free_port()
    text = text.replace("[metrics]\nport = 0", f"[metrics]\nport = {port}")
    agent.config.write_text(f"{text}[homeassistant]\nenable = true\n", "utf-8")
    agent.start()
    return agent


@pytest.mark.timeout(180)
def test_an_idle_daemon_is_woken_at_most_once_in_five_seconds(
    broker: Mosquitto, client: Client, office: Office, new_agent: Callable[..., Agent]
) -> None:
    """With upstream, a fleet, metrics and Home Assistant, after it had work to do."""
    with ScriptedLLM(well) as llm:
        agent = idle_agent(broker, office, llm, new_agent)
        office.push(office.signed(version(1)))
        office.wait("pi", state="applied")
        client.send("home/1/utterance", "turn on the lights in the kitchen")
        client.send("ask/1", question(1))
        client.wait_answered(2)
        found = wakes(agent.pid)
    assert found.total() <= AT_MOST, found
