"""The order of the suite: what waits longest begins first, and no worker ends late."""

import pytest

from harness.stage import Agent

Agent.forks = True  # hundreds of starts, a second of imports each
# Files of a minute and more, the longest first; then all that start processes.
LONG = (
    "e2e/test_fleet_hostile",
    "broker/test_broker_endpoints",
    "e2e/test_fleet_health",
    "e2e/test_escalation",
    "broker/test_broker_sharing",
    "e2e/test_poison",
    "broker/test_broker_reload",
    "e2e/test_soak",
    "e2e/test_memory",
    "broker/test_broker_crash",
    "e2e/test_damaged_state",
    "e2e/test_network",
    "e2e/test_escalation_chaos",
    "e2e/test_watchdog",
    "e2e/test_outage",
    "e2e/test_takeover",
)
STARTING = ("e2e/", "broker/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort by file: a worker takes the next file when it has done one."""
    items.sort(key=_rank)


def _rank(item: pytest.Item) -> int:
    file = item.nodeid.removeprefix("tests/")
    if any(file.startswith(f"{name}.py") for name in LONG):
        return next(n for n, name in enumerate(LONG) if file.startswith(f"{name}.py"))
    return len(LONG) + (not file.startswith(STARTING))
