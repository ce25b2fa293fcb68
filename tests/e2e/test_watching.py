"""tap and top, against a real broker and a real daemon."""

import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import psutil

from harness.stage import DEVICE, Agent, Client, Mosquitto, text_of


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
    shown = rf"\d\d:\d\d:\d\d  {DEVICE}/home  home/\S+  (un)?resolved  "
    assert re.match(shown, lines[0])
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


HEALTH = {"received": 5, "percent_local": 91.2, "ms_p99": 8.5, "alerts": []}
LOAD_S = 10.0


def screen_of(written: bytes) -> list[str]:
    """Return what a terminal of 80 columns and 24 lines shows by now."""
    lines = [""] * 24
    text = re.sub(r"\x1b\[[0-9;]*m", "", written.decode())
    for number, line in re.findall(r"\x1b\[(\d+);1H([^\x1b]*)", text):
        lines[int(number) - 1] = line
    return lines


class Terminal:
    """A command in a terminal of 80 columns and 24 lines."""

    def __init__(self, *arguments: str) -> None:
        """Start it."""
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        command = [sys.executable, "-m", "agent", *arguments]
        self.process = subprocess.Popen(command, stdin=slave, stdout=slave)
        os.close(slave)
        self.written = b""

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._master, keys)

    def read(self, seconds: float) -> None:
        """Take what it writes for a while."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if select.select([self._master], [], [], left)[0]:
                with suppress(OSError):  # it has ended
                    self.written += os.read(self._master, 65_536)

    def wait(self, done: Callable[[list[str]], bool], seconds: float) -> None:
        """Wait until it shows something."""
        end = time.monotonic() + seconds
        while not done(screen_of(self.written)):
            assert time.monotonic() < end, screen_of(self.written)
            self.read(0.05)

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        os.close(self._master)


def test_top_with_300_devices(
    broker: Mosquitto, client: Client, tmp_path: Path
) -> None:
    """It is current within two seconds, and takes less than a tenth of a core."""

    def say(number: int, **more: object) -> None:
        health = json.dumps(HEALTH | more).encode()
        client.send(f"slm/pi-{number:03}/health", health, retain=True)

    for number in range(300):
        client.send(f"slm/pi-{number:03}/status", b"online", retain=True)
        say(number)
    config = tmp_path / "top.toml"
    config.write_text(f'[mqtt]\nurl = "mqtt://127.0.0.1:{broker.port}"\n')
    with closing(Terminal("top", "--config", str(config))) as terminal:
        terminal.wait(lambda lines: lines[0].startswith("300 devices, 300 online"), 60)
        process = psutil.Process(terminal.process.pid)
        before = process.cpu_times()
        for number in range(int(LOAD_S * 10)):
            say(number, received=1000 + number)
            terminal.read(0.1)
        after = process.cpu_times()
        spent = after.user + after.system - before.user - before.system
        assert spent < LOAD_S / 10, f"{spent / LOAD_S:.1%} of a core"
        say(299, alerts=["disk_low"])
        terminal.wait(lambda lines: lines[2].startswith("pi-299"), 2)
        terminal.type(b"q")
        assert terminal.process.wait(10) == 0
