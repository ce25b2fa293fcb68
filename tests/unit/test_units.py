"""What ships beside the code: units that are locked, and libraries to the hash."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from agent.config.agent_file import AgentFile

REPOSITORY = Path(__file__).resolve().parents[2]
UNITS = sorted(REPOSITORY.glob("systemd/*.service"))
MOST_EXPOSED = 1.2


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
@pytest.mark.skipif(
    not shutil.which("systemd-analyze"),
    reason="needs systemd-analyze (Debian: systemd)",
)
def test_exposure(unit: Path) -> None:
    """Either service is exposed to next to nothing, says systemd."""
    said = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", unit],
        check=True,
        capture_output=True,
        text=True,
    )
    overall = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said.stdout)
    assert overall, said
    assert float(overall[1]) <= MOST_EXPOSED, said.stdout


def test_both_units() -> None:
    """There is a unit for the device and one for the upstream side."""
    assert {unit.stem for unit in UNITS} == {"slm-agent", "slm-agent-broker"}


def test_commented_examples() -> None:
    """Every line of the packaged agent.toml that can be taken in says a key right."""
    shipped = (REPOSITORY / "packaging/agent.toml").read_text("utf-8")
    taken_in = re.sub(r"^# (?=\[|\w+ = )", "", shipped, flags=re.MULTILINE)
    document = tomllib.loads(taken_in)
    assert {"upstream", "metrics", "homeassistant", "fleet"} <= document.keys()
    AgentFile.model_validate(document)


def test_locked() -> None:
    """Each library the device needs is among those that the package carries."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))
    needed = {
        re.split(r"[<>=~!\[ ]", line)[0] for line in project["project"]["dependencies"]
    }
    lock = (REPOSITORY / "packaging/requirements.txt").read_text("utf-8")
    carried = set(re.findall(r"^([a-z0-9-]+)==", lock, re.MULTILINE))
    assert needed <= carried, "make lock"
