"""`slm-agent fleet`, from keys to a signed file, by the documentation's example."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from agent.cli.main import cli
from agent.cli.tables import plain, show
from agent.config.agent_file import AgentFile
from agent.config.section import shipped
from agent.core.clock import Clock
from agent.core.errors import ConfigError
from agent.fleet.checks import check
from agent.fleet.parse import read_path
from agent.fleet.resolve import Resolver, read_local, stand_in
from agent.fleet.rollout import FleetDevice
from agent.fleet.signing import opened, public_keys
from harness.fleets import TOML, Keys, inventory

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "fleet"

Run = Callable[..., str]


@pytest.fixture
def run() -> Run:
    """Return a way to call `slm-agent fleet`; a ConfigError is raised as it is."""

    def call(*words: object, status: int = 0) -> str:
        found = CliRunner().invoke(cli, ["fleet", *(str(word) for word in words)])
        if isinstance(found.exception, ConfigError):
            raise found.exception
        assert found.exit_code == status, found.output
        return found.output

    return call


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a copy of the example."""
    return Path(shutil.copytree(EXAMPLE, tmp_path / "fleet"))


def edited(folder: Path, **changes: str) -> Path:
    """Write the example with other words; return its path."""
    text = (folder / "fleet.toml").read_text("utf-8")
    for old, new in changes.items():
        text = text.replace(old.replace("_", " "), new)
    path = folder / "new.toml"
    path.write_text(text, "utf-8")
    return path


def test_the_example_is_sound() -> None:
    """The fleet file of the documentation has no error and no warning."""
    found = check(read_path(EXAMPLE / "fleet.toml"), shipped("models"))
    assert [each for each in found if each.level != "ok"] == []


def test_the_example_means_what_it_says() -> None:
    """Each layer of the example does what its comment says."""
    fleet = read_path(EXAMPLE / "fleet.toml")
    resolver = Resolver(fleet)
    local = read_local(EXAMPLE / "agent.toml")

    def made(device: str) -> AgentFile:
        return resolver.resolve(stand_in(device)).config.agent

    assert made("perth-3").upstream is None
    assert made("perth-2").upstream is not None
    assert made("perth-2").pipelines.enable == ["maintenance", "support"]
    assert made("perth-1").engine.max_batch == 16
    assert made("perth-1").log.level == "debug"
    effective = resolver.resolve(local)
    oven = effective.config.pipelines["maintenance"]
    assert oven.input.topics == ["plants/oslo/oven/+/note"]
    assert oven.decide.max_error == 0.1
    assert effective.config.agent.mqtt.password_file == EXAMPLE / "secrets" / "mqtt"
    assert effective.drift() == []


def test_check(run: Run, folder: Path) -> None:
    """`check` prints findings a line each, and its status says whether all is well."""
    assert "6 devices resolve" in run("check", folder / "fleet.toml")
    wrong = edited(folder, **{'site_=_"perth"': 'siet = "perth"'})
    out = run("check", wrong, status=2)
    assert "error   layer perth: no device has a label 'siet'" in out
    lines = [
        json.loads(each)
        for each in run("check", wrong, "--json", status=2).splitlines()
    ]
    assert lines[0]["level"] == "error"
    assert {"level", "subject", "detail", "devices"} == set(lines[0])


def test_check_of_no_fleet_file(run: Run, folder: Path) -> None:
    """What cannot be read is one line, as everywhere."""
    with pytest.raises(ConfigError, match=r"none\.toml: No such file"):
        run("check", folder / "none.toml")
    with pytest.raises(ConfigError, match=r"new\.toml: versoin: unknown key"):
        run("check", edited(folder, version="versoin"))


def test_show(run: Run, folder: Path) -> None:
    """`show` prints each value with its origin; --brief leaves defaults out."""
    path = folder / "fleet.toml"
    found = json.loads(run("show", path, "--device", "oslo-3", "--json"))
    assert found["version"] == 12
    assert not found["takes_it"]
    values: dict[str, dict[str, Any]] = found["values"]
    assert values["agent.log.level"] == {
        "value": "warning",
        "origin": "device",
        "used": [],
    }
    assert values["agent.mqtt.keepalive_s"]["origin"] == "default"
    assert values["pipelines.maintenance.decide.max_error"]["used"] == [
        ["error", "device"]
    ]
    brief = json.loads(run("show", path, "--device", "oslo-3", "--json", "--brief"))
    assert "agent.mqtt.keepalive_s" not in brief["values"]
    assert "layer slow" in run("show", path, "--device", "oslo-3")


