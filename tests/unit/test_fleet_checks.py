"""Checking and comparing whole fleets: 500 devices, every finding with its devices."""

from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.fleet.checks import Finding, _overlapping, check, worst
from agent.fleet.diff import Change, diff_report
from agent.mqtt.topic_filters import overlap
from harness.fleets import TOML, fleet, inventory

FLEET = inventory(500)


def found(toml: str, level: str = "error", devices: str = FLEET) -> list[Finding]:
    """Return the findings of a level."""
    return [each for each in check(fleet(toml, devices)) if each.level == level]


def test_a_fleet_without_a_finding() -> None:
    """500 devices in four sites resolve, and nothing is wrong or doubtful."""
    findings = check(fleet(TOML, FLEET))
    assert [each.level for each in findings] == ["ok"]
    assert findings[0].detail == "500 devices resolve, with 4 combinations of layers"
    assert not worst(findings)


@pytest.mark.parametrize(
    ("old", "new", "subject", "detail", "count"),
    [
        (
            'site = "perth"',
            'siet = "perth"',
            "layer perth",
            "no device has a label 'siet', did you mean 'site'?",
            0,
        ),
        (
            "${line}",
            "${lien}",
            "device",
            "base: pipelines.home.input.topics: ${lien} is not defined, did you mean",
            500,
        ),
        (
            'enable = ["home"]',
            'enable = ["hoem"]',
            "device",
            "enable: there is no pipeline 'hoem'",
            500,
        ),
        (
            "[agent.mqtt]",
            '[agent.mqtt]\nclient_id = "agent-${label.room}"',
            "mqtt.client_id",
            "'agent-r0' is that of 50 devices",
            50,
        ),
        (
            "/+/note",
            '/+/note", "plant/perth/+/+/note',
            "device",
            "pipelines.home.input.topics: ",
            125,
        ),
    ],
)
def test_errors(old: str, new: str, subject: str, detail: str, count: int) -> None:
    """What cannot work is an error, told once with all the devices it is about."""
    assert old in TOML
    first = found(TOML.replace(old, new))[0]
    assert first.subject == subject
    assert detail in first.detail
    assert len(first.devices) == count


def test_client_ids_at_several_brokers() -> None:
    """One id is for one broker: a device at each of many may have the same."""
    mqtt = '[agent.mqtt]\nclient_id = "agent"\nurl = "mqtt://{}.example"'
    known = '[agent.mqtt]\nurl = "mqtt://broker.example"'
    assert known in TOML
    own = TOML.replace(known, mqtt.format("${device.id}"))
    assert found(own) == []
    four = found(TOML.replace(known, mqtt.format("${label.site}")))
    assert [len(each.devices) for each in four] == [125] * 4
    assert "'agent' is that of 125 devices at mqtt://perth.example" in four[0].detail


def test_result_topics_read_again() -> None:
    """A result that the pipeline would read again is an error for each device."""
    toml = TOML.replace(
        "[[layer]]", '[pipelines.home.output]\ntopic = "${root}/a/note"\n[[layer]]', 1
    )
    [first] = found(toml)
    assert "is read again by pipeline 'home'" in first.detail
    assert len(first.devices) == 500  # though each names its own topic


@pytest.mark.parametrize(
    ("old", "new", "subject", "detail"),
    [
        (
            '"r0", "r1"',
            '"r0", "r11"',
            "layer lab",
            "no device has room = 'r11', did yo",
        ),
        ('site = "perth"', 'site = "rome"', "layer perth", "is for no device"),
        (
            'over = ["perth"]\n',
            "",
            "layer lab",
            "sets agent.log.level otherwise than layer perth, and wins",
        ),
        (
            "${root}/+/note",
            "plant/+/note",
            "pipeline home",
            "'plant/+/note' is read: 500 devices",
        ),
        (
            "[[layer]]",
            '[pipelines.notes]\ndescription = "x"\n[[layer]]',
            "pipeline notes",
            "runs on no device",
        ),
        (
            "[[layer]]",
            '[[group]]\nname = "g"\nselect = { site = "rome" }\n[[layer]]',
            "group g",
            "no device is in it",
        ),
        (
            "[variables]",
            'rollout = { name = "x", percent = 0 }\n[variables]',
            "rollout x",
            "0 %: 0 of 500 devices take it",
        ),
    ],
)
def test_warnings(old: str, new: str, subject: str, detail: str) -> None:
    """What may be meant, but rarely is, is a warning."""
    assert old in TOML
    findings = check(fleet(TOML.replace(old, new, 1), FLEET))
    doubtful = [each for each in findings if each.level == "warning"]
    assert any(f.subject == subject and detail in f.detail for f in doubtful)
    assert not worst(findings)


def test_two_devices_on_one_topic() -> None:
    """Two devices whose filters overlap at one broker are a warning with both."""
    greedy = inventory(9).replace("line-4", "+")  # of the site of pi-0 and pi-8
    findings = found(TOML, "warning", greedy)
    assert [each.devices for each in findings] == [("pi-0", "pi-4"), ("pi-4", "pi-8")]
    assert "overlap: 2 devices at mqtt://broker.example" in findings[0].detail


