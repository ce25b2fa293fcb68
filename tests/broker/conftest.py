"""What the tests of the broker share: MQTT, models, brokers, and a device that asks."""

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from harness.brokers import GOOD, SETTINGS, Broker, Device
from harness.provider import Provider
from harness.proxy import Proxy
from harness.stage import Mosquitto


@pytest.fixture(autouse=True)
async def hung_up() -> AsyncIterator[None]:
    """Close the connections that LiteLLM keeps: they belong to the loop of one test."""
    yield
    litellm = sys.modules.get("litellm")
    session = getattr(litellm, "aclient_session", None)
    if session is not None:
        await session._transport.aclose()


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    """Run a Mosquitto of our own."""
    with closing(Mosquitto(tmp_path / "mosquitto", SETTINGS)) as running:
        running.start()
        yield running


@pytest.fixture
def device(mosquitto: Mosquitto) -> Iterator[Device]:
    """Connect a device that sends cases and hears replies."""
    with closing(Device(mosquitto.port)) as connected:
        yield connected


@pytest.fixture
def model() -> Iterator[Provider]:
    """Run a model that gives a valid answer."""
    with Provider(lambda _call: GOOD) as running:
        yield running


@pytest.fixture
def proxy(mosquitto: Mosquitto) -> Iterator[Proxy]:
    """Put a network between broker and MQTT that we can break."""
    network = Proxy(mosquitto.port)
    yield network
    network.cut()


@pytest.fixture
def new_broker(tmp_path: Path, mosquitto: Mosquitto) -> Iterator[Callable[..., Broker]]:
    """Give a maker of brokers, not yet started; all are gone after the test."""
    with ExitStack() as stack:

        def make(*bases: str, **options: Any) -> Broker:
            folder = tmp_path / options.get("name", "one")
            broker = Broker(folder, mosquitto.port, list(bases), **options)
            stack.callback(broker.close)
            return broker

        yield make
