"""What the shipped bundles compute hangs on no processor: docs/arm64.md."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECORDED = ROOT / "bench" / "results" / "arm64.json"
SCRIPT = ROOT / "tests" / "system" / "same_numbers.py"


def test_bundles_compute_what_they_did_elsewhere(tmp_path: Path) -> None:
    """On this processor every graph gives, to the bit, what was once recorded."""
    recorded = json.loads(RECORDED.read_text("utf-8"))
    runtime = recorded["native"]["onnxruntime"]
    if version("onnxruntime") != runtime:
        pytest.skip(f"recorded with onnxruntime {runtime}, which need not agree")
    found = tmp_path / "digests.json"
    subprocess.run([sys.executable, SCRIPT, ROOT / "models", found], check=True)
    assert json.loads(found.read_text("utf-8")) == recorded["digests"], (
        "another bundle, or a processor without fused multiply-add? make arm64 records"
    )
