"""tap and top, against a real broker and a real daemon."""

import json
import re

from harness.stage import DEVICE, Agent, Client, text_of


def test_tap_shows_what_comes(agent: Agent, client: Client) -> None:
    """Results and dead letters are shown as they come, without their texts."""
    running = agent.command("tap", "--limit", "2")
    for number in range(1000):  # until it has subscribed
        client.ask([number])
        client.wait_answered(number + 1)
        if running.poll() is not None:
            break
    lines = running.communicate()[0].splitlines()
    assert len(lines) == 2
    assert re.match(rf"{DEVICE}/home  (un)?resolved  ", lines[0])
    assert text_of(0) not in "".join(lines)


def test_tap_for_programs(agent: Agent, client: Client) -> None:
    """With --json each line is the payload as it was published."""
    running = agent.command("tap", "--json", "--limit", "1")
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
    out, _ = agent.command("top", "--json").communicate()
    [row] = [json.loads(line) for line in out.splitlines()]
    assert (row["device"], row["status"]) == (DEVICE, "online")
    assert row["rss_bytes"] > 10_000_000
    table, _ = agent.command("top", "--once").communicate()
    assert DEVICE in table
