"""What a fleet file makes of a device: one precedence, every value with its origin."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config.section import shipped
from agent.core.errors import ConfigError
from agent.fleet.resolve import Resolver, check_pins, compared, read_local, stand_in
from harness.fleets import fleet, origins, resolve, values

PERTH = """
[[device]]
id = "pi-1"
labels = { site = "perth" }
"""
KEY = "agent.engine.max_batch"


def levels(base: int | None, layers: list[int | None], device: int | None) -> str:
    """Return a fleet file that sets one key where a number is given."""

    def said(number: int | None) -> str:
        return "" if number is None else f"agent.engine.max_batch = {number}\n"

    made = "".join(
        f'[[layer]]\nname = "l{place}"\n{said(number)}'
        for place, number in enumerate(layers)
    )
    return f'{said(base)}{made}[[device]]\nid = "pi-1"\n{said(device)}'


NUMBERS = st.none() | st.integers(1, 512)


@given(NUMBERS, st.lists(NUMBERS, max_size=5), NUMBERS)
def test_one_precedence(
    base: int | None, layers: list[int | None], device: int | None
) -> None:
    """Default, base, layers in their order, device: the last that speaks has its way.

    So no two parts can ever tie.
    """
    effective = resolve(levels(base, layers, device))
    spoken = [(16, "default"), (base, "base")]
    spoken += [(number, f"layer l{place}") for place, number in enumerate(layers)]
    spoken += [(device, "device")]
    value, origin = [each for each in spoken if each[0] is not None][-1]
    assert effective.config.agent.engine.max_batch == value
    assert origins(effective).get(KEY, "default") == origin


@given(st.permutations(["perth", "lab", "old"]))
def test_only_the_order_in_the_file_counts(order: list[str]) -> None:
    """How many conditions a layer has makes it no stronger; where it stands does."""
    conditions = {
        "perth": 'select = { site = "perth" }',
        "lab": 'select = { site = "perth" }\ndevices = ["pi-1"]',
        "old": "",
    }
    made = "".join(
        f'[[layer]]\nname = "{name}"\n{conditions[name]}\n'
        f'variables = {{ who = "{name}" }}\n'
        for name in order
    )
    toml = f'pipelines.home.description = "${{who}}"\n{made}{PERTH}'
    assert resolve(toml).config.pipelines["home"].description == order[-1]


def test_lists_are_replaced() -> None:
    """A list is one value: the later one stands alone."""
    toml = """
    pipelines.home.input.topics = ["a", "b"]
    [[layer]]
    name = "l"
    pipelines.home.input.topics = ["c"]
    """
    effective = resolve(toml + PERTH)
    assert effective.config.pipelines["home"].input.topics == ["c"]
    assert origins(effective)["pipelines.home.input.topics"] == "layer l"


def test_tables_are_merged() -> None:
    """Tables of names, too, are merged key by key, and each key has its origin."""
    toml = """
    agent.upstream.transport = "mqtt"
    pipelines.home.upstream.labels = { x = "always_local", y = "always_local" }
    [[layer]]
    name = "l"
    pipelines.home.upstream.labels = { y = "never_upstream" }
    """
    effective = resolve(toml + PERTH)
    asked = effective.config.pipelines["home"].upstream.labels
    assert asked == {"x": "always_local", "y": "never_upstream"}
    found = origins(effective)
    assert found["pipelines.home.upstream.labels.x"] == "base"
    assert found["pipelines.home.upstream.labels.y"] == "layer l"


def test_shipped_pipelines_are_the_ground() -> None:
    """A shipped pipeline needs no words; what the file says of it is laid over."""
    effective = resolve("pipelines.home.decide.max_error = 0.01\n" + PERTH)
    found = origins(effective)
    assert found["pipelines.home.model.bundle"] == "shipped"
    assert found["pipelines.home.decide.max_error"] == "base"
    assert effective.config.pipelines["home"].decide.max_error == 0.01


def test_a_pipeline_of_the_fleet() -> None:
    """A pipeline that is not shipped stands in the fleet file as a whole."""
    toml = """
    enable = ["notes"]
    [pipelines.notes]
    kind = "classify"
    input.topics = ["${device.id}/${label.site}/note"]
    model.bundle = "home"
    """
    effective = resolve(toml + PERTH)
    assert list(effective.config.pipelines) == ["notes"]
    assert effective.config.pipelines["notes"].input.topics == ["pi-1/perth/note"]
    assert effective.config.agent.pipelines.enable == ["notes"]
    where = "base (${device.id} from built-in, ${label.site} from built-in)"
    assert origins(effective)["pipelines.notes.input.topics"] == where


def test_variables_of_layers_and_devices() -> None:
    """Variables follow the same precedence as values."""
    toml = """
    variables = { error = 0.5, area = "north" }
    pipelines.home.decide.max_error = "${error}"
    pipelines.home.description = "${area}"
    [[layer]]
    name = "l"
    variables = { error = 0.2, area = "south" }
    [[device]]
    id = "pi-1"
    variables = { error = 0.1 }
    """
    home = resolve(toml).config.pipelines["home"]
    assert (home.decide.max_error, home.description) == (0.1, "south")


def test_unset() -> None:
    """A layer may take away a table that the others need, upstream for one."""
    toml = """
    agent.upstream.transport = "mqtt"
    [[layer]]
    name = "secret"
    select = { site = "perth" }
    unset = ["agent.upstream"]
    """
    other = '[[device]]\nid = "pi-2"\n'
    assert resolve(toml + PERTH).config.agent.upstream is None
    assert resolve(toml + PERTH + other, "pi-2").config.agent.upstream is not None


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        (
            "pipelines.home.description = '${siet}'",
            "base: pipelines.home.description: ${siet} is not defined",
        ),
        (
            "variables.e='x'\n[[layer]]\nname='l'\npipelines.home.decide.max_error='${e}'",
            "layer l (${e} from base): pipelines.home.decide.max_error: must be a",
        ),
        (
            "variables={t=['a#']}\npipelines.home.input.topics='${t}'",
            "base (${t} from base): pipelines.home.input.topics.0: ",
        ),
        (
            "enable = ['hoem']",
            "enable: there is no pipeline 'hoem', did you mean 'home'? (base)",
        ),
        (
            "enable = ['x']\npipelines.x.model.bundle = 'home'",
            "pipelines.x.input: must be given",
        ),
        (
            "agent.upstream.url = 'http://x'",
            "agent.upstream.transport: must be given",
        ),
        (
            "agent.upstream.transport='mqtt'\n[[layer]]\nname='l'\nagent.upstream.model=''",
            "layer l: agent.upstream.model: means nothing to transport 'mqtt'",
        ),
        (
            "pipelines.home.input.topics = ['a/+', 'a/b']",
            "pipelines.home.input.topics: 'a/+' and 'a/b' overlap",
        ),
        (
            "pipelines.home.output.topic = 'home/x/utterance'",
            "pipelines.home.output.topic: 'home/x/utterance' is read again",
        ),
        (
            "agent.mqtt.ca_file = 'ca.pem'",
            "agent.mqtt.ca_file: needs a url with mqtts://",
        ),
        (
            "pipelines.home.upstream.policy = 'always_upstream'",
            "pipelines.home.upstream.policy: always_upstream needs [upstream]",
        ),
    ],
)
def test_wrong_for_a_device(toml: str, said: str) -> None:
    """An error names the device, who set the value, and says what config says."""
    with pytest.raises(ConfigError) as caught:
        resolve(f"{toml}\n{PERTH}")
    assert str(caught.value).startswith(f"fleet.toml: device pi-1: {said}")


def test_unlisted() -> None:
    """A device that is not listed refuses, unless the file accepts such."""
    with pytest.raises(ConfigError, match="device 'pi-9' is not listed"):
        resolve(PERTH, "pi-9")
    accepting = f'unlisted = "accept"\n{PERTH}'
    assert resolve(accepting, "pi-9").device == "pi-9"


def written(folder: Path, toml: str) -> Path:
    """Write a device's own agent.toml."""
    path = folder / "agent.toml"
    path.write_text(f'device.id = "pi-1"\n{toml}')
    return path


