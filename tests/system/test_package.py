"""The package's life on a device, told in order: one container, each test goes on.

What needs the daemon under a real systemd is proved here, from the package, and nowhere
else: the watchdog, the sandbox with onnxruntime in it, credentials, upgrade and purge.
"""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.cli.main import cli
from harness.container import DEADLINE_S, HOST, SUITE, Container

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

UNIT = "slm-agent.service"
CONFIG = "/etc/slm-agent/agent.toml"
DROP_IN = f"/etc/systemd/system/{UNIT}.d/test.conf"
MOST_EXPOSED = 1.2
PYTHONS = {"bookworm": (3, 11), "trixie": (3, 13)}
REPOSITORY = Path(__file__).resolve().parents[2]
BROKER = """\
[[models]]
model = "openai/none"
api_base = "http://127.0.0.1:9"
"""
# What Debian itself writes while packages come and go.
NOT_OURS = (
    "/tmp",  # noqa: S108
    "/var/tmp",  # noqa: S108
    "/var/log",
    "/var/cache",
    "/var/lib/apt",
    "/run",
    "/proc",
    "/sys",
    "/dev",
    "/var/lib/systemd/catalog",
    "/var/lib/systemd/timers",
    "/etc/ld.so.cache",
    "/var/lib/dpkg",
    "/var/lib/mosquitto",
    "/root",
)


def install(box: Container, path: str, *options: str) -> None:
    """Install a package file; what it needs is there, and no network is."""
    box.run("apt-get", "install", "-y", "--no-install-recommends", *options, path)


def ask(box: Container, text: str, *options: str, pipeline: str = "home") -> Any:
    """Send a text as a device in the house would; return its result."""
    topic = {"home": "home/hall/utterance", "support": "support/desk/message"}[pipeline]
    said = box.run(
        "mosquitto_rr",
        "-h",
        "127.0.0.1",
        "-V",
        "5",
        "-q",
        "1",
        "-W",
        str(int(DEADLINE_S)),
        *options,
        "-e",
        f"slm/{HOST}/result/{pipeline}",
        "-t",
        topic,
        "-m",
        text,
    )
    assert said, box.tail()
    return json.loads(said.splitlines()[-1])


def example(box: Container) -> dict[str, Any]:
    """Return the first example case of the shipped pipeline."""
    lines = box.place("/etc/slm-agent/pipelines/home.cases.jsonl").read_text("utf-8")
    case: dict[str, Any] = json.loads(lines.splitlines()[0])
    return case


def answers(box: Container, *options: str) -> bool:
    """Tell whether the example is answered as it should be."""
    case = example(box)
    result = ask(box, case["text"], *options)
    return bool(result["label"] == case["label"] and result["status"] == "resolved")


def drop_in(box: Container, *lines: str) -> None:
    """Change the service; no lines: as it was installed."""
    if lines:
        box.write(DROP_IN, "\n".join(["[Service]", *lines, ""]))
    else:
        box.place(DROP_IN).unlink()
    box.run("systemctl", "daemon-reload")
    box.run("systemctl", "restart", UNIT)


def restarts(box: Container) -> int:
    """Return how often systemd itself started it again."""
    return int(box.show(UNIT, "NRestarts"))


def paths(box: Container) -> set[str]:
    """Return every path inside that Debian does not write by itself."""
    found = set()
    for folder, folders, files in os.walk(box.root):
        inside = "/" + os.path.relpath(folder, box.root).removeprefix(".")
        folders[:] = [f for f in folders if os.path.join(inside, f) not in NOT_OURS]  # noqa: PTH118
        found |= {os.path.join(inside, name) for name in (*folders, *files)}  # noqa: PTH118
    return found - set(NOT_OURS)


@pytest.fixture(scope="module")
def before(box: Container) -> set[str]:
    """Remember what was there before the package came."""
    return paths(box)


@pytest.fixture(scope="module")
def packaged(package: Path) -> str:
    """Return where the package is inside."""
    return f"/packages/{package.name}"


@pytest.mark.usefixtures("before")
def test_install_without_broker(box: Container, packaged: str) -> None:
    """Where no MQTT broker runs, the package installs, and the service waits."""
    box.run("systemctl", "stop", "mosquitto")
    install(box, packaged)
    assert box.run("systemctl", "is-enabled", UNIT).strip() == "enabled"
    assert box.show(UNIT, "ActiveState") in {"activating", "active"}
    for page in ("configuration", "escalation", "fleet", "install", "operating"):
        assert box.place(f"/usr/share/doc/slm-agent/{page}.md").exists()
    box.run("slm-agent", "check")


def test_boot_without_broker(box: Container) -> None:
    """A device without its MQTT broker boots to the end, and the service waits."""
    box.run("systemctl", "disable", "mosquitto")
    box.close()
    box.boot()
    box.wait(lambda: "connect_failed" in box.journal(UNIT), "tried to connect")
    assert box.show(UNIT, "ActiveState") in {"activating", "active"}
    box.run("systemctl", "enable", "mosquitto")


