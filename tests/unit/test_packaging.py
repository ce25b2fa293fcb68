"""The tools beside the package: audit of its libraries, bill of materials."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from harness.stage import REPOSITORY

EPOCH = 1_700_000_000


def tool(name: str) -> ModuleType:
    """Return a tool of the folder packaging/, which is no package."""
    path = REPOSITORY / "packaging" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


WEAK = {"id": "PYSEC-1", "fix_versions": ["2.0"]}


@pytest.mark.parametrize(
    ("libraries", "last", "fails"),
    [
        ([], "does not answer", False),
        ([{"name": "a", "skip_reason": "not found"}], "does not answer", False),
        ([{"name": "a", "version": "1", "vulns": []}], "1 libraries audited, 0", False),
        ([{"name": "a", "version": "1", "vulns": [WEAK]}], "1 weaknesses", True),
        (
            [
                {"name": "a", "version": "1", "vulns": []},
                {"name": "b", "skip_reason": "not found"},
            ],
            "1 unknown",
            False,
        ),
    ],
)
def test_an_audit_fails_for_what_is_known_only(
    libraries: list[dict[str, object]], last: str, *, fails: bool
) -> None:
    """A service that does not answer is told, and no library is called sound for it."""
    lines, weak = tool("audit").report(libraries)
    assert last in lines[-1]
    assert weak is fails
    assert ("a 1: PYSEC-1, fixed in 2.0" in lines) is fails


def test_the_bill_names_every_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each with version and address, the models by hash; twice the same bytes."""
    for name, version in (("alpha", "1.0"), ("slm_agent", "0.1")):
        info = tmp_path / "site" / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\n"
            f"Version: {version}\nLicense: MIT\n"
        )
    model = tmp_path / "site" / "agent" / "models" / "home"
    model.mkdir(parents=True)
    (model / "manifest.json").write_text("{}")
    deb = tmp_path / "slm-agent_0.1_arm64.deb"
    deb.write_bytes(b"package")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(EPOCH))
    monkeypatch.setattr(sys, "argv", ["sbom", str(deb), str(tmp_path / "site")])
    sbom = tool("sbom")
    said = []
    for _ in range(2):
        sbom.main()
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    bill = json.loads(said[0])
    assert bill["bomFormat"] == "CycloneDX"
    inside = {each["name"]: each for each in bill["components"]}
    assert set(inside) == {"alpha", "home"}
    assert inside["alpha"]["purl"] == "pkg:pypi/alpha@1.0"
    assert inside["alpha"]["licenses"] == [{"license": {"id": "MIT"}}]
    assert inside["home"]["hashes"][0]["alg"] == "SHA-256"
    assert bill["metadata"]["component"]["purl"] == "pkg:deb/slm-agent@0.1?arch=arm64"
