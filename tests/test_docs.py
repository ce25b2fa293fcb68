"""Documentation that cannot go stale: what exists is described, and the reverse."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from pydantic import BaseModel

from agent.config import AgentFile, PipelineFile, schemas
from agent.types import Reason

DOCS = Path(__file__).resolve().parent.parent / "docs"


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the dotted name of every key of a configuration file."""
    for name, field in model.model_fields.items():
        inner = [field.annotation, *get_args(field.annotation)]
        tables = [t for t in inner if isinstance(t, type) and issubclass(t, BaseModel)]
        between = "*." if get_origin(field.annotation) is dict else ""
        if tables:
            yield from keys(tables[0], f"{prefix}{name}.{between}")
        else:
            yield prefix + name


KEYS = [*keys(AgentFile), *keys(PipelineFile)]


def first_cells() -> set[str]:
    """Return what the tables of docs/configuration.md name in their first column."""
    page = (DOCS / "configuration.md").read_text("utf-8")
    return set(re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE))


@pytest.mark.parametrize("key", KEYS)
def test_every_key_is_documented(key: str) -> None:
    """Every configuration key has its row in docs/configuration.md."""
    assert key in first_cells()


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_is_documented(reason: Reason) -> None:
    """Every reason has its row in docs/configuration.md."""
    assert reason.value in first_cells()


def test_nothing_is_documented_that_is_gone() -> None:
    """Every row of docs/configuration.md is about a key or a reason that exists."""
    assert first_cells() <= {*KEYS, *(reason.value for reason in Reason)}


@pytest.mark.parametrize(
    ("file", "kind"),
    [("agent.schema.json", "agent.toml"), ("pipeline.schema.json", "pipelines/*.toml")],
)
def test_schemas_are_fresh(file: str, kind: str) -> None:
    """The schemas in docs/schema/ are those that `slm-agent check --schema` prints."""
    written: dict[str, Any] = json.loads((DOCS / "schema" / file).read_text("utf-8"))
    generated: dict[str, Any] = schemas()[kind]
    assert written == generated


def test_links_lead_somewhere() -> None:
    """Every relative link in the documentation is to a file that exists."""
    pages = [DOCS.parent / "README.md", *DOCS.rglob("*.md")]
    for page in pages:
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
            if "://" not in link and not link.startswith("mailto:"):
                assert (page.parent / link).exists(), f"{page.name}: {link}"
