"""What end-to-end tests share: a broker, and the means to start agents and clients."""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from harness.fleetwork import Office
from harness.proxy import Proxy
from harness.stage import Agent, Client, Mosquitto


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """Run a Mosquitto of our own that keeps its state over a restart."""
    with closing(Mosquitto(tmp_path / "broker")) as running:
        running.start()
        yield running


@pytest.fixture
def client(broker: Mosquitto) -> Iterator[Client]:
    """Connect a producer and consumer that hears all that devices say."""
    with closing(Client(broker.port)) as connected:
        yield connected


@pytest.fixture
def office(tmp_path: Path, client: Client) -> Office:
    """Open the office of a fleet."""
    return Office(tmp_path / "office", client)


@pytest.fixture
def new_agent(tmp_path: Path) -> Iterator[Callable[..., Agent]]:
    """Give a maker of agents, not yet started; all are gone after the test."""
    with ExitStack() as stack:

        def make(port: int, **options: Any) -> Agent:
            folder = tmp_path / options.get("device", "pi")
            agent = Agent(folder, port, **options)
            stack.callback(agent.close)
            return agent

        yield make


@pytest.fixture
def agent(broker: Mosquitto, new_agent: Callable[..., Agent]) -> Agent:
    """Run the daemon as it is shipped, with the `home` pipeline."""
    running = new_agent(broker.port)
    running.start()
    return running


@pytest.fixture
def proxy(broker: Mosquitto) -> Iterator[Proxy]:
    """Put a network between device and broker that we can break."""
    network = Proxy(broker.port)
    yield network
    network.cut()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a folder with a disk of 6 MiB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, check=False).returncode:
        pytest.skip("needs root, and the right to mount")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)
