"""Bundles: what is opened is exactly what was made."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from agent.core.errors import BundleError
from agent.core.types import Prediction, RawPrediction, Tier
from agent.inference.bundle import (
    CALIBRATION,
    Bundle,
    Stage,
    failed_probes,
    open_bundle,
    read_calibration,
)
from agent.inference.calibration import Logistic, TierCalibration
from agent.inference.manifest import read_manifest
from harness.tiny import seal, write_bundle, write_calibration

NEEDED = (
    "encoder.onnx",
    "tokenizer.json",
    "linear.npz",
    "calibration.json",
    "probes.jsonl",
)


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


@pytest.mark.parametrize("name", NEEDED)
def test_needed_file_must_be_listed(folder: Path, name: str) -> None:
    """What a bundle is made of is opened only if its hash is known."""
    write_bundle(folder, cascade=True)
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
        ({"format": 1}, "format"),
        ({"format": 3}, "format"),
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


@pytest.mark.parametrize("name", NEEDED)
@pytest.mark.parametrize("content", [b"\x00\xff rubbish", b"{}"])
def test_unreadable_file(folder: Path, name: str, content: bytes) -> None:
    """What a library cannot open is the operator's error, not a crash."""
    write_bundle(folder, cascade=True)
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


def test_probe_of_no_tier(folder: Path) -> None:
    """A probe for a tier that is not there is refused, before anything is asked."""
    path = folder / "probes.jsonl"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tier": 1}))
    seal(folder)
    with pytest.raises(BundleError, match="a tier that is not there"):
        open_bundle(folder, 1)


def test_every_tier_has_its_probes(folder: Path) -> None:
    """A tier that answers otherwise is found even if a later one would be right."""
    write_bundle(folder, cascade=True)
    path = folder / "probes.jsonl"
    probe = {"text": "turn on", "tier": 0, "label": "chat", "score": 0.99, "spans": []}
    path.write_text(path.read_text() + json.dumps(probe))
    seal(folder)
    assert failed_probes(open_bundle(folder, 1)) == [
        "'turn on': lamp_on, expected chat"
    ]


# -- calibrations


def test_calibration_fits_what_it_was_made_with(bundle: Bundle) -> None:
    """With the fingerprint of this model on this runtime, scores may be trusted."""
    assert bundle.calibrated
    assert bundle.calibration.fingerprint == bundle.manifest.fingerprint()


def test_calibration_of_something_else(folder: Path) -> None:
    """With another fingerprint the bundle opens, and says so."""
    write_calibration(folder, fingerprint="0" * 64)
    assert not open_bundle(folder, 1).calibrated


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": ["lamp_on", "lamp_off", "chat"]},
        {"entities": ["time", "place"]},
        {"patterns": ["EMAIL_ADDRESS"]},
    ],
)
def test_other_names_are_something_else(
    folder: Path, changes: dict[str, object]
) -> None:
    """A bundle whose names were changed has no calibration until it is made anew."""
    seal(folder, **changes)
    assert not open_bundle(folder, 1).calibrated


def test_name_and_card_are_no_matter(folder: Path) -> None:
    """What does not answer is not in the fingerprint."""
    (folder / "README.md").write_text("A card.")
    seal(folder, name="other", version="2.0.0", scores={"accuracy": 1.0})
    assert open_bundle(folder, 1).calibrated


def test_calibration_for_another_number_of_tiers(folder: Path) -> None:
    """A calibration that leaves a tier out, or knows one more, is refused."""
    write_calibration(folder, tiers=[{}, {}])
    with pytest.raises(
        BundleError, match=r"other tiers or other evidence than tiny@1\.0\.0"
    ):
        open_bundle(folder, 1)


def test_calibration_from_elsewhere(folder: Path, tmp_path: Path) -> None:
    """A file beside the bundle takes the place of its own calibration."""
    path = write_calibration(folder, tmp_path / "own.json", data="our own")
    assert open_bundle(folder, 1).calibration.data == "made up"
    assert open_bundle(folder, 1, path).calibration.data == "our own"
    with pytest.raises(BundleError, match=r"none\.json: .*No such file"):
        open_bundle(folder, 1, tmp_path / "none.json")


