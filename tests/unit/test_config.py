"""Configuration: what can be meant is taken, the rest is named in one line."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from agent.config.agent_file import AgentFile
from agent.config.load import Config, load, schemas
from agent.config.pipeline_file import PipelineFile
from agent.config.section import shipped
from agent.core.errors import ConfigError
from agent.core.types import Guarantee, Task

PIPELINE = """
input = {topics = ["home/+/utterance"]}
model = {bundle = "home"}
"""


def written(folder: Path, agent: str = "", **pipelines: str) -> Path:
    """Write agent.toml and pipelines; return the path of the first."""
    (folder / "pipelines").mkdir(exist_ok=True)
    for name, toml in (pipelines or {"home": PIPELINE}).items():
        (folder / "pipelines" / f"{name}.toml").write_text(toml)
    path = folder / "agent.toml"
    enable = f"enable = {list(pipelines)}" if pipelines else ""
    path.write_text(f'{agent}\n[pipelines]\ndir = "pipelines"\n{enable}\n')
    return path


def refusal(folder: Path, agent: str = "", **pipelines: str) -> str:
    """Return what is said of a wrong configuration, without the folder."""
    path = written(folder, agent, **pipelines)
    with pytest.raises(ConfigError) as caught:
        load(path).login()
    return str(caught.value).replace(f"{folder}/", "")


def test_defaults() -> None:
    """Without any file the shipped pipeline runs against a broker on this machine."""
    agent = AgentFile()
    assert agent.mqtt.url == "mqtt://127.0.0.1:1883"
    assert agent.mqtt.version == 5
    assert agent.pipelines.enable == ["home"]
    assert agent.state.dir == Path("/var/lib/slm-agent")
    assert agent.models.on_mismatch == "refuse"
    assert re.fullmatch("[A-Za-z0-9_-]{1,64}", agent.device.id)
    assert agent.pipelines.dir == shipped("pipelines")
    assert (agent.pipelines.dir / "home.toml").is_file()


def test_minimal_pipeline(tmp_path: Path) -> None:
    """A pipeline needs topics and a bundle; it understands, and accepts 5 % error."""
    pipeline = load(written(tmp_path)).pipelines["home"]
    assert pipeline.tasks == {Task.CLASSIFY, Task.EXTRACT}
    assert pipeline.input.text == ""
    assert pipeline.decide.max_error == 0.05
    assert pipeline.output.topic == ""
    assert pipeline.guarantee is Guarantee.LABEL


@pytest.mark.parametrize(
    ("agent", "said"),
    [
        ("devise.id = 'x'", "agent.toml: devise: unknown key, did you mean 'device'?"),
        ("mqtt.urll = 'x'", "agent.toml: mqtt.urll: unknown key, did you mean 'url'?"),
        ("mqtt.qqqqqq = 1", "agent.toml: mqtt.qqqqqq: unknown key"),
        ("device.id = 'pi 3'", "agent.toml: device.id: "),
        ("device.id = ''", "agent.toml: device.id: "),
        ("device.id = 'a/b'", "agent.toml: device.id: "),
        ("device.id = 'x\n", "agent.toml: not valid TOML: "),
        ("text,label", "lines read key = value, and a table begins with [name]"),
        ("mqtt.version = 4", "agent.toml: mqtt.version: "),
        ("mqtt.keepalive_s = 1", "agent.toml: mqtt.keepalive_s: "),
        ("mqtt.max_inflight = 65536", "agent.toml: mqtt.max_inflight: "),
        ("mqtt.url = 'http://x'", "agent.toml: mqtt.url: reads mqtt://"),
        ("mqtt.url = 'mqtt://'", "agent.toml: mqtt.url: reads mqtt://"),
        ("mqtt.url = 'mqtt://u:p@x'", "mqtt.url: holds no password"),
        ("mqtt.url = 'mqtt://x/y'", "mqtt.url: ends after the port"),
        ("mqtt.url = 'mqtt://x:99999'", "agent.toml: mqtt.url: "),
        ("upstream.rate = 1.0", "agent.toml: upstream.transport: must be given"),
        ("upstream.transport = 'htp'", "upstream.transport: must be one of"),
        (
            "upstream = {transport = 'http', url = 'http://x', topic = 'a'}",
            "agent.toml: upstream.topic: means nothing to transport 'http'",
        ),
        (
            "upstream = {transport = 'mqtt', model = 'a'}",
            "agent.toml: upstream.model: means nothing to transport 'mqtt'",
        ),
        (
            "upstream = {transport = 'mqtt', rat = 5}",
            "agent.toml: upstream.rat: unknown key, did you mean 'rate'?",
        ),
        (
            "upstream = {transport = 'http', url = 'http://x'}",
            "agent.toml: upstream.model: must be given",
        ),
        ("mqtt.ca_file = 'ca.pem'", "mqtt.ca_file: needs a url with mqtts://"),
        (
            "mqtt = {url = 'mqtts://x', cert_file = 'c.pem'}",
            "mqtt.cert_file: goes together with key_file",
        ),
        (
            "mqtt = {username = 'u', username_file = 'u.txt'}",
            "mqtt.username: give it or username_file, not both",
        ),
        ("mqtt = { username = 'u', password_file = 'none' }", "mqtt.password_file: "),
        ("log.level = 'loud'", "agent.toml: log.level: "),
        ("models.on_mismatch = 'ignore'", "agent.toml: models.on_mismatch: "),
        ("engine.threads = 0", "agent.toml: engine.threads: "),
        ("upsteam.url = 'x'", "agent.toml: upsteam: unknown key"),
    ],
)
def test_wrong_agent_file(tmp_path: Path, agent: str, said: str) -> None:
    """An error names the file and the key, and the nearest key that is known."""
    assert said in refusal(tmp_path, agent)


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("", "input: must be given"),
        ("model = {bundle = 'home'}", "pipelines/home.toml: input: must be given"),
        (
            PIPELINE + "[decid]\nmax_error = 1",
            "decid: unknown key, did you mean 'decide'",
        ),
        (PIPELINE + "decide = {max_error = 0}", "decide.max_error: "),
        (PIPELINE + "decide = {max_error = 1}", "decide.max_error: "),
        (PIPELINE + "decide = {guarantee = 'lable'}", "decide.guarantee: "),
        (
            PIPELINE + "kind = 'classify'\ndecide = {guarantee = 'both'}",
            "decide.guarantee: 'both' does not go with kind 'classify'",
        ),
        (
            PIPELINE + "kind = 'extract'\ndecide = {guarantee = 'label'}",
            "decide.guarantee: 'label' does not go with kind 'extract'",
        ),
        (PIPELINE + "kind = 'clasify'", "kind: must be 'understand', 'classify' or"),
        (PIPELINE + "output = {topic = 'a/#'}", "output.topic: "),
        (PIPELINE.replace("home/+/utterance", ""), "input.topics.0: "),
        (PIPELINE.replace("home/+/utterance", "a/b+"), "'+' must stand alone"),
        (
            PIPELINE.replace("home/+/utterance", "a/#/b"),
            "'#' must stand alone and last",
        ),
        (PIPELINE.replace("home/+/utterance", "a#"), "'#' must stand alone and last"),
        (PIPELINE.replace("home/+/utterance", "$share/g"), "$share/<group>/<filter>"),
        (PIPELINE.replace('["home/+/utterance"]', "[]"), "input.topics: "),
        (PIPELINE.replace("]}", '], encoding = "rot13"}'), "not a text encoding"),
        (PIPELINE.replace("]}", "], max_chars = 0}"), "input.max_chars: "),
        (PIPELINE.replace("]}", '], text = "orders[].text"}'), "a list has no names"),
        (PIPELINE.replace("]}", '], text = "orders.*.text"}'), "a list has no names"),
        (PIPELINE.replace("]}", '], text = "a..b"}'), "input.text: reads a.b.c"),
        (PIPELINE.replace("]}", '], id = ".id"}'), "input.id: reads a.b.c"),
        (PIPELINE.replace("model", "modle"), "did you mean 'model'?"),
    ],
)
def test_wrong_pipeline_file(tmp_path: Path, toml: str, said: str) -> None:
    """The same holds for pipelines."""
    assert said in refusal(tmp_path, home=toml)


@pytest.mark.parametrize(
    ("more", "guarantee"),
    [
        ("", Guarantee.LABEL),
        ("kind = 'classify'", Guarantee.LABEL),
        ("kind = 'extract'", Guarantee.ENTITIES),
        ("decide = {guarantee = 'label'}", Guarantee.LABEL),
        ("decide = {guarantee = 'entities'}", Guarantee.ENTITIES),
        ("decide = {guarantee = 'both'}", Guarantee.BOTH),
        ("kind = 'classify'\ndecide = {guarantee = 'label'}", Guarantee.LABEL),
        ("kind = 'extract'\ndecide = {guarantee = 'entities'}", Guarantee.ENTITIES),
    ],
)
def test_guarantee(tmp_path: Path, more: str, guarantee: Guarantee) -> None:
    """The bound is on the label where there is one, unless the operator says more."""
    path = written(tmp_path, home=f"{more}\n{PIPELINE}")
    assert load(path).pipelines["home"].guarantee is guarantee


def test_own_calibration(tmp_path: Path) -> None:
    """A pipeline's own calibration lies beside its file, if there is one."""
    config = load(written(tmp_path))
    place = tmp_path / "pipelines" / "home.calibration.json"
    assert config.calibration_file("home") == place
    assert config.calibration("home") is None
    place.write_text("{}")
    assert config.calibration("home") == place


