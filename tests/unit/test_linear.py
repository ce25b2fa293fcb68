"""The linear tier: the same rows for ever, for any text, and weights that fit."""

from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import BundleError
from agent.core.types import Tier
from agent.inference.linear import LONGEST_WORD, Linear, LinearSpec, features, top_two
from harness.tiny import BITS, ENTITIES, LABELS, write_linear


def spec(**changes: object) -> LinearSpec:
    """Return the spec of the tiny linear tier."""
    ordinary = {"family": "linear", "weights": "linear.npz", "bits": BITS}
    return LinearSpec.model_validate(ordinary | changes)


def opened(
    folder: Path,
    labels: list[str] = LABELS,
    entities: list[str] = ENTITIES,
    *,
    outside: bool = False,
) -> Linear:
    """Return the tiny linear tier."""
    write_linear(folder, labels, entities, outside=outside)
    return spec(outside=outside).load(folder, labels, entities, 1)


def test_features_are_stable() -> None:
    """The rows of a text never change: weights are trained for them."""
    assert sorted(features("On!", 20)) == [
        11263,
        19274,
        68444,
        95563,
        96309,
        241876,
        318042,
        334300,
        387743,
        403912,
        553975,
        603574,
        606344,
        786387,
        1038541,
    ]
    assert sorted(features("", 20)) == [68444, 269019]


def test_what_a_feature_is() -> None:
    """Words, pairs of words with both ends, and n-grams seeded by their size."""
    words = [crc32(feature) for feature in (b"on", b"$", b"^ on", b"on $")]
    ngrams = [crc32(n, 2) for n in (b"<o", b"on", b"n>")]
    ngrams += [crc32(n, 3) for n in (b"<on", b"on>")]
    ngrams += [crc32(b"<on>", 4)]
    assert set(features("on", 20)) == {n % 2**20 for n in (*words, *ngrams)}


@given(st.text(max_size=100), st.integers(4, 20))
def test_any_text_has_features(text: str, bits: int) -> None:
    """Whatever the characters, there is a row, each once and inside the table."""
    readable = text.encode("utf-8", "ignore").decode()
    rows = features(readable, bits)
    assert rows
    assert len(rows) == len(set(rows))
    assert all(0 <= row < 2**bits for row in rows)


@given(st.text(max_size=100).filter(str.isascii))
def test_case_does_not_matter(text: str) -> None:
    """What is shouted means the same."""
    assert set(features(text.upper(), 20)) == set(features(text.lower(), 20))


def test_order_of_words_matters() -> None:
    """Word pairs tell "lamp on" from "on lamp"."""
    assert set(features("lamp on", 20)) != set(features("on lamp", 20))


@pytest.mark.parametrize("letter", ["x", "ß", "日", "\N{FOX FACE}", "İ", "_"])
def test_hostile_word(letter: str) -> None:
    """Ten thousand characters without a space cost no more than a long word."""
    found = features(letter * 10_000, 20)
    assert len(found) <= 4 * (4 * LONGEST_WORD + 2) + 4
    if letter.isalpha():
        assert set(found) == set(features(letter * (LONGEST_WORD + 5), 20))


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("turn on the lamp", "lamp_on"),
        ("TURN OFF", "lamp_off"),
        ("hello", "chat"),
        ("hello " * 2000, "chat"),
    ],
)
def test_labels(tmp_path: Path, text: str, label: str) -> None:
    """The label is that of the words the weights know, and it is sure."""
    [found] = opened(tmp_path).predict([text])
    assert found.label == label
    odds, margin = found.label_evidence
    assert odds > 3
    assert margin > odds
    assert found.entities == ()
    assert found.outside is None


def test_empty_text(tmp_path: Path) -> None:
    """A text without words is answered by the bias, and not at all surely."""
    [found] = opened(tmp_path).predict([""])
    assert found.label in LABELS
    assert found.label_evidence == pytest.approx((np.log(0.5), 0.0), abs=1e-6)


def test_entities_are_for_a_later_tier(tmp_path: Path) -> None:
    """It finds no entity, but its evidence says whether there is one to find."""
    model = opened(tmp_path)
    nothing, something = model.predict(["turn on the lamp", "turn on in the kitchen"])
    assert nothing.entities == something.entities == ()
    assert nothing.entities_evidence > (2.0,)
    assert something.entities_evidence < (-2.0,)


