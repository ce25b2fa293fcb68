"""An idle broker sleeps."""

from collections.abc import Callable

import pytest

from harness.brokers import Broker, Device, case
from harness.stage import free_port
from harness.wakes import AT_MOST, KEEPALIVE, wakes


@pytest.mark.timeout(180)
def test_an_idle_broker_is_woken_at_most_once_in_five_seconds(
    new_broker: Callable[..., Broker], device: Device
) -> None:
    """With metrics, and before it asked a model: LiteLLM's connections have a timer."""
    more = f"[metrics]\nport = {free_port()}\n"
    broker = new_broker("http://127.0.0.1:1", mqtt=KEEPALIVE, more=more)
    broker.start()
    device.send(case(1, deadline_ms=1))  # which nobody is asked about
    broker.wait_log("case")
    found = wakes(broker.pid)
    assert found.total() <= AT_MOST, found