def test_every_error_has_its_line(tmp_path: Path) -> None:
    """All that is wrong in a file is said at once."""
    said = refusal(tmp_path, "mqtt = {urll = 'x', version = 4}\nlogg.level = 'info'")
    assert len(said.splitlines()) == 3


ASKED = "upstream = {transport = 'mqtt'%s}"


@pytest.mark.parametrize(
    ("own", "of_pipeline", "blamed"),
    [
        (", budget = {money_per_day = 0.5}", "", "agent.toml"),
        ("", "upstream.budget.money_per_day = 0", "pipelines/home.toml"),
    ],
)
def test_money_needs_prices(
    tmp_path: Path, own: str, of_pipeline: str, blamed: str
) -> None:
    """A budget in money that nothing could be booked on is refused; one price will do.

    The error says what to add.
    """
    toml = of_pipeline + PIPELINE
    said = refusal(tmp_path, ASKED % own, home=toml)
    assert said.startswith(f"{blamed}: upstream.budget.money_per_day: needs ")
    assert "upstream.price_in" in said
    load(written(tmp_path, ASKED % f"{own}, price_out = 1.5", home=toml))
    load(written(tmp_path, home=toml))  # nobody is asked


def test_unknown_pipeline(tmp_path: Path) -> None:
    """A pipeline that is not there is named, with the nearest and all there are."""
    path = written(tmp_path, home=PIPELINE, notes=PIPELINE.replace("home/", "notes/"))
    with pytest.raises(ConfigError, match=r"did you mean 'notes'\?.*home, notes"):
        load(path, enable=("note",))