def test_outside(tmp_path: Path) -> None:
    """A column of its own says how likely a text is none of the labels'."""
    ours, strange = opened(tmp_path, outside=True).predict(["turn on", "zebra"])
    assert (ours.outside or 0) < 0.01
    assert (strange.outside or 0) > 0.99
    assert strange.label in LABELS
    assert strange.label_evidence[0] < -3


def test_opinion(tmp_path: Path) -> None:
    """The log-probability of each label is told, beside what is outside of them."""
    [found] = opened(tmp_path).predict(["turn on"])
    shares = np.exp(found.opinion)
    assert LABELS[int(shares.argmax())] == found.label
    assert shares.sum() == pytest.approx(1)
    [strange] = opened(tmp_path, outside=True).predict(["zebra"])
    assert np.exp(strange.opinion).sum() == pytest.approx(1 - (strange.outside or 0))
    [silent] = opened(tmp_path, labels=[]).predict(["turn on"])
    assert silent.opinion == ()


def test_one_task(tmp_path: Path) -> None:
    """Without labels there is no opinion on them, without entities none on those."""
    [found] = opened(tmp_path, labels=[]).predict(["turn on in the kitchen"])
    assert (found.label, found.label_evidence, found.outside) == (None, (), None)
    assert found.entities_evidence < (-2.0,)
    [found] = opened(tmp_path, entities=[]).predict(["turn on in the kitchen"])
    assert (found.label, found.entities_evidence) == ("lamp_on", ())


def test_much_to_extract_says_nothing_of_labels(tmp_path: Path) -> None:
    """However sure the tier is that there are entities, labels keep their numbers."""
    write_linear(tmp_path, LABELS, ENTITIES, outside=False)
    with np.load(tmp_path / "linear.npz") as arrays:
        made = dict(arrays)
    made["bias"][-1] = 5000.0
    np.savez(tmp_path / "linear.npz", **made)
    [found] = spec().load(tmp_path, LABELS, ENTITIES, 1).predict(["turn on the lamp"])
    [expected] = opened(tmp_path).predict(["turn on the lamp"])
    assert found.label_evidence == pytest.approx(expected.label_evidence)


def test_who_answers() -> None:
    """Results name the tier; its one file is in the fingerprint."""
    assert spec().by is Tier.LINEAR
    assert spec().files == ("linear.npz",)


def arrays(**changes: np.ndarray) -> dict[str, np.ndarray]:
    """Return arrays for the tiny labels and entities, but for the changes."""
    ordinary = {
        "weights": np.zeros((1 << BITS, 4), np.int8),
        "scale": np.ones(4, np.float32),
        "bias": np.ones(4, np.float32),
    }
    return ordinary | changes


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (
            arrays(weights=np.zeros((1 << BITS, 5), np.int8)),
            r"needs int8 4096 x 4, the file has int8 \(4096, 5\)",
        ),
        (arrays(weights=np.zeros((1024, 4), np.int8)), "1024"),
        (arrays(weights=np.zeros((1 << BITS, 4), np.float32)), "float32"),
        (arrays(scale=np.ones(3, np.float32)), "scale or bias does not fit"),
        (arrays(bias=np.ones((4, 1), np.float32)), "scale or bias does not fit"),
    ],
)
def test_weights_must_fit(
    tmp_path: Path, made: dict[str, np.ndarray], said: str
) -> None:
    """Weights for other labels or another table are refused, not misread."""
    np.savez(tmp_path / "linear.npz", **made)
    with pytest.raises(BundleError, match=said):
        spec().load(tmp_path, LABELS, ENTITIES, 1)


def test_pickled_weights(tmp_path: Path) -> None:
    """Arrays of objects, which numpy would unpickle, are refused."""
    strange = np.full((1 << BITS, 4), None, object)
    np.savez(tmp_path / "linear.npz", **arrays(weights=strange))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        spec().load(tmp_path, LABELS, ENTITIES, 1)


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ([0.2, 0.5, 0.3], (0.5, 0.3)),
        ([0.4, 0.4, 0.2], (0.4, 0.4)),
        ([0.9], (0.9, 0.0)),
    ],
)
def test_top_two(shares: list[float], expected: tuple[float, float]) -> None:
    """The two largest shares, equal ones too; one label has no rival."""
    assert top_two(np.array(shares, np.float32)) == pytest.approx(expected)
