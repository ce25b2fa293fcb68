"""What `slm-agent train` calls: one recipe file and one data folder are enough."""

import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the extra `workshop` is not installed")
pytest.importorskip("transformers", reason="the extra `workshop` is not installed")
pytest.importorskip("onnx", reason="the extra `workshop` is not installed")
pytest.importorskip("rich", reason="the extra `workshop` is not installed")

from agent.core.errors import ConfigError
from agent.core.types import Guarantee
from agent.workshop import command, own
from agent.workshop.command import build

RECIPE = """
[about]
name = "tiny"
version = "0.1.0"
description = "A test."
licence = "none"
sources = ["made by the test"]

[pretrained]
package = "tiny_encoder"
max_tokens = 32
stride = 8
"""


@pytest.mark.filterwarnings("ignore")
def test_build(
    encoder_package: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's recipe and data make a bundle; seed and epochs may be given."""
    monkeypatch.syspath_prepend(encoder_package)
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(RECIPE)
    out = build(str(recipe), data, tmp_path / "out", seed=2, epochs=1)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["name"] == "tiny"
    assert manifest["labels"] == ["alarm_query", "alarm_set", "lamp_off", "lamp_on"]


def test_unknown_key_is_refused(tmp_path: Path) -> None:
    """A misspelt key in a recipe is the operator's error, not a silent default."""
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(f"{RECIPE}\n[training]\nepoch = 3\n")
    with pytest.raises(ConfigError, match="epoch"):
        build(str(recipe), tmp_path)


def test_build_own_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was made of a user's lines is told, after what will not be good."""
    figures = dict.fromkeys(
        ("accuracy", "span_f1", "coverage", "resolved_accuracy", "resolved_span_f1")
    )
    made = own.Own(
        folder=tmp_path,
        name="desk",
        figures={**figures, "coverage": 0.0, "ms_p50": 1.0},
        guarantee=Guarantee.LABEL,
        max_error=0.05,
        certified=False,
        certified_on=31,
        taught=90,
        validated=60,
        example="what's [bold] $HOME",
    )

    def pipeline(*given: object) -> own.Own:
        *_, warn, _columns = given
        assert callable(warn)
        warn("a few examples only of label rare 3")
        return made

    monkeypatch.setattr(own, "own_pipeline", pipeline)
    assert command.build_own(tmp_path / "x.jsonl", "desk", tmp_path) == tmp_path
    told = capsys.readouterr().err
    assert "label rare 3" in told
    assert "31 lines cannot certify any share of texts with a wrong label" in told
    assert """'what'"'"'s [bold] $HOME'""" in told
