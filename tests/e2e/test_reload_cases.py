"""Reloads with a pile of cases and calls in flight: each case ends once."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import closing

from harness.casework import ask, asking, finals, http, in_outbox, wait_finals, well
from harness.stage import Agent, Client, Mosquitto
from harness.upstreams import Asked, Says, ScriptedLLM

CASES = 300


def slowly(asked: Asked) -> Says:
    """Answer, a little later."""
    time.sleep(0.05)
    return well(asked)


def test_cases_outlive_reloads(
    broker: Mosquitto, client: Client, new_agent: Callable[..., Agent]
) -> None:
    """Whoever runs takes the outbox over, and publishes each end once or the same."""
    with closing(ScriptedLLM(slowly)) as llm:
        agent = new_agent(broker.port, pipelines={"ask": asking()}, upstream=http(llm))
        agent.start()
        ask(client, range(CASES))
        for number in range(2, 5):
            wait_finals(client, 20 * number)
            os.kill(agent.pid, signal.SIGHUP)
            agent.wait_log("ready", number)
        wait_finals(client, CASES)
        ended = finals(client)
        assert len(ended) == CASES
        assert {result["upstream"] for result in ended.values()} == {"answered"}
        assert agent.terminate() == 0
    assert in_outbox(agent) == 0
    assert agent.count_log("left_unfinished") == 0
    assert not agent.noise