def test_probes_do_not_depend_on_whose_calibration_it_is(
    folder: Path, tmp_path: Path
) -> None:
    """Probes were answered with the bundle's own calibration, and are asked with it."""
    written = read_calibration(folder / CALIBRATION)
    [own] = written.model_dump(mode="json")["tiers"]
    own["label"] = {"weights": [0.1, 0.0, 0.0], "bias": 0.0}
    path = write_calibration(folder, tmp_path / "own.json", tiers=[own])
    opened = open_bundle(folder, 1, path)
    [found] = opened.predict(["turn on the lamp in the kitchen"])
    assert found.score == pytest.approx(0.63, abs=0.01)  # 0.995 in the probe
    assert failed_probes(opened) == []


# -- the cascade


@dataclass
class Parrot:
    """A tier that repeats the text as its label, and remembers what it was asked.

    The digit in front is how sure it is.
    """

    asked: list[str] = field(default_factory=list)

    def predict(
        self, texts: Sequence[str], earlier: Sequence[RawPrediction]
    ) -> list[RawPrediction]:
        """Return a guess about each text."""
        assert [guess.label for guess in earlier] in ([], list(texts))
        self.asked += texts
        return [RawPrediction(text, (), (float(text[0]),), (4.0,)) for text in texts]


def chain(bundle: Bundle, *models: Parrot, floor: float = 0.0) -> Bundle:
    """Return a bundle of these tiers; a 5 or more is likelier right than wrong."""
    tiers = [
        TierCalibration(
            label=Logistic(weights=(1.0, *[0.0] * (number > 0)), bias=-4.5),
            label_floor=floor,
        )
        for number in range(len(models))
    ]
    stages = tuple(
        Stage(by, model, tier)
        for by, model, tier in zip(Tier, models, tiers, strict=False)
    )
    return replace(bundle, stages=stages)


def likely(prediction: Prediction) -> bool:
    """Tell whether a label is rather right than wrong."""
    return (prediction.score or 0) > 0.5


def test_cascade_stops_at_the_first_sure_tier(bundle: Bundle) -> None:
    """What an early tier is sure of costs no later one; what none is, gets the last."""
    first, second, third = Parrot(), Parrot(), Parrot()
    asked = ["9 a", "1 b", "5 c", "4 d"]
    found = chain(bundle, first, second, third).predict(asked, likely)
    assert [p.by for p in found] == [
        Tier.LINEAR,
        Tier.DECODER,
        Tier.LINEAR,
        Tier.DECODER,
    ]
    assert [p.label for p in found] == asked
    assert first.asked == asked
    assert second.asked == third.asked == ["1 b", "4 d"]


def test_floors_are_respected(bundle: Bundle) -> None:
    """Below its floor an early tier leaves the answer to the next, whoever asks."""
    first, second = Parrot(), Parrot()
    found = chain(bundle, first, second, floor=0.9).predict(["9", "5", "6", "8"], any_)
    linear, encoder = Tier.LINEAR, Tier.ENCODER
    assert [p.by for p in found] == [linear, encoder, encoder, linear]
    assert second.asked == ["5", "6"]


def any_(_: Prediction) -> bool:
    """Take any prediction."""
    return True


def test_the_last_tier_answers_for_all_that_remains(bundle: Bundle) -> None:
    """Unless somebody says what is enough, the last tier is asked about everything."""
    first, last = Parrot(), Parrot()
    asked = ["9", "0"]
    assert [p.by for p in chain(bundle, first, last).predict(asked)] == [
        Tier.ENCODER,
        Tier.ENCODER,
    ]
    assert first.asked == last.asked == asked


def test_agreement_reaches_the_next_tier(bundle: Bundle) -> None:
    """A later tier's guess has what the earlier one thinks of it as more evidence."""
    made = chain(bundle, Parrot(), Parrot())
    [_, second] = made.guesses("3 x")
    assert second.label_evidence == pytest.approx((3.0, 3.0486), abs=1e-4)
    weighed = replace(
        made.stages[1],
        calibration=TierCalibration(label=Logistic(weights=(0.0, 1.0), bias=0.0)),
    )
    made = replace(made, stages=(made.stages[0], weighed))
    [found] = made.predict(["3 x"])
    assert found.score == pytest.approx(0.9547, abs=1e-4)