def test_ready(box: Container) -> None:
    """With the shipped mosquitto.conf the service becomes ready, and answers."""
    examples = "/usr/share/doc/slm-agent/examples/mosquitto.conf"
    conf = box.run("cat", examples)
    box.write("/etc/mosquitto/conf.d/slm-agent.conf", conf)
    box.run("systemctl", "start", "mosquitto")
    box.wait_shown(UNIT, "StatusText", "connected")
    assert box.show(UNIT, "ActiveState") == "active"
    assert answers(box)


def test_look_around(box: Container) -> None:
    """Doctor finds a healthy device healthy, and top shows it, by the package alone."""
    box.run("slm-agent", "doctor")
    assert HOST in box.run("slm-agent", "top", "--once")


def test_manual_and_completion(box: Container) -> None:
    """Each command has its manual page, and bash completes commands and options."""
    pages = box.place("/usr/share/man/man1")
    commands = {f"slm-agent-{name}.1.gz" for name in cli.commands}
    assert commands <= {page.name for page in pages.iterdir()}
    assert box.place("/usr/share/bash-completion/completions/slm-agent").exists()
    words = ["COMP_WORDS=slm-agent eg", "COMP_CWORD=1"]
    asked = [*words, "_SLM_AGENT_COMPLETE=bash_complete", "slm-agent"]
    assert "plain,egress" in box.run("env", *asked)


def test_sandbox(box: Container) -> None:
    """It runs without rights, under a filter of system calls, and lacks nothing."""
    pid = box.show(UNIT, "MainPID")
    status = dict(
        line.split(":\t", 1)
        for line in box.run("cat", f"/proc/{pid}/status").splitlines()
        if ":\t" in line
    )
    assert "0" not in status["Uid"].split()
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert {int(status[name], 16) for name in ("CapEff", "CapBnd", "CapPrm")} == {0}
    said = box.run("systemd-analyze", "security", "--no-pager", UNIT)
    overall = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
    assert overall, said
    assert float(overall[1]) <= MOST_EXPOSED, said
    log = box.journal(UNIT)
    for word in ("cpuinfo", "affinity", "Traceback", "Permission denied"):
        assert word not in log, log


def test_kill(box: Container) -> None:
    """Killed with -9, it comes back, and answers what was sent meanwhile."""
    pid, before = box.show(UNIT, "MainPID"), restarts(box)
    box.run("systemctl", "kill", "--signal=KILL", UNIT)
    assert answers(box)
    assert box.show(UNIT, "MainPID") != pid
    assert restarts(box) == before + 1


def test_stopped_process(box: Container) -> None:
    """A process that does nothing at all is restarted by the watchdog."""
    drop_in(box, "WatchdogSec=4")
    pid = box.show(UNIT, "MainPID")
    box.run("systemctl", "kill", "--signal=STOP", UNIT)
    box.wait(lambda: restarts(box) == 1, "restarted")
    assert "Watchdog timeout" in box.journal(UNIT)
    assert answers(box)
    assert box.show(UNIT, "MainPID") != pid


def test_hung_work(box: Container) -> None:
    """A model that hangs while all else goes on is restarted by the watchdog.

    The message it hung on is answered after all, and the log says where it hung.
    """
    hung = "/repository/tests/system/hung.py"
    command = f"/usr/bin/python3 -IXfaulthandler {hung} run --config {CONFIG}"
    drop_in(box, "WatchdogSec=4", "ExecStart=", f"ExecStart={command}")
    assert ask(box, "hang")["pipeline"] == "home"
    assert restarts(box) == 1
    log = box.journal(UNIT)
    assert '"stalled"' in log
    assert "hung.py" in log[log.index("Fatal Python error: Aborted") :]
    drop_in(box)
    assert answers(box)


def test_reload_refused(box: Container) -> None:
    """Reloaded with a wrong file, it goes on with the good one, and says why."""
    pid = box.show(UNIT, "MainPID")
    good = box.place(CONFIG).read_text("utf-8")
    box.write(CONFIG, good + '\n[mqqt]\nurl = "mqtt://nowhere"\n')
    box.run("systemctl", "reload", UNIT)
    box.wait_shown(UNIT, "StatusText", "mqqt")
    box.write(CONFIG, good)
    assert '"reload_refused"' in box.journal(UNIT)
    assert box.show(UNIT, "ActiveState") == "active"
    assert box.show(UNIT, "MainPID") == pid
    assert answers(box)


def test_reload(box: Container) -> None:
    """Reloaded with a good file, the same process does what that says."""
    pid = box.show(UNIT, "MainPID")
    good = box.place(CONFIG).read_text("utf-8")
    line = '# enable = ["home"]'
    assert line in good
    box.write(CONFIG, good.replace(line, 'enable = ["home", "support"]'))
    box.run("systemctl", "reload", UNIT)

    def reloaded() -> bool:
        lines = box.journal(UNIT).splitlines()
        ready = [line for line in lines if '"event": "ready"' in line]
        return any('"pipelines": ["home", "support"]' in line for line in ready)

    box.wait(reloaded, "reloaded")
    asked = ask(box, "my card has not arrived yet", pipeline="support")
    assert asked["pipeline"] == "support"
    assert box.show(UNIT, "MainPID") == pid
    assert answers(box)