def test_local_files_are_below(tmp_path: Path) -> None:
    """What the fleet does not say stays as in agent.toml; what it says, wins."""
    local = read_local(
        written(
            tmp_path,
            'log.level = "debug"\nengine.threads = 2\nengine.max_batch = 3\n'
            'mqtt.url = "mqtt://own"\nstate.dir = "state"\n',
        )
    )
    read = fleet(f'agent.log.level = "error"\nunset = ["agent.engine"]\n{PERTH}')
    effective = Resolver(read).resolve(local)
    found = origins(effective)
    assert effective.config.agent.mqtt.url == "mqtt://own"
    assert effective.config.agent.state.dir == tmp_path / "state"
    assert effective.config.agent.engine.max_batch == 16
    assert found["agent.log.level"] == "base"
    assert found["agent.mqtt.url"] == "local"
    assert effective.drift() == []


def test_drift(tmp_path: Path) -> None:
    """What a device's own files set beyond what only it can know is told."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "home.toml").write_text(
        'input.topics = ["own"]\nmodel.bundle = "home"\n'
    )
    local = read_local(
        written(tmp_path, 'log.level = "debug"\npipelines.dir = "mine"\n')
    )
    effective = Resolver(fleet("pipelines.home.model.bundle = 'x'\n" + PERTH)).resolve(
        local
    )
    assert effective.drift() == ["agent.log.level", "pipelines.home.input.topics"]
    assert effective.config.pipelines["home"].input.topics == ["own"]


def test_own_files_are_no_templates(tmp_path: Path) -> None:
    """What stands in a device's own files means what it means without a fleet."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "home.toml").write_text(
        'description = "${device.id}"\ninput.topics = ["a"]\nmodel.bundle = "home"\n'
    )
    local = read_local(written(tmp_path, 'pipelines.dir = "mine"\n'))
    effective = Resolver(fleet(PERTH)).resolve(local)
    assert effective.config.pipelines["home"].description == "${device.id}"