def test_real_cascade(cascade: Bundle) -> None:
    """In a mixed batch each text has its own answer, from the tier that may give it."""
    expected = [
        ("turn on in the kitchen", Tier.ENCODER, "lamp_on", ["kitchen"]),
        ("turn off", Tier.LINEAR, "lamp_off", []),
        ("bed room noon", Tier.ENCODER, "lamp_off", ["bed room", "noon"]),
        ("hello", Tier.LINEAR, "chat", []),
        ("zebra", Tier.ENCODER, "lamp_off", []),
        ("turn on", Tier.LINEAR, "lamp_on", []),
    ]
    found = cascade.predict([text for text, *_ in expected], any_)
    for (_, by, label, entities), prediction in zip(expected, found, strict=True):
        assert prediction.by is by
        assert prediction.label == label
        assert [e.text for e in prediction.entities] == entities


def test_later_tier_weighs_the_earlier_one(folder: Path) -> None:
    """Each text's answer weighs what the tier before said of that very text."""
    plain = open_bundle(write_bundle(folder, cascade=True), 1)
    weighing = open_bundle(write_bundle(folder, cascade=True, prior_weight=0.1), 1)
    texts = ["turn on", "hello turn off", "the lamp", "turn off"]
    found = weighing.predict(texts)
    assert [p.label for p in found] == [p.label for p in plain.predict(texts)]
    for text, one, other in zip(texts, found, plain.predict(texts), strict=True):
        sure = text != "the lamp"  # of which nobody knows anything
        assert ((one.score or 0) > (other.score or 0)) == sure
        assert weighing.predict([text]) == [one]
        linear, encoder = weighing.guesses(text)
        assert linear.opinion
        assert encoder.label == one.label


def test_weighing_is_part_of_what_answers(folder: Path) -> None:
    """A calibration is for the weight it was made with."""
    marks = {
        read_manifest(write_bundle(folder, prior_weight=weight)).fingerprint()
        for weight in (0.0, 0.1, 0.3)
    }
    assert len(marks) == 3


def test_guesses_are_what_predictions_are_made_of(cascade: Bundle) -> None:
    """What calibration is fitted to is what is judged at work, tier by tier."""
    text = "turn on in the kitchen"
    linear, encoder = cascade.guesses(text)
    first, last = cascade.stages
    assert cascade.predict([text]) == [last.calibration.calibrated(last.by, encoder)]
    judged = first.calibration.calibrated(first.by, linear)
    seen: list[Prediction] = []
    cascade.predict([text], lambda p: bool(seen.append(p)))
    assert seen == []  # below its floor for entities nobody is asked
    assert (judged.entities_score or 0) < first.calibration.entities_floor


# -- checked patterns

MAIL = "mail kitchen@bed.org in the kitchen"


def test_patterns_join_the_model(folder: Path) -> None:
    """A checked entity takes the place of guesses that overlap it; others stay."""
    opened = open_bundle(write_bundle(folder, patterns=("EMAIL_ADDRESS",)), 1)
    [found] = opened.predict([MAIL])
    places = [(e.label, e.text, e.start, e.end) for e in found.entities]
    assert places == [
        ("EMAIL_ADDRESS", "kitchen@bed.org", 5, 20),
        ("place", "kitchen", 28, 35),
    ]


def test_no_patterns_unless_asked(bundle: Bundle) -> None:
    """A bundle that names no patterns has only what its model finds."""
    [found] = bundle.predict([MAIL])
    assert {e.label for e in found.entities} == {"place"}


def test_patterns_are_for_the_last_tier(folder: Path) -> None:
    """Calibration sees patterns exactly where the answer has them."""
    made = write_bundle(folder, cascade=True, patterns=("EMAIL_ADDRESS",))
    linear, encoder = open_bundle(made, 1).guesses(MAIL)
    assert linear.entities == ()
    assert [e.label for e in encoder.entities] == ["EMAIL_ADDRESS", "place"]