def test_missing_agent_file(tmp_path: Path) -> None:
    """A file that was named must be there."""
    with pytest.raises(ConfigError, match=r"agent\.toml: No such file"):
        load(tmp_path / "agent.toml")


@pytest.mark.parametrize(
    ("topics", "output", "loop"),
    [
        ("home/+/utterance", "", False),
        ("home/#", "home/results", True),
        ("#", "", True),
        ("slm/pi-3/result/home", "", True),
        ("slm/+/deadletter/#", "", True),
        ("$share/g/slm/#", "", True),
        ("slm/other/result/home", "", False),
        ("home/+/utterance", "home/kitchen/utterance", True),
        ("home/+/utterance", "home/kitchen/intent", False),
    ],
)
def test_loops(tmp_path: Path, topics: str, output: str, *, loop: bool) -> None:
    """No pipeline may read what a pipeline publishes."""
    toml = PIPELINE.replace("home/+/utterance", topics)
    path = written(
        tmp_path, "device.id = 'pi-3'", home=f'{toml}\noutput = {{topic = "{output}"}}'
    )
    if loop:
        with pytest.raises(ConfigError, match="is read again by pipeline 'home'"):
            load(path)
    else:
        load(path)


def test_paths_are_beside_their_file(tmp_path: Path) -> None:
    """A relative path is relative to the file that names it, not to where we run."""
    config = load(written(tmp_path, "models.dir = 'm'\nstate.dir = '/var/x'"))
    assert config.agent.models.dir == tmp_path / "m"
    assert config.bundle_dir("home") == tmp_path / "m" / "home"
    assert config.agent.state.dir == Path("/var/x")


def test_login(tmp_path: Path) -> None:
    """Secrets come from the first line of their files, and are not shown."""
    (tmp_path / "user").write_text("pi\n")
    (tmp_path / "secret").write_text("hunter2\nnotes\n")
    names = "username_file = 'user', password_file = 'secret'"
    login = load(written(tmp_path, f"mqtt = {{{names}}}")).login()
    assert (login.username, login.password) == ("pi", "hunter2")
    assert "hunter2" not in repr(login)


@pytest.mark.parametrize("content", ["", "\nhunter2", b"\xff"])
def test_empty_secret(tmp_path: Path, content: str | bytes) -> None:
    """A secret file without a first line is an error, not an empty password."""
    raw = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "secret").write_bytes(raw)
    assert "mqtt.password_file" in refusal(tmp_path, "mqtt.password_file = 'secret'")


def loaded(folder: Path, agent: str = "", toml: str = PIPELINE) -> Config:
    """Return a loaded configuration."""
    return load(written(folder, agent, home=toml))


def test_hash(tmp_path: Path) -> None:
    """The hash changes with the meaning of a file, and only then."""
    one = loaded(tmp_path, "device.id = 'a'").hash
    assert loaded(tmp_path, "# a comment\ndevice = {id = 'a'}").hash == one
    assert loaded(tmp_path, "device.id = 'b'").hash != one
    more = PIPELINE + "decide = {max_error = 0.1}"
    assert loaded(tmp_path, "device.id = 'a'", more).hash != one


def test_client_id(tmp_path: Path) -> None:
    """The client id is stable: the device's, unless another is given."""
    assert loaded(tmp_path, "device.id = 'a'").client_id == "slm-agent-a"
    assert loaded(tmp_path, "mqtt.client_id = 'x'").client_id == "x"


@pytest.mark.parametrize("model", [AgentFile, PipelineFile])
def test_every_key_says_what_it_is_for(model: type[AgentFile | PipelineFile]) -> None:
    """Every key has a sentence in the schema, so that editors can show it."""
    schema: dict[str, Any] = model.model_json_schema()
    assert json.dumps(schema) in json.dumps(list(schemas().values()))
    for name, table in {"": schema, **schema["$defs"]}.items():
        assert table["additionalProperties"] is False, name
        for key, value in table["properties"].items():
            assert "$ref" in value or value.get("description"), f"{name}.{key}"
