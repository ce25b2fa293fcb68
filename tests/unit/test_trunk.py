"""Trunks: one encoder for several bundles, held once, and exactly the one they mean."""

import gc
import json
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent.core.errors import BundleError
from agent.inference import onnx
from agent.inference.bundle import Bundle, failed_probes, open_bundle
from agent.inference.encoder import Encoder
from agent.inference.manifest import read_manifest, read_trunk
from agent.inference.onnx import Heads, Trunk
from harness.tiny import (
    heads,
    seal,
    tokenizer,
    write_bundle,
    write_calibration,
    write_trunk,
)

TEXTS = ["turn on the lamp in the kitchen", "hello", "bed room noon " * 9]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Return a folder with a trunk and two bundles that stand on it."""
    write_trunk(tmp_path / "english")
    for name in ("one", "two"):
        write_bundle(tmp_path / name, trunk="english")
    return tmp_path


def trunk_of(bundle: Bundle) -> Trunk:
    """Return what a bundle stands on."""
    model = bundle.stages[-1].model
    assert isinstance(model, Encoder)
    assert isinstance(model._session, Heads)
    return model._session.trunk


def test_answers_are_those_of_a_whole_encoder(models: Path, bundle: Bundle) -> None:
    """Trunk and heads say what one graph with both would say, in any company."""
    standing = open_bundle(models / "one", 1)
    assert standing.calibrated
    assert failed_probes(standing) == []
    assert standing.predict(TEXTS) == bundle.predict(TEXTS)


def test_trunk_is_held_once(models: Path) -> None:
    """Bundles that stand on one trunk share its session and its tokenizer."""
    one, two = (open_bundle(models / name, 1) for name in ("one", "two"))
    assert trunk_of(one).session is trunk_of(two).session
    assert trunk_of(one).tokenizer(16, 4) is trunk_of(two).tokenizer(16, 4)
    assert trunk_of(one).tokenizer(16, 4) is not trunk_of(one).tokenizer(12, 4)


def test_threads_that_open_share_it_too(models: Path) -> None:
    """Whoever opens bundles at the same time gets the same trunk."""
    names = ["one", "two"] * 8
    with ThreadPoolExecutor(8) as pool:
        opened = list(pool.map(lambda name: open_bundle(models / name, 1), names))
    assert len({id(trunk_of(bundle)) for bundle in opened}) == 1


def test_another_folder_is_another_trunk(models: Path) -> None:
    """A second trunk is a second session; so is one for another number of threads."""
    write_trunk(models / "french")
    write_bundle(models / "three", trunk="french")
    opened = [open_bundle(models / name, 1) for name in ("one", "three")]
    opened.append(open_bundle(models / "one", 2))
    assert len({id(trunk_of(bundle)) for bundle in opened}) == 3


def test_trunk_goes_with_the_last_bundle(models: Path) -> None:
    """What nobody stands on any more is not kept in memory."""
    before = len(onnx._trunks)
    opened = open_bundle(models / "one", 1)
    assert len(onnx._trunks) == before + 1
    del opened
    gc.collect()
    assert len(onnx._trunks) == before


def test_replaced_trunk_is_opened_anew(models: Path) -> None:
    """While the old one is still in use, a bundle for the new files gets those."""
    old = open_bundle(models / "one", 1)
    shutil.copytree(models / "english", models / "new")
    shutil.rmtree(models / "english")
    (models / "new").rename(models / "english")
    os.utime(models / "english" / "encoder.onnx")
    assert trunk_of(open_bundle(models / "one", 1)) is not trunk_of(old)


# -- exactly the trunk that was meant


@pytest.mark.parametrize("name", ["encoder.onnx", "tokenizer.json", "README.md"])
def test_damaged_trunk(models: Path, name: str) -> None:
    """A file of the trunk that differs in one bit is refused by name."""
    path = models / "english" / name
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(BundleError, match=f"english/{name}: sha256 is .*damaged"):
        open_bundle(models / "one", 1)


def test_trunk_of_another_version(models: Path) -> None:
    """A sound trunk that is not the bundle's own is refused, and both are named."""
    words = json.loads((models / "english" / "tokenizer.json").read_text())
    words["model"]["max_input_chars_per_word"] = 7
    (models / "english" / "tokenizer.json").write_text(json.dumps(words))
    seal(models / "english", version="2.0.0")
    said = r"one@1\.0\.0 was not made for the trunk english@2\.0\.0 .*tokenizer\.json"
    with pytest.raises(BundleError, match=said) as caught:
        open_bundle(models / "one", 1)
    assert "\n" not in str(caught.value)


def test_card_of_the_trunk_is_no_matter(models: Path) -> None:
    """A trunk whose card was reworded is still the same to its bundles."""
    (models / "english" / "README.md").write_text("Now in better words.")
    seal(models / "english")
    assert open_bundle(models / "one", 1).calibrated


def test_missing_trunk(models: Path) -> None:
    """A bundle without its trunk says in one line what it stands on."""
    shutil.rmtree(models / "english")
    said = r"one@1\.0\.0 stands on a trunk: .*english/manifest\.json: no such trunk"
    with pytest.raises(BundleError, match=said) as caught:
        open_bundle(models / "one", 1)
    assert "\n" not in str(caught.value)


