"""Bundles: what is opened is exactly what was made."""

import json
import re
from pathlib import Path

import pytest
from tiny import seal, write_bundle

from agent.bundle import Bundle, failed_probes, open_bundle, read_manifest
from agent.errors import BundleError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder of a sound bundle, to be damaged."""
    return write_bundle(tmp_path / "tiny")


def test_sound_bundle_opens(bundle: Bundle) -> None:
    """A bundle is named by name and version, and answers its own probes."""
    assert bundle.id == "tiny@1.0.0"
    assert failed_probes(bundle) == []


def test_every_flipped_bit_is_noticed(folder: Path) -> None:
    """A file that differs in one bit from the manifest is refused by name."""
    for name in read_manifest(folder).files:
        path = folder / name
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(BundleError, match=f"{name}: sha256 is .*damaged"):
            open_bundle(folder, 1)
        path.write_bytes(content)
    open_bundle(folder, 1)


def test_missing_file(folder: Path) -> None:
    """A listed file that is not there is named."""
    (folder / "tokenizer.json").unlink()
    with pytest.raises(BundleError, match=r"tokenizer\.json: No such file"):
        open_bundle(folder, 1)


def test_unlisted_file(folder: Path) -> None:
    """A file that the manifest does not list is refused: a graph could read it."""
    (folder / "encoder.onnx.data").write_bytes(b"weights of a stranger")
    with pytest.raises(BundleError, match=r"encoder\.onnx\.data: not listed"):
        open_bundle(folder, 1)


@pytest.mark.parametrize("name", ["encoder.onnx", "tokenizer.json", "probes.jsonl"])
def test_needed_file_must_be_listed(folder: Path, name: str) -> None:
    """Model, tokenizer and probes are opened only if their hashes are known."""
    (folder / name).unlink()
    seal(folder)
    with pytest.raises(BundleError, match=f"does not list {name}"):
        open_bundle(folder, 1)


def test_outside_file(folder: Path) -> None:
    """A manifest cannot reach for files outside its folder."""
    secret = folder.parent / "secret"
    secret.write_bytes(b"x")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["../secret"] = {"sha256": "0" * 64, "bytes": 1}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="only list files of its bundle"):
        open_bundle(folder, 1)


def test_no_bundle(tmp_path: Path) -> None:
    """A folder without a manifest is no bundle."""
    with pytest.raises(BundleError, match=r"manifest\.json: no such bundle"):
        open_bundle(tmp_path, 1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": 2}, "format"),
        ({"labels": "lamp"}, "labels"),
        ({"pickle": "model.pkl"}, "pickle"),
        ({"tiers": []}, "tiers"),
        ({"tiers": [{"family": "oracle"}]}, "family"),
    ],
)
def test_wrong_manifest(folder: Path, changes: dict[str, object], said: str) -> None:
    """A manifest of another shape is refused, and the key is named."""
    seal(folder, **changes)
    with pytest.raises(BundleError, match=said):
        open_bundle(folder, 1)


@pytest.mark.parametrize("stride", [14, 15, 16, 100])
def test_windows_must_move_on(folder: Path, stride: int) -> None:
    """Windows that share all their tokens would never reach the end of a text."""
    [tier] = json.loads((folder / "manifest.json").read_text())["tiers"]
    seal(folder, tiers=[{**tier, "max_tokens": 16, "stride": stride}])
    with pytest.raises(BundleError, match="a window must hold more than it shares"):
        open_bundle(folder, 1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels": ["a", "b"]}, "needs 2 label_logits, the model gives 3"),
        ({"labels": ["a"] * 4}, "needs 4 label_logits, the model gives 3"),
        ({"entities": ["a"]}, "needs 3 tag_logits, the model gives 5"),
    ],
)
def test_names_must_fit_the_graph(
    folder: Path, changes: dict[str, object], said: str
) -> None:
    """A name too many or too few is refused: every answer would be misnamed."""
    seal(folder, **changes)
    with pytest.raises(BundleError, match=said):
        open_bundle(folder, 1)


@pytest.mark.parametrize("name", ["encoder.onnx", "tokenizer.json", "probes.jsonl"])
@pytest.mark.parametrize("content", [b"\x00\xff rubbish", b"{}"])
def test_unreadable_file(folder: Path, name: str, content: bytes) -> None:
    """What a library cannot open is the operator's error, not a crash."""
    (folder / name).write_bytes(content)
    seal(folder)
    with pytest.raises(BundleError, match=str(folder)):
        open_bundle(folder, 1)


@pytest.mark.parametrize(
    ("probe", "said"),
    [
        ({"label": "chat"}, "lamp_on, expected chat"),
        ({"score": 0.9}, "was 0.9"),
        ({"spans": []}, "entities .* differ"),
    ],
)
def test_probe_that_fails(folder: Path, probe: dict[str, object], said: str) -> None:
    """A changed label, entity or score is found on the machine where it changed."""
    path = folder / "probes.jsonl"
    path.write_text(json.dumps(json.loads(path.read_text()) | probe))
    seal(folder)
    [failure] = failed_probes(open_bundle(folder, 1))
    assert re.search(said, failure)


def test_probe_score_may_move_a_little(folder: Path) -> None:
    """Another processor rounds otherwise: scores may differ by 0.05."""
    path = folder / "probes.jsonl"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"score": 0.95}))
    seal(folder)
    assert failed_probes(open_bundle(folder, 1)) == []
