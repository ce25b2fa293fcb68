"""Metrics of the broker: scraped from the real one, every number of its health."""

import urllib.request
from collections import Counter
from collections.abc import Callable

from prometheus_client.parser import text_string_to_metric_families

from harness.brokers import Broker, Device, case
from harness.provider import Provider
from harness.stage import free_port

LATENCIES = {"ms_p50", "ms_p99"}


def scraped(port: int) -> dict[str, float]:
    """Return what Prometheus's own parser reads: values by name, added up."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as page:
        text = page.read().decode()
    families = list(text_string_to_metric_families(text))
    numbers: Counter[str] = Counter()
    for sample in (sample for each in families for sample in each.samples):
        numbers[sample.name] += sample.value  # type: ignore[assignment]
    return dict(numbers)


def test_scraped(
    new_broker: Callable[..., Broker], device: Device, model: Provider
) -> None:
    """One case later, each number of the health is a metric."""
    port = free_port()
    broker = new_broker(
        model.base,
        more=f"[budget]\ncalls_per_day = 10\n[metrics]\nport = {port}",
        hurry={"status.HEALTH_S": 0.1},
    )
    broker.start()
    device.send(case(1))
    health = device.health("one", lambda h: h["cases"] == {"ok": 1})
    metrics = scraped(port)
    for key, value in health.items():
        parts = value.values() if isinstance(value, dict) else [value]
        if any(isinstance(part, int | float) for part in parts) and key != "v":
            name = "latency_seconds" if key in LATENCIES else key
            assert {f"slm_broker_{name}", f"slm_broker_{name}_total"} & metrics.keys()
    assert metrics["slm_broker_calls_total"] == 1
    assert metrics["slm_broker_cases_total"] == 1
    assert metrics["slm_broker_budget_left"] == 9
    assert metrics["slm_broker_store_bytes"] > 0
    assert metrics["slm_broker_latency_seconds"] > 0
