"""Where a device stands in its fleet: what commands see of it, and change nothing."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent.core.errors import ConfigError
from agent.daemon.checks import membership
from agent.fleet.signing import Content
from agent.fleet.state import FOLDER, Ref, RolloutState, StateStore, Status
from agent.fleet.status import FleetStatus, fleet_status
from harness.fleets import Keys

OWN = 0.05
FLEET = """\
unlisted = "accept"
enable = ["home", "desk"]
[pipelines.home.decide]
max_error = 0.1
[pipelines.desk.input]
topics = ["desk/text"]
[pipelines.desk.model]
bundle = "home"
"""


@dataclass
class Device:
    """A device that belongs to a fleet, and what it remembers of it."""

    folder: Path
    keys: Keys

    @property
    def config(self) -> Path:
        """Its agent.toml."""
        return self.folder / "agent.toml"

    def write(self, more: str = "") -> None:
        """Write it."""
        self.config.write_text(
            '[device]\nid = "pi-1"\n[state]\ndir = "state"\n'
            f'[fleet]\npublic_key_files = ["{self.keys.public}"]\n{more}',
            "utf-8",
        )

    def remember(self, version: int, toml: str = FLEET, **state: Any) -> None:
        """Write down that a version is applied."""
        toml = f"version = {version}\n{toml}"
        ref = Ref(version=version, sha256=Content(toml.encode()).digest)
        known = {"desired": ref, "applied": ref, "status": "applied"}
        store = StateStore(self.folder / "state" / FOLDER)
        store.commit(RolloutState(**{**known, **state}), {ref: self.keys.signed(toml)})

    def files(self) -> Mapping[Path, bytes]:
        """Return all there is on its disk."""
        found = self.folder.rglob("*")
        return {path: path.read_bytes() for path in found if path.is_file()}


@pytest.fixture
def device(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Device:
    """Return a device that never heard of a version."""
    made = Device(tmp_path, Keys(tmp_path_factory.mktemp("keys")))
    made.write()
    return made


def max_error(found: FleetStatus, pipeline: str = "home") -> float:
    """Return what a pipeline may get wrong."""
    return found.config.pipelines[pipeline].decide.max_error


def levels(found: FleetStatus) -> list[str]:
    """Return how `check` and `doctor` judge it."""
    return [finding.level for finding in membership(found)]


def test_without_a_fleet(tmp_path: Path) -> None:
    """The own files count, and of a fleet nothing is said."""
    path = tmp_path / "agent.toml"
    path.write_text('[device]\nid = "pi-1"\n', "utf-8")
    found = fleet_status(path)
    assert (max_error(found), levels(found)) == (OWN, [])


def test_before_the_first_version(device: Device) -> None:
    """The own files count, and that is as it should be."""
    found = fleet_status(device.config)
    assert (max_error(found), levels(found)) == (OWN, ["ok"])
    assert str(found) == "no version is applied, the device's own files count"


def test_what_runs_is_seen_and_left_alone(device: Device) -> None:
    """The version applied counts, it is named, and nothing is written."""
    device.remember(3)
    before = device.files()
    found = fleet_status(device.config)
    assert (max_error(found), levels(found)) == (0.1, ["ok"])
    assert list(found.config.pipelines) == ["home", "desk"]
    assert str(found) == "version 3 is applied"
    assert device.files() == before


def test_the_own_files_alone(device: Device) -> None:
    """Who asks for the own files gets them, and no word of the fleet."""
    device.remember(3)
    found = fleet_status(device.config, own=True)
    assert (max_error(found), levels(found)) == (OWN, [])


@pytest.mark.parametrize(
    ("pipeline", "said"),
    [
        ("home", "version 3 is applied"),
        ("desk", "version 3 is applied"),
        (
            "support",
            "the fleet does not run support here; the device's own files count",
        ),
    ],
)
def test_one_pipeline(device: Device, pipeline: str, said: str) -> None:
    """One that the fleet made or changed is as it runs, another as its own file."""
    device.remember(3)
    found = fleet_status(device.config, pipeline)
    assert (list(found.config.pipelines), str(found)) == ([pipeline], said)


@pytest.mark.parametrize(
    ("status", "reason", "said", "level"),
    [
        ("held", "not yet its turn", "held back: not yet its turn", "ok"),
        ("probation", None, "on probation", "ok"),
        ("refused", "line\nline", "refused: line; line", "warning"),
        ("rolled_back", "not well", "rolled back: not well", "warning"),
    ],
)
def test_what_became_of_the_version_desired(
    device: Device, status: Status, reason: str | None, said: str, level: str
) -> None:
    """It is said in the same line, with the reason."""
    desired = Ref(version=4, sha256="0")
    device.remember(3, desired=desired, status=status, reason=reason)
    found = fleet_status(device.config)
    assert str(found) == f"version 3 is applied; version 4 is {said}"
    assert (max_error(found), levels(found)) == (0.1, [level])


def test_a_version_that_cannot_be_used(device: Device) -> None:
    """The own files count, as in the daemon, and that is an error with the reason."""
    device.remember(3, f'{FLEET}[bundles]\nhome = "sha256:{"0" * 64}"\n')
    found = fleet_status(device.config)
    assert (max_error(found), levels(found)) == (OWN, ["error"])
    assert "version 3 cannot be used: bundles.home: " in str(found)


@pytest.mark.parametrize("what", ["state", "*.signed.json"])
def test_a_damaged_disk(device: Device, what: str) -> None:
    """What the disk lost is an error, and left for the daemon to mend."""
    device.remember(3)
    [path] = (device.folder / "state" / FOLDER).glob(what)
    path.write_bytes(path.read_bytes()[:-3])
    before = device.files()
    found = fleet_status(device.config)
    assert (max_error(found), levels(found)) == (OWN, ["error"])
    assert device.files() == before


def test_what_may_not_be_read(device: Device) -> None:
    """Who cannot see what the device remembers is told so."""
    (device.folder / "state" / FOLDER / "state").mkdir(parents=True)
    found = fleet_status(device.config)
    assert levels(found) == ["error"]
    assert "is no file" in str(found)


def test_own_files_must_do_in_any_case(device: Device) -> None:
    """Wrong ones are refused under a good version, too: so does the daemon."""
    device.remember(3)
    device.write('[pipelines]\nenable = ["hom"]\n')
    with pytest.raises(ConfigError, match="no such pipeline"):
        fleet_status(device.config)
