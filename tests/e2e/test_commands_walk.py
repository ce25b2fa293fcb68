"""Every command, as it should be, with something wrong, and with something empty.

Never a traceback, always the right status, and where it fails one line that says why.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agent.cli.main import cli, main
from harness.stage import REPOSITORY, Mosquitto

DOCS = REPOSITORY / "docs"
EXAMPLES = DOCS / "examples" / "fleet"
# What a case may name: files of the fixture `place`.
GOOD, EMPTY = "--config=good.toml", "--config=empty.toml"
BROKEN = "--config=broken.toml"
HANGS_UP, GONE = "--config=hangs_up.toml", "--config=gone.toml"
AGENT = """
[device]
id = "walker"
[mqtt]
url = "mqtt://127.0.0.1:{port}"
[state]
dir = "state"
[metrics]
port = 0
"""
FLEET = 'version = 1\n[[device]]\nid = "pi-1"\n'
# Command line, status, and words of what is said.
CASES: list[tuple[str, int, str]] = [
    # as it should be
    (f"check {GOOD}", 0, "example cases pass"),
    ("check --schema", 0, "broker.toml"),
    (f"doctor {GOOD}", 0, "accepts us"),
    (f"top {GOOD} --once", 0, "0 devices"),
    (f"top {GOOD} --json", 0, ""),
    (f"tap {GOOD} --limit 0", 0, ""),
    (f"egress {GOOD}", 0, "nothing left this device"),
    (f"egress {GOOD} --summary --json", 0, "nothing left this device"),
    (f"egress {GOOD} --dry-run hello --pipeline home", 0, "nothing leaves"),
    (f"erase {GOOD} --before 2026-11-01", 0, "erased: 0 waiting cases"),
    (f"try home hello {GOOD}", 0, "status"),
    (f"eval home data.jsonl {GOOD} --report out.html", 0, "label right"),
    (f"eval home data.csv {GOOD} --json", 0, '"intervals"'),
    (f"calibrate home many.jsonl {GOOD} --out made.json", 0, "written"),
    ("fleet keygen new", 0, "key "),
    ("fleet check fleet.toml", 0, "1 devices resolve"),
    ("fleet show fleet.toml --device pi-1 --brief", 0, "agent.device.id"),
    ("fleet diff fleet.toml fleet.toml", 0, "changes 0"),
    ("fleet sign fleet.toml --key ours.key --out out.json", 0, "version 1"),
    (f"fleet push signed.json {GOOD}", 0, "retained"),
    ("--version", 0, "slm-agent"),
    # something wrong
    *(
        (f"{command} {BROKEN}", 2, "broken.toml: not valid TOML")
        for command in (
            "run",
            "broker",
            "check",
            "doctor",
            "top --once",
            "tap",
            "egress",
            "erase --id x",
            "try home hello",
            "eval home data.jsonl",
            "calibrate home data.jsonl",
            "fleet push signed.json",
        )
    ),
    (f"run {GONE}", 2, "gone.toml: No such file"),
    (f"try hoem hello {GOOD}", 2, "did you mean 'home'?"),
    (f"eval hoem data.jsonl {GOOD}", 2, "did you mean 'home'?"),
    (f"eval home bad.jsonl {GOOD}", 2, "bad.jsonl:1: lable: unknown key, did you mean"),
    (f"eval home data.csv {GOOD} --text-column txt", 2, "did you mean 'text'?"),
    (f"eval home gone.jsonl {GOOD}", 2, "gone.jsonl: No such file"),
    (f"eval home data.jsonl {GOOD} --report no/out.html", 2, "no/out.html: No such"),
    (f"calibrate home bad.jsonl {GOOD}", 2, "bad.jsonl:1: lable: unknown key"),
    (f"calibrate home data.jsonl {GOOD} --out no/made.json", 2, "no such folder"),
    (f"top --once {HANGS_UP}", 1, "closed before the broker answered"),
    (f"tap {HANGS_UP}", 1, "closed before the broker answered"),
    (f"doctor {HANGS_UP}", 2, "closed before the broker answered"),
    (f"fleet push signed.json {HANGS_UP}", 1, "closed before the broker answered"),
    (f"egress {GOOD} --dry-run hello", 2, "--dry-run needs --pipeline"),
    (f"egress {GOOD} --dry-run hello --pipeline hoem", 2, "did you mean 'home'?"),
    (f"erase {GOOD}", 2, "give --id or --before"),
    (f"erase {GOOD} --before yesterday", 2, "--before"),
    (f"egress {GOOD} --verify", 2, "there is no outbox yet"),
    ("demo --once --json --messages gone.jsonl", 2, "gone.jsonl: No such file"),
    ("bench --out no/no.json --messages 1", 2, "--messages"),
    ("fleet keygen ours", 2, "ours.key: is there already"),
    ("fleet check broken.toml", 2, "broken.toml: not valid TOML"),
    ("fleet show fleet.toml --device pi-1 --config broken.toml", 2, "not valid TOML"),
    ("fleet diff fleet.toml gone.toml", 2, "gone.toml: No such file"),
    ("fleet sign fleet.toml --key data.csv", 2, "no Ed25519 private key"),
    (f"fleet push fleet.toml {GOOD}", 2, "is not signed"),
    ("fleet push signed.json --url http://x", 2, "--url: reads mqtt://"),
    ("train gone.jsonl --name x --out x", 2, "gone.jsonl: No such file"),
    ("train data.jsonl", 2, "give --name and --out"),
    ("train gone", 2, "no such recipe"),
    ("chekc", 2, "No such command"),
    # something empty
    (f"check {EMPTY}", 0, "example cases pass"),
    (f"try home hello {EMPTY}", 0, "status"),
    (f"broker {EMPTY}", 2, "models: must be given"),
    ("check --config nothing.toml", 2, "input: must be given"),
    ("run --config nothing.toml", 2, "input: must be given"),
    (f"doctor {EMPTY}", 2, "broker"),
    (f"erase {EMPTY} --id x", 0, "erased: 0 waiting cases"),
    (f"egress {EMPTY}", 0, "nothing left this device"),
    (f"eval home empty.jsonl {GOOD}", 2, "empty.jsonl: no examples"),
    (f"eval home empty.csv {GOOD}", 2, "no column 'text'"),
    (f"calibrate home empty.jsonl {GOOD}", 2, "empty.jsonl: no examples"),
    ("demo --once --json --messages empty.jsonl", 2, "empty.jsonl: no messages"),
    ("fleet check empty.toml", 2, "version: must be given"),
    ("fleet show empty.toml --device pi-1", 2, "version: must be given"),
    ("fleet diff empty.toml empty.toml", 2, "version: must be given"),
    ("fleet sign empty.toml --key ours.key", 2, "version: must be given"),
    (f"fleet push empty.toml {GOOD}", 2, "version: must be given"),
    ("train empty.jsonl --name x --out x", 2, "empty.jsonl: no examples"),
    ("try", 2, "Missing argument"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a folder with a file of each kind, and a broker that they lead to."""
    folder = tmp_path_factory.mktemp("walk")
    data = [{"text": f"wake me up at {n}", "label": "alarm_set"} for n in range(20)]
    files = {
        "empty.toml": "",
        "broken.toml": "[mqtt\n",
        "nothing.toml": 'pipelines.dir = "pipelines"\n',
        "pipelines/home.toml": "[model]\nbundle = 'home'",
        "data.jsonl": lines(data),
        "many.jsonl": lines(data * 20),
        "bad.jsonl": '{"text": "a", "lable": "b"}\n',
        "empty.jsonl": "\n",
        "data.csv": "text,label\nwake me up,alarm_set\n",
        "empty.csv": "",
        "fleet.toml": FLEET,
    }
    (folder / "pipelines").mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    with (
        closing(Mosquitto(folder / "broker")) as broker,
        socket.create_server(("127.0.0.1", 0)) as deaf,
    ):
        broker.start()
        threading.Thread(target=hang_up, args=[deaf], daemon=True).start()
        for name, port in (("good", broker.port), ("hangs_up", deaf.getsockname()[1])):
            (folder / f"{name}.toml").write_text(AGENT.format(port=port))
        run(folder, "fleet keygen ours")
        run(folder, "fleet sign fleet.toml --key ours.key --out signed.json")
        yield folder


