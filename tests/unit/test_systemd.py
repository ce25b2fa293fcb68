"""sd_notify: heard by systemd, silent elsewhere."""

import contextlib
import os
import socket
from pathlib import Path

import pytest

from agent.core.systemd import notify, watchdog_interval


def test_notify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each state is one datagram to the socket that systemd names."""
    path = tmp_path / "notify"
    monkeypatch.setenv("NOTIFY_SOCKET", str(path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(path))
        notify("READY=1\nSTATUS=connected")
        assert ear.recv(100) == b"READY=1\nSTATUS=connected"


def test_abstract_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that begins with @ is in the abstract name space."""
    name = f"slm-agent-test-{os.getpid()}"
    monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(f"\0{name}")
        notify("WATCHDOG=1")
        assert ear.recv(100) == b"WATCHDOG=1"


def test_nobody_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without systemd, or while it restarts, nothing happens."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    notify("READY=1")


@pytest.mark.timeout(10)
def test_busy_listener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full socket is left full: the daemon has better things to do than wait."""
    path = tmp_path / "notify"
    monkeypatch.setenv("NOTIFY_SOCKET", str(path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(path))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.setblocking(False)  # noqa: FBT003
            with contextlib.suppress(BlockingIOError):
                while True:
                    other.sendto(b"X", str(path))
        notify("READY=1")
        assert ear.recv(100) == b"X"


@pytest.mark.parametrize(
    ("microseconds", "pid", "interval"),
    [
        (None, None, None),
        ("", None, None),
        ("0", None, None),
        ("soon", None, None),
        ("-5", None, None),
        ("30000000", None, 15.0),
        ("30000000", "ours", 15.0),
        ("30000000", "1", None),  # meant for another process
    ],
)
def test_watchdog_interval(
    monkeypatch: pytest.MonkeyPatch,
    microseconds: str | None,
    pid: str | None,
    interval: float | None,
) -> None:
    """The watchdog is fed twice in the time it allows, if it is ours."""
    for name, value in (("WATCHDOG_USEC", microseconds), ("WATCHDOG_PID", pid)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            ours = str(os.getpid())  # another in each worker of the test run
            monkeypatch.setenv(name, ours if value == "ours" else value)
    assert watchdog_interval() == interval
