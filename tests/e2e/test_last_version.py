"""A state directory that the last version wrote is taken over, with all that is in it.

`state_0_1.tar.gz` is that of a device `pi` at commit 82b67a5: one case was answered by
upstream, three wait, Home Assistant was told, and a second topic was subscribed to.
"""

import json
import sqlite3
import tarfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from harness.casework import asking, http, question, well
from harness.stage import Agent, Client, Mosquitto
from harness.upstreams import ScriptedLLM

STATE = Path(__file__).parent / "state_0_1.tar.gz"
WAITING = ("ask/1", "ask/2", "ask/3")


def taken_over(agent: Agent) -> None:
    """Give an agent the state, as if it was written just now."""
    with tarfile.open(STATE) as packed:
        packed.extractall(agent.state, filter="data")
    with closing(sqlite3.connect(agent.state / "outbox.db")) as db, db:
        now = time.time()
        db.execute("UPDATE cases SET added = ?, deadline = ?", (now, now + 3600))


def test_state_of_the_last_version(
    broker: Mosquitto, client: Client, new_agent: Callable[..., Agent]
) -> None:
    """What waited is answered once, the ledger goes on, and nothing is set aside."""
    with ScriptedLLM(well) as llm:
        agent = new_agent(
            broker.port, pipelines={"two": asking("ask/+")}, upstream=http(llm)
        )
        home = "[homeassistant]\nenable = true\n"
        agent.config.write_text(agent.config.read_text("utf-8") + home, "utf-8")
        taken_over(agent)
        agent.start()
        client.wait(lambda: client.results.keys() >= {*WAITING})
        client.send("ask/4", question(4))
        client.wait(lambda: "ask/4" in client.results)
        assert len(llm.asked) == len(WAITING) + 1
        ledger = agent.command("egress", "--verify", "--json").communicate()[0]
        assert agent.terminate() == 0
    for topic in WAITING:
        [result] = client.results[topic]
        assert (result["by"], result["id"]) == ("upstream", f"m-{topic[-1]}")
    assert json.loads(ledger)["problem"] is None
    filters = (agent.state / "subscriptions").read_text("utf-8").splitlines()
    assert "gone/+" not in filters
    assert not list(agent.state.glob("*.damaged-*"))
    assert not any(client.said["slm/pi/alert/state_damaged"])
