"""The peer benchmark compares with the encoder that ships, not with another one."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from agent.cli.demo_session import read_messages
from agent.config.section import shipped

SCRIPT = Path(__file__).parents[2] / "bench" / "peers.py"
TEXTS = 20


@pytest.fixture(scope="module")
def peers() -> ModuleType:
    """Return bench/peers.py as a module; bench is no package."""
    spec = importlib.util.spec_from_file_location("peers", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def figures(peers: ModuleType) -> dict[str, object]:
    """Return what two rounds might have measured."""
    speeds = {"torch": (10, 20), "encoder": (90, 100), "cascade": (100, 300)}
    rounds = {
        row: [
            {
                "texts_per_s": speed,
                **dict.fromkeys(("ms_p50", "cpu_ms", "rss_mb", "start_s"), 1.0),
                "ranked": [["on", "off"], [None if row != "torch" else "on", "off"]],
            }
            for speed in pair
        ]
        for row, pair in speeds.items()
    }
    machine = {"cpu": "abacus"}
    rows = peers.summary(rounds, ["on", "off"])
    return {"machine": machine, "rounds": 2, "rows": rows}


@pytest.fixture
def bundle() -> Path:
    """Return the shipped bundle; skip where the peer's libraries are missing."""
    for library in ("torch", "transformers", "onnx"):
        pytest.importorskip(library, reason="extra `workshop`")
    return shipped("models") / "home"


def test_peer_is_the_same_encoder(
    peers: ModuleType, bundle: Path, tmp_path: Path
) -> None:
    """Torch gives the labels of our int8 encoder, and nearly its logits."""
    peers.build_peer(bundle, tmp_path)
    _, peer = peers.open_peer(tmp_path)
    _, ours = peers.open_encoder(bundle)
    manifest, _ = peers.encoder_tier(bundle)
    texts = read_messages(None)[:TEXTS]
    equal = [peers.same(ours(t), peer(t), manifest["labels"]) for t in texts]
    # int8 activations may turn one text that lies on an edge, whatever was trained.
    assert sum(equal) >= TEXTS - 1
    assert peers.logits_off(bundle, tmp_path, texts) <= peers.LOGITS_OFF


def test_another_encoder_is_noticed(
    peers: ModuleType, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same weights in another network are not the same encoder."""
    monkeypatch.setattr(peers, "HEADS", peers.HEADS // 2)
    peers.build_peer(bundle, tmp_path)
    off = peers.logits_off(bundle, tmp_path, read_messages(None)[:TEXTS])
    assert off > peers.LOGITS_OFF


def test_ratio_is_taken_within_a_round(
    peers: ModuleType, figures: dict[str, dict[str, dict[str, float]]]
) -> None:
    """What slows a round down slows both sides; the median is that of the ratios."""
    row = figures["rows"]["cascade"]
    assert (row["times_torch_min"], row["times_torch_max"]) == (10, 15)
    assert row["times_torch"] == 12.5
    assert "12.5 times as many" in peers.markdown(figures)


def test_other_labels_are_counted(
    figures: dict[str, dict[str, dict[str, float]]],
) -> None:
    """A peer that answers otherwise than our encoder shows in the figures."""
    assert figures["rows"]["torch"]["labels_as_encoder"] == 0.5
    assert figures["rows"]["cascade"]["labels_as_encoder"] == 1


def test_out_of_scope_is_an_answer(peers: ModuleType) -> None:
    """A peer with an output more agrees where we give no label or its best one."""
    peer = [peers.OUT_OF_SCOPE, "on"]
    assert peers.same([None], peer, ["on", "off"])
    assert peers.same(["on"], peer, ["on", "off"])
    assert not peers.same(["off"], peer, ["on", "off"])


def test_missing_extra_is_named(
    peers: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without torch it ends with status 2 and says what to install."""
    monkeypatch.setitem(sys.modules, "torch", None)
    assert peers.main([]) == 2
    assert "workshop" in capsys.readouterr().err
