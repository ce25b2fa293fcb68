"""Documentation that cannot go stale: what exists is described, and the reverse."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from pydantic import BaseModel

from agent.broker.config import BrokerFile
from agent.config.agent_file import AgentFile
from agent.config.pipeline_file import PipelineFile
from agent.core.types import Reason
from agent.daemon.conditions import DISK_LOW, FILLING
from agent.protocol.health import understood
from agent.telemetry.alerts import NAMES
from agent.telemetry.metrics import Collector
from harness.architecture import PACKAGES

DOCS = Path(__file__).resolve().parent.parent / "docs"


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the dotted name of every key of a configuration file."""
    for name, field in model.model_fields.items():
        inner = [field.annotation, *get_args(field.annotation)]
        tables = [t for t in inner if isinstance(t, type) and issubclass(t, BaseModel)]
        between = "*." if get_origin(field.annotation) is dict else ""
        for table in tables:
            yield from keys(table, f"{prefix}{name}.{between}")
        if not tables:
            yield prefix + name


KEYS = list(dict.fromkeys([*keys(AgentFile), *keys(PipelineFile)]))
# [mqtt] is that of the device, and described there.
BROKER_KEYS = [key for key in keys(BrokerFile) if not key.startswith("mqtt.")]
REASONS = [reason.value for reason in Reason]
PAGES = {"configuration.md": [*KEYS, *REASONS], "broker.md": BROKER_KEYS}


def first_cells(page: str) -> set[str]:
    """Return what the tables of a page name in their first column."""
    text = (DOCS / page).read_text("utf-8")
    return set(re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE))


@pytest.mark.parametrize(
    ("page", "key"), [(page, key) for page, found in PAGES.items() for key in found]
)
def test_everything_is_documented(page: str, key: str) -> None:
    """Every configuration key and every reason has its row in its page."""
    assert key in first_cells(page)


@pytest.mark.parametrize("page", PAGES)
def test_nothing_is_documented_that_is_gone(page: str) -> None:
    """Every row of a page is about a key or a reason that exists."""
    assert first_cells(page) <= set(PAGES[page])


@pytest.fixture(scope="module")
def printed() -> dict[str, Any]:
    """Return what `slm-agent check --schema` prints."""
    command = [sys.executable, "-m", "agent", "check", "--schema"]
    done = subprocess.run(command, capture_output=True, check=True, cwd=DOCS.parent)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("agent.schema.json", "agent.toml"),
        ("pipeline.schema.json", "pipelines/*.toml"),
        ("broker.schema.json", "broker.toml"),
    ],
)
def test_schemas_are_fresh(printed: dict[str, Any], file: str, kind: str) -> None:
    """The schemas in docs/schema/ are those that `slm-agent check --schema` prints."""
    written: dict[str, Any] = json.loads((DOCS / "schema" / file).read_text("utf-8"))
    assert written == printed[kind]


ROOT = DOCS.parent
PAGES_ALL = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "SECURITY.md",
    ROOT / "models" / "README.md",
    *sorted(DOCS.rglob("*.md")),
]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, made as GitHub makes them."""
    text = re.sub(
        r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES_ALL, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link is to a file that exists, and to a heading in it."""
    for link, anchor in re.findall(
        r"\]\(([^)#]*)(?:#([^)]*))?\)", page.read_text("utf-8")
    ):
        if "://" in link or link.startswith("mailto:"):
            continue
        target = page.parent / link if link else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), f"{link}#{anchor}"


@pytest.mark.parametrize("page", PAGES_ALL, ids=lambda p: str(p.relative_to(ROOT)))
def test_paths_in_the_text_exist(page: Path) -> None:
    """Every path of the repository that a page names in backticks is there."""
    folders = "agent|bench|docs|harness|packaging|systemd|tests"
    for path in re.findall(rf"`((?:{folders})/[\w./-]+)`", page.read_text("utf-8")):
        assert (ROOT / path).exists(), path


def test_the_listing_is_the_tuple() -> None:
    """The architecture page begins with the packages, in the order that is tested."""
    listing = (DOCS / "architecture.md").read_text("utf-8").split("```")[1]
    assert tuple(re.findall(r"^  (\w+)/ ", listing, re.MULTILINE)) == PACKAGES


def test_names_follow_the_code() -> None:
    """Each class that the architecture page names is in the module it names."""
    page = (DOCS / "architecture.md").read_text("utf-8")
    named = re.findall(r"\*\*([A-Z]\w+)\*\* \(`(agent/[\w/]+\.py)`", page)
    assert len(named) >= 15
    for name, path in named:
        text = (ROOT / path).read_text("utf-8")
        assert re.search(rf"^class {name}\b", text, re.MULTILINE), f"{path}: {name}"


def test_every_page_is_in_the_index() -> None:
    """docs/README.md links every page, docs/decisions/README.md every decision."""
    for index in (DOCS / "README.md", DOCS / "decisions" / "README.md"):
        links = set(re.findall(r"\]\(([^)#]+)\)", index.read_text("utf-8")))
        pages = {page.name for page in index.parent.glob("*.md")} - {"README.md"}
        assert pages <= links


def test_the_readme_is_one_page() -> None:
    """The README has at most 150 lines."""
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150


OPERATING = (DOCS / "operating.md").read_text("utf-8")


def rows(section: str) -> dict[str, str]:
    """Return the rows of a table in docs/operating.md, by their first cells."""
    [text] = re.findall(
        rf"^## {section}$(.*?)(?=^## )", OPERATING, re.MULTILINE | re.DOTALL
    )
    return dict(re.findall(r"^\| `([^`]+)` \| (.*)$", text, re.MULTILINE))


def test_every_alert_is_documented() -> None:
    """Each alert has its row, with the shares at which it comes and goes."""
    table = rows("Alerts")
    assert set(table) == set(NAMES)
    for name, shares in (("disk_low", DISK_LOW), ("outbox_filling", FILLING)):
        assert re.findall(r"\d+ %", table[name]) == [f"{s * 100:.0f} %" for s in shares]


def test_every_metric_is_documented() -> None:
    """The table of metrics names those made of the health that the page shows."""
    health = OPERATING.partition("## Health")[2]
    shown = health.partition("```json")[2].partition("```")[0]
    endings = {"counter": "_total", "info": "_info"}
    table = rows("Metrics")
    made = list(Collector(lambda: understood(json.loads(shown))).collect())
    assert set(table) == {f"{each.name}{endings.get(each.type, '')}" for each in made}
    for family in made:
        said = table[f"{family.name}{endings.get(family.type, '')}"].partition("|")[0]
        for sample in family.samples:
            labels = set(sample.labels)
            if family.type == "histogram" and not sample.name.endswith("_bucket"):
                labels.add("le")
            assert labels == set(re.findall("`([a-z]+)`", said)), sample
