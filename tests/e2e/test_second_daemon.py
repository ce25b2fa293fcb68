"""Two daemons on one state directory would pay twice and lose track: one is refused."""

import os
import signal

from harness.stage import Agent, Client


def test_a_second_daemon_is_refused(agent: Agent, client: Client) -> None:
    """The second ends at once, with the pid of the first, which goes on."""
    second = agent.command("run")
    _, errors = second.communicate(timeout=60)
    assert second.returncode == 2
    [line] = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert f"process {agent.pid} uses it" in line
    client.ask([1])
    client.wait_answered(1)


def test_a_reload_keeps_the_directory(agent: Agent) -> None:
    """What takes over in the same process is no second one."""
    os.kill(agent.pid, signal.SIGHUP)
    agent.wait_log("ready", 2)
