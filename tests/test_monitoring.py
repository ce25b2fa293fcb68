"""The examples for Prometheus and Grafana: valid, and about metrics that exist."""

import json
import re
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from agent.broker.health import BrokerHealth
from agent.broker.metrics import BrokerCollector
from agent.protocol.health import Amounts
from agent.telemetry.alerts import NAMES

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "examples" / "monitoring"
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is not installed (apt-get install prometheus)"
)
# What PromQL cannot read as it stands: a variable of the dashboard.
VARIABLES = {"$instance": ".*"}


def promtool(*arguments: str | Path) -> str:
    """Run promtool in the folder of the examples; its output, failed or not."""
    command = [PROMTOOL or "promtool", *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=FOLDER, check=False
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    return output


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana imports it."""
    board: dict[str, Any] = json.loads((FOLDER / "grafana.json").read_text("utf-8"))
    return board


def expressions() -> list[str]:
    """Return every PromQL expression of the dashboard."""
    return [
        target["expr"]
        for panel in dashboard()["panels"]
        for target in panel.get("targets", ())
    ]


def metrics() -> set[str]:
    """Return the names of all metrics: the documented ones, and those of a broker."""
    page = (ROOT / "docs" / "operating.md").read_text("utf-8")
    names = set(re.findall(r"^\| `(slm_\w+)` \|", page, re.MULTILINE))
    numbers = dict.fromkeys((each.name for each in fields(BrokerHealth)), 0)
    mappings = {name: {} for name in ("cases", "answers", "failures")}
    others: dict[str, Any] = {"version": "", "group": "", "others": ()}
    health = BrokerHealth(**{**numbers, **mappings, **others, "budget_left": Amounts()})
    endings = {"counter": "_total", "info": "_info"}
    families = BrokerCollector(lambda: health).collect()
    return names | {f"{each.name}{endings.get(each.type, '')}" for each in families}


@pytest.mark.parametrize("file", ["alerts.yml", "alerts.test.yml", "grafana.json"])
def test_only_metrics_that_exist(file: str) -> None:
    """Rules and dashboard name no metric that slm-agent does not have."""
    text = (FOLDER / file).read_text("utf-8")
    named = {name.removesuffix("_bucket") for name in re.findall(r"\bslm_\w+", text)}
    assert len(named) >= 5
    assert named <= metrics()


def test_only_alerts_that_exist() -> None:
    """The rules sort the agent's own alerts by names that it has."""
    text = (FOLDER / "alerts.yml").read_text("utf-8")
    [first, second] = re.findall(r'slm_alert\{alert!?=?~"([^"]+)"\}', text)
    assert first == second
    assert set(first.split("|")) < set(NAMES)


def test_panels_are_apart() -> None:
    """Panels have ids of their own and do not cover each other."""
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


@needs_promtool
def test_configuration_and_rules_are_valid() -> None:
    """Promtool accepts the scrape configuration and the alert rules."""
    assert "SUCCESS" in promtool("check", "config", "prometheus.yml")
    assert "SUCCESS" in promtool("check", "rules", "alerts.yml")


@needs_promtool
def test_rules_do_what_they_say() -> None:
    """The rules raise their alerts over made-up series, and none for a device well."""
    assert "SUCCESS" in promtool("test", "rules", "alerts.test.yml")


@needs_promtool
def test_queries_of_the_dashboard_are_valid(tmp_path: Path) -> None:
    """Promtool reads every query of the dashboard, as the expression of a rule."""
    rules = []
    for number, expression in enumerate(expressions()):
        for variable, value in VARIABLES.items():
            expression = expression.replace(variable, value)  # noqa: PLW2901
        rules.append({"record": f"panel:query:{number}", "expr": expression})
    assert len(rules) >= 20
    file = tmp_path / "rules.yml"  # JSON is YAML
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", file)