LEVELS = st.sampled_from(["a", "b", "", "$x", "+"])
FILTERS = st.builds(
    lambda levels, tail: "/".join([*levels, *tail]),
    st.lists(LEVELS, min_size=1, max_size=4),
    st.sampled_from([[], ["#"]]),
)


@given(st.lists(FILTERS, unique=True, max_size=12))
def test_no_pair_is_overlooked(topics: list[str]) -> None:
    """The quick search finds every pair that overlaps, each once."""
    pairs = [(one, other) for one, other in combinations(topics, 2)]
    wanted = {frozenset(pair) for pair in pairs if overlap(*pair)}
    found_pairs = [frozenset(pair) for pair in _overlapping(topics)]
    assert set(found_pairs) == wanted
    assert len(found_pairs) == len(wanted)


def test_own_brokers_share_nothing() -> None:
    """Devices with a broker each do not meet on its topics."""
    toml = TOML.replace("${root}/+/note", "plant/+/note")
    alone = toml.replace("broker.example", "127.0.0.1")
    shared = toml.replace("plant/+/note", "$share/g/plant/+/note")
    assert found(toml, "warning")
    assert not found(alone, "warning")
    assert not found(shared, "warning")


def test_one_device_only() -> None:
    """A value that breaks one device is told of that one; the others resolve."""
    broken = FLEET + '{"id": "odd", "variables": {"line": "a/#/b"}}\n'
    errors = found(TOML, "error", broken)
    assert {each.devices for each in errors} == {("odd",)}
    assert "${label.site} is not defined" in errors[0].detail


def test_a_device_that_is_not_listed() -> None:
    """A condition that names an unknown device is an error with the nearest name."""
    toml = TOML + '[[layer]]\nname = "x"\ndevices = ["pi-1", "pi-5000"]\n'
    [error] = found(toml)
    assert error.detail.startswith("device 'pi-5000' is not listed, did you mean 'pi-")


def test_bundles(tmp_path: Path) -> None:
    """Bundles asked or pinned are looked for where --models says."""
    pin = f'bundles.home = "sha256:{"0" * 64}"\n'
    [missing, *_] = check(fleet(TOML, FLEET), tmp_path)
    assert (missing.subject, len(missing.devices)) == ("bundles", 500)
    assert "no such bundle" in missing.detail
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "manifest.json").write_text("{}")
    assert not worst(check(fleet(TOML, FLEET), tmp_path))
    [other, *_] = check(fleet(pin + TOML.lstrip(), FLEET), tmp_path)
    assert "pinned is sha256:000" in other.detail


def test_no_devices() -> None:
    """A file without a list says that nothing was resolved."""
    [warning] = check(fleet('unlisted = "accept"'))
    assert warning.level == "warning"
    assert "none was resolved" in warning.detail


def test_radius_of_nothing() -> None:
    """A new version with the same values changes no device."""
    same = diff_report(fleet(TOML, FLEET), fleet(TOML.replace("= 7", "= 8"), FLEET))
    assert (same.changed, same.devices, same.new_version) == (0, 500, 8)


def test_radius_of_a_layer() -> None:
    """A change in a layer changes its devices and no other, and says what."""
    new = TOML.replace('"warning"', '"error"')
    found_radius = diff_report(fleet(TOML, FLEET), fleet(new, FLEET))
    [group] = found_radius.alike
    assert group.changes == (
        Change("agent.log.level", "warning", "error", "layer perth"),
    )
    assert len(group.devices) == 125 - 25  # those of the lab are over it
    assert all(int(device.removeprefix("pi-")) % 4 == 0 for device in group.devices)


def test_radius_of_a_stage() -> None:
    """With a rollout it says how many of the changed devices take it now."""
    staged = 'rollout = { name = "x", percent = 10 }\n' + TOML.replace(
        '"warning"', '"error"'
    ).replace("version = 7", "")
    new = fleet("version = 8\n" + staged, FLEET)
    found_radius = diff_report(fleet(TOML, FLEET), new)
    assert found_radius.changed == 100
    assert 0 < found_radius.now < 25
    assert set(found_radius.alike[0].now) <= set(found_radius.alike[0].devices)


def test_radius_of_a_variable() -> None:
    """One device's own value changes one device; a new broker is marked as risky."""
    edited = FLEET.replace('line-7"', 'line-seven"')
    [group] = diff_report(fleet(TOML, FLEET), fleet(TOML, edited)).alike
    assert group.devices == ("pi-7",)
    [change] = group.changes
    assert change.new == ["plant/kyoto/line-seven/+/note"]
    assert not change.risky
    moved = fleet(TOML.replace("broker.example", "other.example"), FLEET)
    [everybody] = diff_report(fleet(TOML, FLEET), moved).alike
    assert len(everybody.devices) == 500
    assert everybody.changes[0].risky


def test_radius_of_the_list() -> None:
    """Devices that come and go are told, and those that a version breaks."""
    more = FLEET.replace('"pi-3"', '"pi-new"') + '{"id": "odd"}\n'
    found_radius = diff_report(fleet(TOML, FLEET), fleet(TOML, more))
    assert found_radius.added == ("pi-new", "odd")
    assert found_radius.removed == ("pi-3",)
    assert list(found_radius.broken) == ["odd"]
    assert found_radius.changed == 0
