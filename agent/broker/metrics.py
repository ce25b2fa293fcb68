"""Prometheus metrics of a broker: the numbers of its health topic."""

from collections.abc import Callable, Iterator

from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric

from agent.broker.health import BrokerHealth
from agent.telemetry.metrics import families


class BrokerCollector:
    """Turns the health of one broker into metrics."""

    def __init__(self, health: Callable[[], BrokerHealth]) -> None:
        """`health` is called in the thread of whoever asks."""
        self._health = health

    def collect(self) -> Iterator[Metric]:
        """Yield every metric family once."""
        health = self._health()
        about = {"version": health.version, "group": health.group}
        yield InfoMetricFamily("slm_broker", "Version and group", about)
        yield from families(health, "slm_broker")
        others = len(health.others)
        yield GaugeMetricFamily("slm_broker_others", "Others of the group", others)
        yield GaugeMetricFamily(
            "slm_broker_reload_refused",
            "1 while the last reload stands refused",
            int(health.reload_refused is not None),
        )