def lines(objects: list[dict[str, str]]) -> str:
    """Return JSON Lines."""
    return "".join(f"{json.dumps(each)}\n" for each in objects)


def hang_up(server: socket.socket) -> None:
    """Close every connection, as a server does that speaks another protocol."""
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        connection.recv(1)
        connection.close()


def run(
    folder: Path, command: str, **variables: str
) -> "subprocess.CompletedProcess[str]":
    """Run a command as a shell does."""
    return subprocess.run(
        [sys.executable, "-m", "agent", *command.split()],
        cwd=folder,
        env=environment(folder) | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def environment(folder: Path) -> dict[str, str]:
    """Return our own, where state is by default below the folder."""
    ours = {"STATE_DIRECTORY": str(folder / "own"), "PYTHONPATH": str(REPOSITORY)}
    return os.environ | ours


@pytest.fixture
def walk(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], tuple[int, str]]:
    """Give a way to run a command there; return its status and what it says."""

    def walked(command: str) -> tuple[int, str]:
        if command.split(maxsplit=1)[0] in {
            "run",
            "broker",
        }:  # they take the process's signals
            done = run(place, command)
            return done.returncode, done.stderr + done.stdout
        monkeypatch.chdir(place)
        monkeypatch.setattr(sys, "argv", ["slm-agent", *command.split()])
        monkeypatch.setattr(os, "environ", environment(place))
        try:
            main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 0
        else:
            status = 0
        shown = capsys.readouterr()
        return status, shown.err + shown.out

    return walked