def test_show_with_the_device_s_own_file(run: Run, folder: Path) -> None:
    """With its agent.toml the values are exactly those that the device will have."""
    path = folder / "fleet.toml"
    own = ("--config", folder / "agent.toml", "--json")
    found = json.loads(run("show", path, "--device", "oslo-3", *own))
    assert found["values"]["agent.fleet.public_key_files"]["origin"] == "local"
    with pytest.raises(ConfigError, match="is of the device 'oslo-3', not 'oslo-1'"):
        run("show", path, "--device", "oslo-1", *own)
    with pytest.raises(ConfigError, match="device 'x' is not listed"):
        run("show", path, "--device", "x")


def test_diff(run: Run, folder: Path) -> None:
    """`diff` says how many devices change, what, and how many of them now."""
    old = folder / "fleet.toml"
    new = edited(folder, version_="version = 13 #", **{"error_=_0.02": "error = 0.03"})
    out = run("diff", old, new)
    assert "version 12 -> 13: changes 2 of 6 devices, 1 of them now" in out
    assert "2 devices, now 1: oslo-1, oslo-2" in out
    assert "max_error: 0.02 -> 0.03  (base (${error} from layer oslo))" in out
    found = json.loads(run("diff", old, new, "--json"))
    assert (found["changed"], found["now"]) == (2, 1)
    assert found["alike"][0]["changes"][0]["new"] == 0.03


def test_diff_of_what_cuts_devices_off(run: Run, folder: Path) -> None:
    """A change of the way to the broker is marked, and a version that is not larger."""
    new = edited(folder, **{"broker.perth.example": "broker.example"})
    out = run("diff", folder / "fleet.toml", new)
    assert "could cut the device off" in out
    assert "version 12 is not larger than 12" in out


def test_diff_of_what_breaks_a_device(run: Run, folder: Path) -> None:
    """A version that breaks a device says so, with status 2."""
    new = edited(folder, **{"error_=_0.02": 'error = "x"'})
    out = run("diff", folder / "fleet.toml", new, status=2)
    assert "broken: oslo-1: " in out
    assert "broken: oslo-3" not in out  # it has a value of its own


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Return the file of a fleet of 500 devices, and beside it `new.toml`."""
    (tmp_path / "devices.jsonl").write_text(inventory(500), "utf-8")
    path = tmp_path / "fleet.toml"
    path.write_text(TOML, "utf-8")
    new = TOML.replace("version = 7", "version = 8").replace('"warning"', '"error"')
    (tmp_path / "new.toml").write_text(new, "utf-8")
    return path


def test_check_of_500_devices(run: Run, large: Path) -> None:
    """All are resolved, and what is wrong with many is one line that counts them."""
    out = run("check", large)
    assert out == (
        "ok      version 7: 500 devices resolve, with 4 combinations of layers\n"
    )
    large.write_text(TOML.replace("${line}", "${lien}"), "utf-8")
    [line] = [
        each
        for each in run("check", large, status=2).splitlines()
        if each.startswith("error")
    ]
    assert "${lien} is not defined, did you mean ${line}?" in line
    assert line.endswith("(pi-0 and 499 more)")


def test_show_of_one_in_500(run: Run, large: Path) -> None:
    """The last device of the list has its own variables, and its site's layer."""
    found = json.loads(run("show", large, "--device", "pi-496", "--json"))["values"]
    topics = found["pipelines.home.input.topics"]
    assert topics["value"] == ["plant/perth/line-496/+/note"]
    assert topics["origin"] == "base"
    level = found["agent.log.level"]
    assert (level["value"], level["origin"]) == ("warning", "layer perth")
    table = run("show", large, "--device", "pi-496", "--brief")
    assert "line-496" in table
    assert "layer perth" in table