def test_labels_of_the_list_are_the_device_s(tmp_path: Path) -> None:
    """A listed device has the labels that the check saw; another one has its own."""
    local = read_local(written(tmp_path, 'device.labels = { site = "oslo" }\n'))
    layer = '[[layer]]\nname="o"\nselect={site="oslo"}\nagent.log.level="error"\n'
    listed = Resolver(fleet(layer + PERTH)).resolve(local)
    assert listed.config.agent.device.labels == {"site": "perth"}
    assert listed.config.agent.log.level == "info"
    own = Resolver(fleet(f'unlisted = "accept"\n{layer}')).resolve(local)
    assert own.config.agent.device.labels == {"site": "oslo"}
    assert own.config.agent.log.level == "error"


def test_relative_paths_are_beside_agent_toml(tmp_path: Path) -> None:
    """Paths in a fleet file mean files beside the device's own agent.toml."""
    toml = """
    agent.mqtt.username = "u"
    agent.mqtt.password_file = "secrets/${device.id}"
    """
    local = read_local(written(tmp_path, ""))
    mqtt = Resolver(fleet(toml + PERTH)).resolve(local).config.agent.mqtt
    assert mqtt.password_file == tmp_path / "secrets" / "pi-1"


def test_many_devices_as_one_by_one() -> None:
    """What devices share is resolved once, and comes out as if it were not."""
    toml = """
    enable = ["home", "support"]
    [[layer]]
    name = "l"
    select = { site = "perth" }
    agent.log.level = "error"
    """
    entries = "".join(
        f'[[device]]\nid = "pi-{n}"\nlabels = {{ site = "{site}" }}\n'
        + (f'enable = ["support"]\nagent.engine.max_batch = {n + 1}\n' if n < 4 else "")
        for n, site in enumerate(["perth", "oslo"] * 4)
    )
    read = fleet(toml + entries)
    together = Resolver(read)
    for device in read.entries:
        one = Resolver(read).resolve(stand_in(device))
        assert together.resolve(stand_in(device)) == one


def pinned(folder: Path, bundle: str, content: str) -> str:
    """Write a manifest; return its pin."""
    (folder / bundle).mkdir(parents=True)
    (folder / bundle / "manifest.json").write_text(content)
    return f"sha256:{hashlib.sha256(content.encode()).hexdigest()}"


def test_pins(tmp_path: Path) -> None:
    """A bundle that is another than the pinned one is refused, and both are named."""
    models = tmp_path / "models"
    pin = pinned(models, "home", "{}")
    pinned(models, "privacy", "{}")

    def effective(**pins: str) -> Any:
        said = "".join(f"bundles.{name} = '{each}'\n" for name, each in pins.items())
        local = read_local(written(tmp_path, "models.dir = 'models'\n"))
        return Resolver(fleet(said + PERTH)).resolve(local)

    other = f"sha256:{'0' * 64}"
    check_pins(effective(home=pin))
    check_pins(effective(home=pin, absent=other))  # no pipeline asks it
    with pytest.raises(ConfigError, match=r"bundles\.home: .* pinned is sha256:0000"):
        check_pins(effective(home=other))
    with pytest.raises(ConfigError, match=r"bundles\.privacy: "):
        check_pins(effective(home=pin, privacy=other))  # it is there, so it may be used
    (models / "home" / "manifest.json").unlink()
    with pytest.raises(ConfigError, match=r"bundles\.home: .*: No such file"):
        check_pins(effective(home=pin))
    assert compared(effective(), models) == [f"{models / 'home'}: no such bundle"]


def test_content_names_what_is_effective() -> None:
    """Versions that change nothing for a device have the same content; pins count."""
    one = resolve("version = 1\n" + PERTH)
    assert one.content == resolve("version = 2\nvariables.x = 1\n" + PERTH).content
    assert one.content != resolve("agent.log.level = 'error'\n" + PERTH).content
    pin = f"bundles.home = 'sha256:{'0' * 64}'\n"
    assert one.content != resolve(pin + PERTH).content


def test_rows_have_everything() -> None:
    """What `show` prints has every key of both kinds of file, defaults included."""
    found = values(resolve(PERTH))
    assert found["agent.mqtt.keepalive_s"] == 30
    assert found["pipelines.home.input.max_chars"] == 10_000
    assert found["agent.upstream"] is None
    assert found["agent.pipelines.dir"] == str(shipped("pipelines"))