@pytest.mark.skipif(
    sys.version_info[:2] != PYTHONS[SUITE],
    reason="the container's Python is not ours",
)
def test_upstream_side(box: Container) -> None:
    """The upstream side becomes ready in its sandbox, with LiteLLM in it."""
    unit = "slm-agent-broker.service"
    text = (REPOSITORY / "systemd" / unit).read_text("utf-8")
    start = "/usr/bin/python3 -m agent broker --config /etc/slm-agent/broker.toml"
    text = re.sub("(?m)^ExecStart=.*$", f"ExecStart={start}", text)
    text += "\n[Service]\nEnvironment=PYTHONPATH=/repository:/site\n"
    box.write(f"/etc/systemd/system/{unit}", text)
    box.write("/etc/slm-agent/broker.toml", BROKER)
    box.run("systemctl", "daemon-reload")
    box.run("systemctl", "start", unit)
    assert "connected" in box.show(unit, "StatusText")
    assert "Traceback" not in box.journal(unit)
    box.run("systemctl", "stop", unit)
    box.run("systemctl", "clean", "--what=state,cache", unit)
    box.place(f"/etc/systemd/system/{unit}").unlink()
    box.place("/etc/slm-agent/broker.toml").unlink()
    box.run("systemctl", "daemon-reload")


def test_credentials(box: Container) -> None:
    """A password that only root can read reaches the daemon as a credential."""
    box.write("/etc/credstore/slm-agent.mqtt-password", "sesame\n")
    box.run("chmod", "600", "/etc/credstore/slm-agent.mqtt-password")
    box.run("mosquitto_passwd", "-b", "-c", "/etc/mosquitto/passwords", HOST, "sesame")
    box.run("chown", "mosquitto", "/etc/mosquitto/passwords")
    conf = box.place("/etc/mosquitto/conf.d/slm-agent.conf")
    closed = "allow_anonymous false\npassword_file /etc/mosquitto/passwords\n"
    text = conf.read_text("utf-8").replace("allow_anonymous true\n", closed)
    conf.write_text(text, "utf-8")
    box.run("systemctl", "restart", "mosquitto")
    lines = (
        box.place(CONFIG)
        .read_text("utf-8")
        .replace(
            '# username = "pi-3"\n# password_file', 'username = "pi-3"\npassword_file'
        )
    )
    assert "\npassword_file" in lines
    box.write(CONFIG, lines)
    box.run("systemctl", "restart", UNIT)
    assert answers(box, "-u", HOST, "-P", "sesame")
    box.run("slm-agent", "doctor")
    pid = box.show(UNIT, "MainPID")
    assert "sesame" not in box.run("cat", f"/proc/{pid}/environ")
    assert "sesame" not in box.run("cat", f"/proc/{pid}/cmdline")


def test_upgrade(box: Container, newer: Path) -> None:
    """An upgrade keeps configuration and state, and runs the new version at once."""
    pid = box.show(UNIT, "MainPID")
    config = box.place(CONFIG).read_text("utf-8")
    state = box.place("/var/lib/private/slm-agent")
    (state / "calibrations.of-mine").write_text("kept", "utf-8")
    kept = {path.name for path in state.iterdir()}
    box.write("/opt/newer.deb", "")
    box.place("/opt/newer.deb").write_bytes(newer.read_bytes())
    install(box, "/opt/newer.deb", "-o", "Dpkg::Options::=--force-confold")
    box.place("/opt/newer.deb").unlink()
    assert box.run("dpkg-query", "-f", "${Version}", "-W", "slm-agent") == "99.0"
    assert box.place(CONFIG).read_text("utf-8") == config
    assert {path.name for path in state.iterdir()} >= kept
    assert (state / "calibrations.of-mine").read_text("utf-8") == "kept"
    assert answers(box, "-u", HOST, "-P", "sesame")
    assert box.show(UNIT, "MainPID") != pid


def test_remove(box: Container) -> None:
    """Removed, it runs no more, and its configuration and state wait for a return."""
    box.run("apt-get", "remove", "-y", "slm-agent")
    assert box.show(UNIT, "ActiveState") == "inactive"
    assert not box.place("/usr/bin/slm-agent").exists()
    assert box.place(CONFIG).exists()
    assert (box.place("/var/lib/private/slm-agent") / "calibrations.of-mine").exists()


def test_purge(box: Container, before: set[str]) -> None:
    """Purged, it leaves nothing: no file, no user, no unit."""
    box.run("apt-get", "purge", "-y", "slm-agent")
    after = paths(box)
    ours = {path for path in after - before if not path.startswith("/etc/mosquitto")}
    assert not ours - {"/etc/credstore"}  # the folder is systemd's
    assert not before - after
    assert "slm" not in box.run("find", "/run", "-name", "*slm*")
    assert box.run("systemctl", "list-units", "--all", "--no-legend", "slm*") == ""
    assert box.run("getent", "passwd", "slm-agent", check=False) == ""
