"""One process owns a state directory; where it is if nobody says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.broker.config import BrokerState
from agent.config.agent_file import AgentFile
from agent.config.section import default_state
from agent.core.errors import ConfigError
from agent.core.ownership import Ownership, owned

HOLD = """
import sys
from pathlib import Path
from agent.core.ownership import owned
with owned(Path(sys.argv[1])):
    print("owned", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    """It is told who owns the directory, and may have it once that one is gone."""
    folder = tmp_path / "state"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"owned\n"
        with pytest.raises(ConfigError, match=f"process {holder.pid} uses it"):
            Ownership().take(folder)
        holder.kill()
        holder.wait()
    with Ownership() as ownership:
        ownership.take(folder)
        assert (folder / "pid").read_text() == f"{os.getpid()}\n"


def test_ours_may_be_taken_again(tmp_path: Path) -> None:
    """A reload goes on with the directory, or takes another, too."""
    with Ownership() as ownership:
        for name in ("a", "a", "b"):
            ownership.take(tmp_path / name)
        with pytest.raises(ConfigError, match=f"process {os.getpid()}"):
            Ownership().take(tmp_path / "a")
    with owned(tmp_path / "a"):
        pass


def test_a_directory_that_cannot_be(tmp_path: Path) -> None:
    """One line says which, and what to do."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"state\.dir: .*name a folder"):
        Ownership().take(tmp_path / "file" / "state")


def test_who_owns_it_may_be_unknown(tmp_path: Path) -> None:
    """Without a readable pid the directory is refused all the same."""
    with owned(tmp_path):
        (tmp_path / "pid").write_text("x")
        with pytest.raises(ConfigError, match="another process uses it"):
            Ownership().take(tmp_path)


@pytest.mark.parametrize(
    ("variables", "user", "place"),
    [
        ({"STATE_DIRECTORY": "/x/slm:/y"}, 0, "/x/slm"),
        ({"STATE_DIRECTORY": "/x/slm"}, 1000, "/x/slm"),
        ({}, 0, "/var/lib/slm-none"),
        ({"XDG_STATE_HOME": "/home/pi/state"}, 1000, "/home/pi/state/slm-none"),
        ({"HOME": "/home/pi"}, 1000, "/home/pi/.local/state/slm-none"),
    ],
)
def test_where_state_is_by_default(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], user: int, place: str
) -> None:
    """Under systemd its folder, for root the system's, for others their own."""
    for name in ("STATE_DIRECTORY", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    assert default_state("slm-none") == Path(place)


def test_the_files_ask_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both kinds of process look there if their file says nothing."""
    monkeypatch.setenv("STATE_DIRECTORY", "/x")
    assert AgentFile().state.dir == BrokerState().dir == Path("/x")
