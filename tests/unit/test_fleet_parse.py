"""Reading fleet files: what cannot be meant is named in one line."""

from pathlib import Path

import pytest

from agent.core.errors import ConfigError
from agent.fleet.parse import read_path
from harness.fleets import Keys, fleet

TWICE = "[[device]]\nid = 'a'\n" * 2


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("x = ", "not valid TOML"),
        ("versoin = 1", "versoin: unknown key, did you mean 'version'?"),
        ("version = 0", "version: must be at least 1"),
        ("version = '1'", "version: must be a whole number (it is '1')"),
        (TWICE, "device 'a' stands there 2 times"),
        ("[[layer]]\nname='a'\n" * 2, "layer 'a' stands there 2 times"),
        ("[[layer]]\nname = 'l'\ngroups = ['g']", "layer 'l': groups: there is no gr"),
        ("[[layer]]\nname = 'l'\nover = ['m']", "layer 'l': over: no earlier layer is"),
        ("[[layer]]\nname = 'l'\nover = ['l']", "layer 'l': over: no earlier layer is"),
        ("[[group]]\nname = 'g'", "a group needs select or devices"),
        ("[[group]]\nname = 'g'\nselect = {a = []}", "all wanted, or all unwanted"),
        ("[[group]]\nname='g'\nselect={a=['!b','c']}", "all wanted, or all unwanted"),
        (
            "rollout = {name = 'x', percent = 101}",
            "rollout.percent: must be at most 100 (it is 101)",
        ),
        (
            "rollout = {name = 'x', percent = -1}",
            "rollout.percent: must be at least 0 (it is -1)",
        ),
        ("rollout = {name = '', percent = 1}", "rollout.name: "),
        ("rollout = {percent = 1}", "rollout.name: must be given"),
        ("rollout={name='x',percent=1,groups=['g']}", "rollout: groups: there is no g"),
        ("enable = []", "enable: "),
        ("enable = ['a b']", "enable.0: "),
        ("[bundles]\nhome = 'sha256:x'", "bundles.home: "),
        ("[variables]\nx = {}", "variables.x: "),
        ("[[device]]\nid='a'\nlabels={site='!x'}", "does not begin with '!'"),
        ("[[device]]\nid = 'a/b'", "device.0.id: "),
        ("devices_file = 'd'", "devices_file: goes together with a list"),
        ("unset = ['agent']", "unset.0: reads agent.<key>, pipelines.<k"),
        ("unset = ['enable']", "unset.0: "),
    ],
)
def test_wrong_structure(toml: str, said: str) -> None:
    """An error names the file, the place, and what would be right."""
    with pytest.raises(ConfigError) as caught:
        fleet(toml)
    assert said in str(caught.value)
    assert str(caught.value).startswith("fleet.toml: ")


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        (
            "agent.device.id = 'x'",
            "base: agent.device: not in a fleet file: a device's",
        ),
        ("agent.state.dir = '/x'", "agent.state: not in a fleet file: places stay"),
        ("agent.models.dir = '/x'", "agent.models.dir: not in a fleet file: places"),
        ("agent.pipelines.enable = ['x']", "write enable = [...] beside agent"),
        ("agent.fleet.topic = 'x'", "agent.fleet: not in a fleet file: whom a device"),
        ("unset = ['agent.state']", "unset: agent.state: not by a fleet file: places"),
        ("unset = ['agent.models']", "unset: agent.models: not by a fleet file"),
        ("unset = ['agent.models.dir']", "unset: agent.models.dir: not by a fleet"),
        (
            "agent.log.levle = 'info'",
            "base: agent.log.levle: unknown key, did you mean",
        ),
        ("agent.log.level = 'loud'", "base: agent.log.level: must be 'debug', 'info'"),
        ("agent.mqtt.url = 'http://x'", "agent.mqtt.url: reads mqtt://"),
        ("agent.mqtt.url = 'mqtt://u:pw@x'", "agent.mqtt.url: holds no"),
        ("agent.mqtt.password = 'x'", "base: agent.mqtt.password: unknown key"),
        ("pipelines.home.decide.max_error = 2", "pipelines.home.decide.max_error: "),
        ("pipelines.home.input.topics = ['a#']", "pipelines.home.input.topics.0: "),
        ("agent.upstream.rat = 5", "agent.upstream.rat: unknown key, did you mean"),
        ("agent.upstream.rate = 'x'", "agent.upstream.rate: must be a number"),
        ("agent.upstream.transport = 'x'", "agent.upstream.transport: must be one of"),
        (
            "agent.upstream = {transport = 'http', topic = 'a'}",
            "agent.upstream.topic: means nothing to transport 'http'",
        ),
        ("[[layer]]\nname='l'\nagent.x = 1", "layer 'l': agent.x: unknown key"),
        ("[[device]]\nid='a'\nagent.x = 1", "device 'a': agent.x: unknown key"),
    ],
)
def test_wrong_values(toml: str, said: str) -> None:
    """Values are checked as in agent.toml, even where no device has them."""
    with pytest.raises(ConfigError) as caught:
        fleet(toml)
    assert said in str(caught.value)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    "toml",
    [
        "agent.upstream.model = 'x'",  # transport may stand in another layer
        "agent.upstream.topic = 'x'",
        "agent.upstream.url = 'https://x/v1'",
        "agent.upstream.transport = 'http'",  # so may url and model
        "pipelines.mine.decide.max_error = 0.1",  # topics, too
        "agent.mqtt.url = 'mqtt://broker:${port}'",
        "pipelines.home.decide.max_error = '${error}'",
        "agent.models.on_mismatch = 'warn'",
        "unset = ['agent.models.on_mismatch', 'agent.upstream']",
        "rollout = {name = 'x', percent = 12.5}",
        "rollout = {name = 'x', percent = 10}",
    ],
)
def test_parts_may_be_incomplete(toml: str) -> None:
    """What other layers or variables may complete is no error by itself."""
    fleet(toml)