@pytest.mark.parametrize(("command", "status", "said"), CASES)
def test_a_command(
    walk: Callable[[str], tuple[int, str]], command: str, status: int, said: str
) -> None:
    """It ends with its status, and says in a line what is wrong, if anything is."""
    if command.startswith("train"):
        pytest.importorskip("torch")
    ended, shown = walk(command)
    assert "Traceback" not in shown
    assert ended == status, shown
    assert said in shown
    if status:
        blamed = re.findall(r"^[eE]rror\b.*", shown, re.MULTILINE)
        assert len(blamed) == 1, shown
        assert said in blamed[0]
        assert len(blamed[0]) < 300


def test_the_daemon(place: Path) -> None:
    """`run` goes on until it is told to stop, and ends well."""
    command = [sys.executable, "-m", "agent", "run", GOOD]
    with subprocess.Popen(
        command, cwd=place, env=environment(place), stderr=subprocess.PIPE, text=True
    ) as daemon:
        assert daemon.stderr
        for line in daemon.stderr:
            if json.loads(line)["event"] == "ready":
                daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(60) == 0


def test_the_demo(place: Path) -> None:
    """The demo ends well with sample messages of one's own."""
    (place / "two.txt").write_text("wake me up at seven\nturn off the lights\n")
    done = run(place, "demo --once --json --messages two.txt")
    assert done.returncode == 0, done.stderr
    [*answers, summary] = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == summary["summary"]["results"] == 2


def test_every_command_is_walked() -> None:
    """The documentation's table and the command line have no command but these."""
    walked = {command.split()[0] for command, *_ in CASES} | {"demo", "bench"}
    assert set(cli.commands) <= walked
    table = (DOCS / "README.md").read_text("utf-8").partition("## Commands")[2]
    cells = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    named = {word for cell in cells for word in re.findall(r"`([a-z]+)", cell)}
    assert named == set(cli.commands)
    fleet = cli.commands["fleet"]
    parts = {c.split()[1] for c, *_ in CASES if c.startswith("fleet ")}
    assert parts == set(getattr(fleet, "commands", {}))
