"""Installed otherwise than here: as Debian's package lays it out, and by pip."""

import json
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.stage import REPOSITORY, Agent, Mosquitto

SITE = Path(sysconfig.get_paths()["purelib"])
HOME = "/usr/lib/slm-agent"
EMBEDDED = """\
import asyncio
from pathlib import Path
from agent.cli.embedded import daemon

async def main():
    async with daemon(Path({folder!r}), {port}, "5"):
        pass

asyncio.run(main())
"""


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """Return a Python that finds none of our libraries by itself."""
    folder = tmp_path / "bare"
    making = [sys.executable, "-m", "venv", "--without-pip", folder]
    subprocess.run(making, check=True)
    return folder / "bin" / "python3"


@pytest.fixture
def packaged(tmp_path: Path) -> str:
    """Return the package's program, with its libraries in a folder of their own."""
    folder = tmp_path / "lib"
    folder.mkdir()
    (folder / "agent").symlink_to(REPOSITORY / "agent")
    for library in SITE.iterdir():
        if library.name != "agent":
            (folder / library.name).symlink_to(library)
    program = (REPOSITORY / "packaging" / "slm-agent").read_text("utf-8")
    assert HOME in program
    return program.replace(HOME, str(folder))


def test_doctor_of_the_package(
    broker: Mosquitto,
    new_agent: Callable[..., Agent],
    bare: Path,
    packaged: str,
    tmp_path: Path,
) -> None:
    """Doctor finds the libraries of which only the package's program knows."""
    program = tmp_path / "slm-agent"
    program.write_text(packaged, "utf-8")
    config = new_agent(broker.port).config
    done = subprocess.run(
        [bare, "-I", program, "doctor", "--json", "--config", config],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    [runtime] = [said for said in found if said["subject"] == "runtime"]
    assert runtime["level"] == "ok", runtime
    assert done.returncode == 0, done.stdout


def test_daemon_of_the_package(
    broker: Mosquitto, bare: Path, packaged: str, tmp_path: Path
) -> None:
    """The daemon that demo and bench start runs with the package's libraries, too."""
    lines, _, _ = packaged.partition("from agent.cli.main")
    lines += EMBEDDED.format(folder=str(tmp_path), port=broker.port)
    subprocess.run([bare, "-I", "-c", lines], cwd="/", check=True)


def files(folder: Path) -> set[Path]:
    """Return the files below a folder, from there."""
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}


def test_installed_by_pip(bare: Path, tmp_path: Path) -> None:
    """The wheel carries bundles and pipelines: `check` is content outside the checkout.

    Nothing is downloaded: the libraries it needs are those of this environment.
    """
    pytest.importorskip("hatchling", reason="builds the wheel, and is not installed")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-index", "--no-build-isolation", REPOSITORY]
    subprocess.run([*pip, *build], cwd=tmp_path, check=True)
    [wheel] = tmp_path.glob("slm_agent-*.whl")
    into = ["--python", bare, "install", "--no-deps", "--no-index", wheel]
    subprocess.run([*pip, *into], check=True)
    [package] = tmp_path.glob("bare/lib/*/site-packages/agent")
    for folder in ("models", "pipelines"):
        assert files(package / folder) >= files(REPOSITORY / folder)
    config = tmp_path / "agent.toml"
    config.write_text('[device]\nid = "pi"\n', "utf-8")
    subprocess.run(
        [bare.parent / "slm-agent", "check", "--config", config],
        cwd=tmp_path,
        env={"PYTHONPATH": str(SITE)},
        check=True,
    )


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("minor", [11, 12, 13, 14])
def test_wheel_on_other_pythons(minor: int, tmp_path: Path) -> None:
    """On each Python that this machine has, pip installs the wheel, and `check` passes.

    The probes of the bundles are among what it checks: the same numbers on each.
    """
    python = shutil.which(f"python3.{minor}")
    found = python and subprocess.run([python, "-V"], capture_output=True, check=False)
    if not found or found.returncode:
        pytest.skip(f"no Python 3.{minor} here")
    venv = tmp_path / "venv"
    subprocess.run([python, "-m", "venv", venv], check=True)
    pip = [venv / "bin" / "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", REPOSITORY], cwd=tmp_path, check=True)
    config = tmp_path / "agent.toml"
    config.write_text('[device]\nid = "pi"\n', "utf-8")
    program = venv / "bin" / "slm-agent"
    subprocess.run([program, "check", "--config", config], cwd=tmp_path, check=True)
    subprocess.run([program, "try", "home", "turn off the lights"], check=True)