def test_every_mistake_at_once() -> None:
    """All lines that are wrong are told, not only the first."""
    with pytest.raises(ConfigError) as caught:
        fleet(f"agent.log.level = 'loud'\nagent.x = 1\n{TWICE}")
    assert len(str(caught.value).splitlines()) == 3


def test_devices_from_an_inventory() -> None:
    """Devices come from both lists; a wrong line is named by its number."""
    toml = "devices_file = 'd.jsonl'\n[[device]]\nid = 'a'\n"
    assert list(fleet(toml, '{"id": "b"}\n\n{"id": "c"}').entries) == ["a", "b", "c"]
    for line, said in (
        ('{"id": "a"}', "fleet.toml: device 'a' stands there 2 times"),
        ('{"id": "b", "x": 1}', "d.jsonl: line 1: x: unknown key"),
        ('{"id": "b', "d.jsonl: line 1: "),
        ('{"id": "b", "labels": {"n": 1}}', "d.jsonl: line 1: labels.n: "),
    ):
        with pytest.raises(ConfigError) as caught:
            fleet(toml, line)
        assert said in str(caught.value)


def test_from_disk(tmp_path: Path) -> None:
    """A file and its list beside it are read as the signed file of both."""
    path, signed = tmp_path / "fleet.toml", tmp_path / "fleet.signed.json"
    toml, devices = 'version = 3\ndevices_file = "d.jsonl"\n', '{"id": "a"}\n'
    path.write_text(toml)
    with pytest.raises(ConfigError, match=r"d\.jsonl: No such file"):
        read_path(path)
    (tmp_path / "d.jsonl").write_text(devices)
    signed.write_bytes(Keys(tmp_path).signed(toml, devices))
    assert read_path(path).content == read_path(signed).content
    assert read_path(signed).version == 3
    signed.write_bytes(signed.read_bytes()[:-9])
    with pytest.raises(ConfigError, match=r"fleet\.signed\.json: damaged or truncated"):
        read_path(signed)
