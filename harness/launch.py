"""Start programs of slm-agent from a process that has imported all they need.

A start costs a second of imports, with LiteLLM five. A template process pays that once
for many tests: each program runs in a fork of it, a process of its own with its own
signals, files and end. What is measured (memory, time to start) is started afresh.
"""

import array
import atexit
import contextlib
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
LARGEST = 2**20  # bytes of a request
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}  # a fork has but the thread that forked
DEAD = 256  # the status of what a dead template started: nobody knows it


class Process(subprocess.Popen[str]):
    """A program that runs in a fork of the template; used as any other."""

    def __init__(
        self,
        template: "Template",
        program: Sequence[str],
        env: Mapping[str, str],
        *,
        stdout: bool,
    ) -> None:
        """Start `-m module` or `-c code` with arguments, as Python would."""
        self.args = list(program)
        self.returncode: int | None = None  # type: ignore[assignment]
        self.stdin = None
        self.stdout = None
        self._ended = threading.Event()
        self._communication_started = False
        self._input = None
        self._sigint_wait_secs = 0.25
        self.encoding = self.errors = None
        self.text_mode = self.universal_newlines = True
        read, write = os.pipe()
        self.stderr = os.fdopen(read, encoding="utf-8", errors="replace")
        files = [write, write]
        if stdout:
            read, files[0] = os.pipe()
            self.stdout = os.fdopen(read, encoding="utf-8", errors="replace")
        try:
            self.pid = template.fork(self, program, env, files)
        finally:
            for file in set(files):
                os.close(file)

    def ended(self, status: int) -> None:
        """Take the exit status; negative for a signal."""
        self.returncode = status
        self._ended.set()

    def poll(self) -> int | None:
        """Return the exit status; None while it runs."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; raises subprocess.TimeoutExpired."""
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        assert self.returncode is not None
        return self.returncode

    def __del__(self) -> None:
        """Warn of nothing: the template waits for its children."""


class Template:
    """Owns a process that has imported modules, and forks for each program."""

    _starting: Process  # whose pid the template tells next

    def __init__(self, modules: Sequence[str], env: Mapping[str, str]) -> None:
        """Start it; it ends with this process. `env` is for the imports."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for sock in (ours, theirs):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LARGEST)
        self._socket = ours
        self._lock = threading.Lock()
        self._running: dict[int, Process] = {}
        self._pids: list[int] = []
        self._answered = threading.Condition()
        with theirs:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "harness.launch",
                    str(theirs.fileno()),
                    *modules,
                ],
                cwd=REPOSITORY,
                env=os.environ | ONE_THREAD | env,
                pass_fds=[theirs.fileno()],
            )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        atexit.register(self._end)

    def fork(
        self,
        process: Process,
        program: Sequence[str],
        env: Mapping[str, str],
        files: Sequence[int],
    ) -> int:
        """Start a program with these files as its output and errors; return its pid."""
        request = json.dumps({"program": list(program), "env": dict(env)}).encode()
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))
        with self._lock:
            self._starting = process
            self._socket.sendmsg([request], [rights])
            with self._answered:
                self._answered.wait_for(lambda: self._pids or not self._alive)
                assert self._pids, "the template process has ended"
                return self._pids.pop()

    @property
    def _alive(self) -> bool:
        return self._process.poll() is None

    def _listen(self) -> None:
        while said := self._socket.recv(LARGEST):
            pid, status = json.loads(said)
            if status is None:
                self._running[pid] = self._starting
                with self._answered:
                    self._pids.append(pid)
                    self._answered.notify_all()
            else:
                self._running.pop(pid).ended(status)
        self._socket.close()
        self._process.wait()
        for process in self._running.values():
            process.ended(DEAD)
        with self._answered:
            self._answered.notify_all()

    def _end(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # the listener wakes, and closes it
        self._listener.join()


@cache
def template(*modules: str, **env: str) -> Template:
    """Return the template with these modules, started by the first who asks."""
    return Template(modules, env)


# -- in the template process


def serve(control: socket.socket) -> list[str] | None:
    """Fork for each request; return the program in the child, None at the end."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)  # noqa: FBT003
    signal.set_wakeup_fd(writer.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who asked ends its programs
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        selector.register(reader, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is reader:
                    reader.recv(4096)
                    _tell_ended(control)
                    continue
                data, files, _, _ = socket.recv_fds(control, LARGEST, 2)
                if not data:
                    return None
                pid = os.fork()
                if pid:
                    for file in files:
                        os.close(file)
                    control.send(json.dumps([pid, None]).encode())
                    continue
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                for sock in (control, reader, writer):
                    sock.close()
                return _become(json.loads(data), files)


def _tell_ended(control: socket.socket) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        control.send(json.dumps([pid, os.waitstatus_to_exitcode(status)]).encode())


def _become(request: Mapping[str, Any], files: Sequence[int]) -> list[str]:
    for number, file in enumerate(files, start=1):
        os.dup2(file, number)
    for file in files:
        os.close(file)
    os.environ.clear()
    os.environ.update(request["env"])
    program: list[str] = request["program"]
    return program


def run(program: Sequence[str]) -> None:
    """Run `-c code` or `-m module` with arguments, as Python would."""
    kind, what, *arguments = program
    sys.argv = ["-c" if kind == "-c" else what, *arguments]
    scope = {"__name__": "__main__", "__builtins__": __builtins__}
    code = what if kind == "-c" else f"import {what}.__main__ as main; main.main()"
    exec(compile(code, "<program>", "exec"), scope)  # noqa: S102  from our own tests


if __name__ == "__main__":
    for module in sys.argv[2:]:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
    threads = [*Path("/proc/self/task").iterdir()]
    assert len(threads) == 1, "a fork would lose threads"
    wanted = serve(socket.socket(fileno=int(sys.argv[1])))
    if wanted:
        run(wanted)
