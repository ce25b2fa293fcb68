"""What the tests of the package share: one container, in which it lives."""

import os
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from harness.container import Container, Missing, check_possible, in_memory, make_root

REPOSITORY = Path(__file__).resolve().parents[2]
SITE = Path(sysconfig.get_paths()["purelib"])


def pytest_configure(config: pytest.Config) -> None:
    """Name our marker."""
    line = "system: the package in a container under systemd; make system"
    config.addinivalue_line("markers", line)


@pytest.fixture(scope="session")
def package() -> Path:
    """Return the package that is tested."""
    path = os.environ.get("SLM_DEB")
    if not path:
        pytest.skip("SLM_DEB names no package: make system builds one")
    return Path(path).resolve()


@pytest.fixture(scope="session")
def newer(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a later version of the package, which ships another agent.toml."""
    folder = tmp_path_factory.mktemp("newer")
    tree = folder / "tree"
    subprocess.run(["dpkg-deb", "-R", package, tree], check=True)
    control = tree / "DEBIAN" / "control"
    lines = control.read_text("utf-8").splitlines()
    lines = ["Version: 99.0" if s.startswith("Version:") else s for s in lines]
    control.write_text("\n".join(lines) + "\n", "utf-8")
    with (tree / "etc/slm-agent/agent.toml").open("a", encoding="utf-8") as file:
        file.write("# as of version 99\n")
    made = folder / "slm-agent_99.0.deb"
    # Quickly: only its size differs from a real one's.
    command = ["dpkg-deb", "-Znone", "--root-owner-group", "-b", tree, made]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(tree)
    return made


@pytest.fixture(scope="session")
def box(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """Run a Debian with what the package declares to need, a broker, and no more."""
    depends = subprocess.run(
        ["dpkg-deb", "-f", package, "Pre-Depends", "Depends"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    fields = [line.partition(": ")[2] for line in depends.splitlines()]
    needed = {part.split()[0] for field in fields for part in field.split(",")}
    folder = tmp_path_factory.mktemp("container")
    see = {package.parent: "/packages", REPOSITORY: "/repository", SITE: "/site"}
    try:
        check_possible()
        with in_memory(folder / "memory") as memory:
            root = memory / "root"
            make_root(root, [*sorted(needed), "mosquitto", "mosquitto-clients"])
            with closing(Container(root, see)) as running:
                try:
                    running.boot()  # nothing of ours is in it yet
                except AssertionError as why:
                    raise Missing(f"no container boots here: {why}") from why
                yield running
    except Missing as why:
        pytest.skip(str(why))