def test_diff_of_500_devices(run: Run, large: Path) -> None:
    """Those that change are counted, and told once with what changes for them."""
    out = run("diff", large, large.with_name("new.toml"))
    assert "version 7 -> 8: changes 100 of 500 devices, 100 of them now" in out
    assert "100 devices: pi-4, pi-8, pi-12, pi-16, pi-24 and 95 more" in out
    assert 'agent.log.level: "warning" -> "error"  (layer perth)' in out
    found = json.loads(run("diff", large, large.with_name("new.toml"), "--json"))
    [group] = found["alike"]
    assert (found["changed"], len(group["devices"])) == (100, 100)


def test_sign(run: Run, folder: Path) -> None:
    """A signed file carries the file and its list, and is read like it."""
    run("keygen", folder / "ours")
    key, path = folder / "ours.key", folder / "fleet.toml"
    out = run("sign", path, "--key", key, "--models", shipped("models"))
    signed = folder / "fleet.signed.json"
    assert f"{signed}: version 12, " in out
    content = opened(signed.read_bytes())
    assert content.fleet == path.read_bytes()
    assert content.devices == (folder / "devices.jsonl").read_bytes()
    assert run("check", signed) == run("check", path)
    run("sign", path, "--key", key)  # the same again


def test_sign_refuses(run: Run, folder: Path) -> None:
    """What is wrong is not signed, nor a version that devices would refuse."""
    run("keygen", folder / "ours")
    key = ("--key", folder / "ours.key")
    out = ("--out", folder / "out.json")
    run("sign", folder / "fleet.toml", *key, *out)
    wrong = edited(folder, **{'site_=_"perth"': 'siet = "perth"'})
    with pytest.raises(ConfigError, match="layer perth: no device has a label 'siet'"):
        run("sign", wrong, *key)
    changed = edited(folder, **{"error_=_0.02": "error = 0.03"})
    with pytest.raises(ConfigError, match="version 12 is signed already, and 12 is"):
        run("sign", changed, *key, *out)
    with pytest.raises(ConfigError, match="no Ed25519 private key"):
        run("sign", changed, "--key", folder / "ours.pub")
    with pytest.raises(ConfigError, match=r"nowhere\.key: No such file"):
        run("sign", changed, "--key", folder / "nowhere.key")


def test_push_refuses(run: Run, folder: Path, tmp_path: Path) -> None:
    """Nothing is connected for what devices would not believe."""
    run("keygen", folder / "ours")
    run("sign", folder / "fleet.toml", "--key", folder / "ours.key")
    signed = folder / "fleet.signed.json"
    stranger = Keys(tmp_path, "stranger")
    with pytest.raises(ConfigError, match="which is not among the known"):
        run("push", signed, "--public-key", stranger.public)
    with pytest.raises(ConfigError, match=r"fleet\.toml: is not signed"):
        run("push", folder / "fleet.toml")
    with pytest.raises(ConfigError, match="--url: reads mqtt://"):
        run("push", signed, "--url", "broker.example")
    with pytest.raises(ConfigError, match=r"fleet\.pub: No such file"):
        run("push", signed, "--config", folder / "agent.toml")


def test_from_the_desk_to_a_device(run: Run, folder: Path) -> None:
    """What `sign` wrote, the device of the example takes."""
    run("keygen", folder / "fleet")
    everybody = edited(folder, percent_="percent = 100 #")
    run("sign", everybody, "--key", folder / "fleet.key", "--out", folder / "out.json")
    device = FleetDevice(
        folder / "state",
        read_local(folder / "agent.toml"),
        public_keys([folder / "fleet.pub"]),
        lambda _: None,
        300.0,
        Clock(),
    )
    assert device.begin() is None
    outcome = device.offer((folder / "out.json").read_bytes())
    assert (outcome.status, outcome.reason) == ("probation", None)
    assert outcome.effective is not None
    assert list(outcome.effective.config.pipelines) == ["maintenance"]


def test_plain_tables(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Without rich a table is aligned columns."""
    monkeypatch.setattr("agent.cli.tables.find_spec", lambda _: None)
    show(("key", "value"), [("a.b", "1"), ("a", "22")])
    assert capsys.readouterr().out == "key  value\na.b  1\na    22\n"
    assert plain(("a",), []) == "a\n"


def test_help_teaches(run: Run) -> None:
    """Every command says what it is for."""
    assert "fleet push" in run("--help")
    for command in ("keygen", "check", "show", "diff", "sign", "push"):
        assert len(run(command, "--help")) > 150