def test_unlisted_file_in_the_trunk(models: Path) -> None:
    """A file that the trunk does not list is refused: its graph could read it."""
    (models / "english" / "encoder.onnx.data").write_bytes(b"weights of a stranger")
    with pytest.raises(BundleError, match=r"encoder\.onnx\.data: not listed"):
        open_bundle(models / "one", 1)


def test_bundle_must_know_all_of_the_trunk(models: Path) -> None:
    """What the trunk lists and the bundle does not is something else that answers."""
    (models / "english" / "encoder.onnx.data").write_bytes(b"more weights")
    seal(models / "english")
    with pytest.raises(
        BundleError, match=r"not made for .*encoder\.onnx\.data differs"
    ):
        open_bundle(models / "one", 1)


@pytest.mark.parametrize(
    "name",
    [
        "../../english/encoder.onnx",
        "../english/../one/heads.onnx",
        "../english/..",
        "../encoder.onnx",
        "../",
        "..",
        "/etc/passwd",
        "../english/sub/encoder.onnx",
        "../.hidden/encoder.onnx",
    ],
)
def test_only_a_folder_beside_it(models: Path, name: str) -> None:
    """A manifest cannot reach further than a trunk in a folder beside its own."""
    path = models / "one" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"][name] = {"sha256": "0" * 64, "bytes": 1}
    path.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="only list files of its bundle"):
        open_bundle(models / "one", 1)


@pytest.mark.parametrize(
    "trunk", ["encoder.onnx", "../encoder.onnx", "../../x/encoder.onnx", "../x/y/z", ""]
)
def test_trunk_lies_beside_it(models: Path, trunk: str) -> None:
    """A tier can stand on nothing but a file in a folder beside the bundle's."""
    path = models / "one" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["tiers"][0]["trunk"] = trunk
    path.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="trunk"):
        open_bundle(models / "one", 1)


def test_trunk_cannot_reach_out(models: Path) -> None:
    """Nor can the trunk's manifest, by a link or by a name."""
    (models / "secret").write_bytes(b"x")
    (models / "english" / "link").symlink_to(models / "secret")
    seal(models / "english")
    seal(models / "one")
    with pytest.raises(BundleError, match=r"english/link: .*only list files"):
        open_bundle(models / "one", 1)


def test_another_bundle_is_no_trunk(models: Path) -> None:
    """A bundle with an encoder of its own cannot be stood on."""
    write_bundle(models / "whole")
    path = models / "one" / "manifest.json"
    path.write_text(path.read_text().replace("../english/", "../whole/"))
    with pytest.raises(BundleError, match=r"whole/manifest\.json: .*trunk"):
        open_bundle(models / "one", 1)


def test_trunk_is_no_bundle(models: Path) -> None:
    """A pipeline cannot be asked of a trunk; a trunk can be read as what it is."""
    with pytest.raises(BundleError, match=r"english/manifest\.json"):
        open_bundle(models / "english", 1)
    assert read_trunk(models / "english").id == "english@1.0.0"


def test_needed_trunk_must_be_listed(models: Path) -> None:
    """A trunk whose hashes the bundle does not know is not opened."""
    path = models / "one" / "manifest.json"
    manifest = json.loads(path.read_text())
    for name in list(manifest["files"]):
        if name.startswith("../"):
            del manifest["files"][name]
    path.write_text(json.dumps(manifest))
    said = r"does not list \.\./english/encoder\.onnx, \.\./english/tokenizer\.json"
    with pytest.raises(BundleError, match=said):
        open_bundle(models / "one", 1)


def test_heads_must_fit_the_trunk(models: Path) -> None:
    """Heads for a trunk of another width are refused before anything is asked."""
    (models / "one" / "heads.onnx").write_bytes(heads(width=9))
    write_calibration(models / "one")
    with pytest.raises(BundleError, match="take 9 numbers a token, the trunk gives 8"):
        open_bundle(models / "one", 1)


def test_fingerprint_covers_the_trunk(models: Path) -> None:
    """Another encoder or tokenizer below makes another fingerprint; a card does not."""
    own = read_manifest(models / "one").fingerprint()
    assert read_manifest(models / "two").fingerprint() == own
    (models / "english" / "README.md").write_text("Other words.")
    seal(models / "english", version="1.0.1")
    seal(models / "one")
    assert read_manifest(models / "one").fingerprint() == own
    for name in ("encoder.onnx", "tokenizer.json"):
        path = models / "english" / name
        path.write_bytes(path.read_bytes() + b" ")
        seal(models / "one")
        assert read_manifest(models / "one").fingerprint() != own
        path.write_bytes(path.read_bytes()[:-1])
    tokenizer().save(str(models / "english" / "tokenizer.json"))
    seal(models / "one")
    assert read_manifest(models / "one").fingerprint() == own


def test_links_to_bundle_and_trunk(models: Path, tmp_path: Path) -> None:
    """A folder of links to bundles elsewhere finds the trunks where they really lie."""
    links = tmp_path / "links"
    links.mkdir()
    (links / "one").symlink_to(models / "one")
    assert open_bundle(links / "one", 1).id == "one@1.0.0"
    assert re.fullmatch(
        "[0-9a-f]{64}", open_bundle(links / "one", 1).calibration.fingerprint
    )
