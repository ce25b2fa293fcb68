"""A Debian with systemd as its PID 1, to install the package in: systemd-nspawn's."""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

# Whose Python the package is built for.
SUITE = os.environ.get("SLM_SUITE") or "bookworm"
DEADLINE_S = 90.0
HOST = "pi-3"


class Missing(Exception):
    """No container can be made here; the message says why."""


def check_possible() -> None:
    """Raise Missing where no container can be made."""
    if os.geteuid() != 0:
        raise Missing("needs root, to make a container")
    for program in ("mmdebstrap", "systemd-nspawn", "nsenter"):
        if not shutil.which(program):
            raise Missing(f"needs {program}: make system installs it")


def make_root(folder: Path, packages: list[str], *options: str) -> None:
    """Install a small Debian into a folder, with options of mmdebstrap.

    Raises Missing.
    """
    wanted = ["systemd-sysv", "dbus", *packages]
    made = subprocess.run(
        [
            "mmdebstrap",
            "--variant=minbase",
            f"--include={','.join(wanted)}",
            *options,
            SUITE,
            folder,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        last = made.stderr.strip().splitlines()[-3:]
        raise Missing(f"mmdebstrap made no Debian: {' '.join(last)}")


@contextlib.contextmanager
def in_memory(folder: Path) -> Iterator[Path]:
    """Give a folder in memory: dpkg syncs each of its thousands of files to disk.

    Raises Missing.
    """
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3G,mode=755", "slm-agent", folder]
    if subprocess.run(mount, check=False).returncode:
        raise Missing("needs the right to mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


class Container:
    """Owns a running Debian without a network of the host's."""

    def __init__(self, root: Path, see: dict[Path, str] | None = None) -> None:
        """Take a root folder; `see` names folders of the host and where they show."""
        self.root = root
        self._see = [
            f"--bind-ro={host}:{inside}" for host, inside in (see or {}).items()
        ]
        self._console = root.parent / "console.log"
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._init = 0

    def boot(self) -> None:
        """Start it, and wait until systemd has started what it starts."""
        self.write("/etc/hostname", f"{HOST}\n")
        with self._console.open("ab") as console:
            self._nspawn = subprocess.Popen(
                [
                    "systemd-nspawn",
                    "--quiet",
                    "--boot",
                    "--console=read-only",
                    "--register=no",
                    "--keep-unit",
                    "--private-network",
                    f"--directory={self.root}",
                    f"--machine={HOST}",
                    *self._see,
                ],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            )
        self.wait(self._has_booted, "booted")

    def _has_booted(self) -> bool:
        assert self._nspawn
        assert self._nspawn.poll() is None, self.console()
        pid = self._nspawn.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
        if len(children) != 1:
            return False
        self._init = int(children[0])  # at first a helper, later its PID 1
        state = self.run("systemctl", "is-active", "multi-user.target", check=False)
        return state.strip() == "active"

    def console(self) -> str:
        """Return what it printed while booting."""
        return self._console.read_text("utf-8", "replace")[-3000:]

    def run(self, *command: str, check: bool = True, seconds: float = 120.0) -> str:
        """Run a command inside; return what it printed."""
        done = subprocess.run(
            [
                "nsenter",
                f"--target={self._init}",
                "--all",
                "env",
                "-i",
                "PATH=/usr/sbin:/usr/bin",
                "LC_ALL=C.UTF-8",
                "DEBIAN_FRONTEND=noninteractive",
                *command,
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )
        said = done.stdout + done.stderr
        assert not check or done.returncode == 0, f"{command}: {said}"
        return said

    def place(self, path: str) -> Path:
        """Return where a path inside is seen from outside."""
        return self.root / path.lstrip("/")

    def write(self, path: str, text: str) -> None:
        """Write a file inside, and the folders above it."""
        outside = self.place(path)
        outside.parent.mkdir(parents=True, exist_ok=True)
        outside.write_text(text, "utf-8")

    def show(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.run(
            "systemctl", "show", f"--property={name}", "--value", unit
        ).strip()

    def wait(self, condition: Callable[[], object], what: str) -> None:
        """Wait until something holds."""
        limit = time.monotonic() + DEADLINE_S
        while True:
            with contextlib.suppress(OSError):
                if condition():
                    return
            assert time.monotonic() < limit, f"never {what}\n{self.tail()}"
            time.sleep(0.2)

    def wait_shown(self, unit: str, name: str, value: str) -> None:
        """Wait until a property of a unit holds a text."""
        self.wait(lambda: value in self.show(unit, name), f"{unit} {name} {value}")

    def journal(self, unit: str) -> str:
        """Return what a unit logged since boot."""
        return self.run("journalctl", "--no-pager", "--output=cat", f"--unit={unit}")

    def tail(self) -> str:
        """Return the end of the journal, to see what went wrong."""
        if not self._init:
            return self.console()
        return self.run("journalctl", "--no-pager", "--lines=60", check=False)

    def close(self) -> None:
        """Switch it off."""
        if not self._nspawn:
            return
        if self._init:
            self.run("systemctl", "poweroff", "--force", "--force", check=False)
        try:
            self._nspawn.wait(30)
        except subprocess.TimeoutExpired:
            self._nspawn.kill()
            self._nspawn.wait()
        self._nspawn, self._init = None, 0
