"""The encoder: any text of any length, in any company, read once from end to end."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import BundleError
from agent.core.types import (
    Guarantee,
    Prediction,
    RawPrediction,
    Reason,
    Tier,
    Unresolved,
)
from agent.inference.bundle import Bundle, open_bundle
from agent.inference.decide import Policy, decide
from agent.inference.encoder import Encoder, EncoderSpec, Floats
from harness.tiny import ENTITIES, LABELS, VOCABULARY, seal, tokenizer, write_bundle

CAFE = "cafe\u0301"  # an accent of its own
# A piece of text and the entity that the tiny model must see in it.
PIECES: list[tuple[str, str | None]] = [
    ("turn", None),
    ("the", None),
    ("zebra", None),  # unknown to the tokenizer
    ("\N{FOX FACE}", None),
    ("\N{WOMAN}\N{ZERO WIDTH JOINER}\N{COOKING}", None),
    (",", None),
    ("kitchen", "place"),
    ("KITCHEN", "place"),
    ("kitchenette", "place"),  # two sub-tokens
    ("kitchen" + "s" * 20, "place"),  # longer than a window
    ("bed room", "place"),  # two words
    ("日本", "place"),  # two words without a space
    (CAFE, "place"),
    ("CAFÉ", "place"),
    ("noon", "time"),
]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=60)


def spec(max_tokens: int = 16, stride: int = 4) -> EncoderSpec:
    """Return the spec of an encoder with these windows."""
    return EncoderSpec(
        family="encoder",
        model="encoder.onnx",
        tokenizer="tokenizer.json",
        max_tokens=max_tokens,
        stride=stride,
    )


def places(prediction: RawPrediction | Prediction) -> list[tuple[str, int, int, str]]:
    """Return label, offsets and text of each entity."""
    return [(e.label, e.start, e.end, e.text) for e in prediction.entities]


@pytest.mark.parametrize(
    ("text", "label", "entities"),
    [
        ("turn on the lamp", "lamp_on", []),
        ("turn off", "lamp_off", []),
        ("hello", "chat", []),
        ("on in the kitchen", "lamp_on", [("place", 10, 17, "kitchen")]),
        ("bed room noon", None, [("place", 0, 8, "bed room"), ("time", 9, 13, "noon")]),
        ("kitchenette", None, [("place", 0, 11, "kitchenette")]),
        ("日本 noon", None, [("place", 0, 2, "日本"), ("time", 3, 7, "noon")]),
        ("\N{FOX FACE} kitchen", None, [("place", 2, 9, "kitchen")]),
        (f"{CAFE} noon", None, [("place", 0, 5, CAFE), ("time", 6, 10, "noon")]),
        ("   kitchen\t\n", None, [("place", 3, 10, "kitchen")]),
        ("", None, []),
        ("\u200b", None, []),  # nothing a tokenizer keeps
    ],
)
def test_one_text(
    bundle: Bundle,
    text: str,
    label: str | None,
    entities: list[tuple[str, int, int, str]],
) -> None:
    """Labels and entities come out of one pass, offsets in characters of the text."""
    [prediction] = bundle.predict([text])
    assert prediction.by is Tier.ENCODER
    assert label is None or prediction.label == label
    assert prediction.score is not None
    assert 0 < prediction.score <= 1
    assert places(prediction) == entities


@given(pieces=TEXTS)
def test_long_texts_are_read_whole(
    bundle: Bundle, pieces: list[tuple[str, str | None]]
) -> None:
    """Every word is judged once, at its first sub-token, wherever windows cut."""
    text = ""
    expected = []
    for piece, entity in pieces:
        if entity:
            expected.append((entity, len(text), len(text) + len(piece), piece))
        text += piece + " "
    [prediction] = bundle.predict([text])
    assert places(prediction) == expected


def test_word_cut_by_windows_that_share_nothing(tmp_path: Path) -> None:
    """A word is judged by its first sub-token even if the rest is in other windows."""
    one = open_bundle(write_bundle(tmp_path / "one", stride=0), 1)
    word = "kitchen" + "s" * 20
    [prediction] = one.predict(["the " * 13 + word])
    assert places(prediction) == [("place", 52, 52 + len(word), word)]


@given(
    texts=st.lists(
        st.lists(st.sampled_from([piece for piece, _ in PIECES]), max_size=40),
        max_size=9,
    )
)
def test_batch_equals_one_by_one(bundle: Bundle, texts: list[list[str]]) -> None:
    """The company a text is predicted in does not change its prediction, by no bit."""
    joined = [" ".join(text) for text in texts]
    alone = [bundle.predict([text])[0] for text in joined]
    assert bundle.predict(joined) == alone


def test_label_of_a_long_text_is_the_mean_over_windows(bundle: Bundle) -> None:
    """Each window has one vote, as strong as it is sure."""
    [prediction] = bundle.predict(["on " + "the " * 23])  # 14 words, then the last 14
    logits = np.array([[0.0, 6.0, 0.0], [0.0, 0.0, 0.0]])
    odds = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert prediction.label == "lamp_on"
    assert prediction.score == pytest.approx(odds.mean(axis=0)[1])


@given(st.text(max_size=200))
def test_any_text_has_a_prediction(bundle: Bundle, text: str) -> None:
    """Whatever the characters, entities lie in the text, in order, without overlap."""
    [prediction] = bundle.predict([text.encode("utf-8", "ignore").decode()])
    before = 0
    for entity in prediction.entities:
        assert before <= entity.start < entity.end
        assert text.encode("utf-8", "ignore").decode()[entity.start : entity.end] == (
            entity.text
        )
        before = entity.end


# -- windows, with a session that says what it sees


@dataclass(frozen=True)
class Output:
    """An output of a session, as onnxruntime tells it."""

    name: str


class Surveyor:
    """A session that answers `B-place`, the surer the more context a token has."""

    def __init__(self) -> None:
        """Note the size of each run."""
        self.runs: list[tuple[int, int]] = []

    def get_outputs(self) -> list[Output]:
        """Return the names of the outputs."""
        return [Output("tag_logits")]

    def run(self, _names: Sequence[str], feed: dict[str, Floats]) -> list[Floats]:
        """Return logits that tell how far a token is from the edge of its window."""
        lengths = feed["attention_mask"].sum(axis=1)
        rows, width = feed["input_ids"].shape
        self.runs.append((rows, width))
        logits = np.zeros((rows, width, 3), np.float32)
        for row, length in enumerate(lengths):
            for token in range(int(length)):
                logits[row, token, 1] = 2 + min(token, length - 1 - token) / 2
        return [logits]


def surveyed(windows: EncoderSpec) -> tuple[Encoder, Surveyor]:
    """Return an encoder that shows its windows by its scores."""
    cutter = tokenizer()
    cutter.enable_truncation(windows.max_tokens, stride=windows.stride)
    session = Surveyor()
    return Encoder(windows, cutter, session, (), ("place",)), session


@given(st.integers(1, 120), st.integers(8, 24), st.integers(0, 5))
def test_words_are_judged_where_they_have_most_context(
    words: int, size: int, stride: int
) -> None:
    """Of all windows that show a word, the one with the word nearest its middle."""
    encoder, _ = surveyed(spec(size, stride))
    [prediction] = encoder.predict(["the " * words])
    inside = size - 2
    starts = [0]
    while starts[-1] + inside < words:
        starts.append(starts[-1] + inside - stride)
    expected = []
    for word in range(words):
        contexts = [
            min(1 + word - start, min(inside, words - start) - word + start)
            for start in starts
            if start <= word < start + inside
        ]
        logit = 2 + max(contexts) / 2
        expected.append(np.exp(logit) / (np.exp(logit) + 2))
    assert [e.score for e in prediction.entities] == pytest.approx(expected, rel=1e-4)


def test_each_window_is_asked_alone() -> None:
    """However many texts wait, and however long, one run sees one window."""
    encoder, session = surveyed(spec(16, 4))
    found = encoder.predict(["the " * n for n in range(1, 200)])
    assert [len(p.entities) for p in found] == list(range(1, 200))
    assert {rows for rows, _ in session.runs} == {1}
    assert max(width for _, width in session.runs) == 16


def test_no_texts(bundle: Bundle) -> None:
    """Nothing asked, nothing answered."""
    assert bundle.predict([]) == []


@pytest.mark.parametrize(
    ("labels", "entities"), [(LABELS, []), ([], ENTITIES), (LABELS, ENTITIES)]
)
def test_bundles_of_one_task(
    tmp_path: Path, labels: list[str], entities: list[str]
) -> None:
    """A bundle without labels gives no label, one without entities no entities."""
    folder = write_bundle(tmp_path / "one", labels=labels, entities=entities)
    [found] = open_bundle(folder, 1).predict(["turn on the lamp in the kitchen"])
    assert found.label == ("lamp_on" if labels else None)
    assert (found.score is None) == (not labels)
    assert len(found.entities) == (1 if entities else 0)


@pytest.fixture(scope="module")
def wary(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return the tiny bundle with a logit for what is outside of its labels."""
    folder = tmp_path_factory.mktemp("models") / "wary"
    return open_bundle(write_bundle(folder, outside=True), 1)


@pytest.mark.parametrize(
    ("text", "outside", "label", "score"),
    [
        # the softmax of 0, 0, 6, 6 and so on, by hand
        ("turn on", 0.00246, "lamp_on", 0.99262),
        ("zebra", 0.99262, "lamp_off", 0.00246),
        ("zebra on", 0.49876, "lamp_on", 0.49876),
        ("the", 0.25, "lamp_off", 0.25),
    ],
)
def test_outside(
    wary: Bundle, text: str, outside: float, label: str, score: float
) -> None:
    """The share of the logit after the labels is told, and is no label itself."""
    [found] = wary.predict([text])
    assert found.label == label
    assert found.outside == pytest.approx(outside, abs=1e-5)
    assert found.score == pytest.approx(score, abs=1e-5)


@pytest.mark.parametrize(
    ("text", "reason"),
    [("zebra", Reason.OUT_OF_SCOPE), ("the", Reason.LOW_CONFIDENCE)],
)
def test_out_of_scope(wary: Bundle, text: str, reason: Reason) -> None:
    """What the model itself takes for strange is left unresolved as out of scope."""
    [found] = wary.predict([text])
    assert decide(found, Policy(Guarantee.LABEL, 0.9)) == Unresolved(reason, found)


def test_not_taught_what_is_outside(bundle: Bundle) -> None:
    """A model without that logit says nothing about it."""
    [found] = bundle.predict(["zebra"])
    assert found.outside is None


@pytest.fixture(scope="module")
def weighing(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """Return an encoder that weighs an opinion half as much as itself."""
    folder = tmp_path_factory.mktemp("models") / "weighing"
    opened = open_bundle(write_bundle(folder, outside=True, prior_weight=0.5), 1)
    model = opened.stages[0].model
    assert isinstance(model, Encoder)
    return model


@pytest.mark.parametrize(
    ("opinion", "label"),
    [
        ((-9.0, -9.0, -0.1), "lamp_on"),  # less sure than the encoder is
        ((-0.1, -14.0, -9.0), "lamp_off"),  # surer
        ((-1.0, -1.0, -1.0), "lamp_on"),  # nothing to say
    ],
)
def test_opinion_is_weighed(
    weighing: Encoder, opinion: tuple[float, ...], label: str
) -> None:
    """The label is that of the product of both, weighed; what is outside stays."""
    [alone] = weighing.predict(["turn on"])
    [found] = weighing.predict(["turn on"], [RawPrediction("chat", opinion=opinion)])
    assert found.label == label
    assert found.outside == pytest.approx(alone.outside)
    product = np.exp(np.array([0.0, 6.0, 0.0]) + 0.5 * np.array(opinion))
    share = product / product.sum() * (1 - (found.outside or 0))
    best, second = sorted(share)[:-3:-1]
    odds = np.log(best / (1 - best))
    margin = odds - np.log(second / (1 - second))
    assert found.label_evidence[:2] == pytest.approx((odds, margin), rel=1e-3)
    assert found.label_evidence[2] == alone.label_evidence[2]
    by_itself = np.exp([0.0, 6.0, 0.0, 0.0][LABELS.index(label)]) / (3 + np.exp(6.0))
    expected = np.log(by_itself / (1 - by_itself))
    assert found.label_evidence[4] == pytest.approx(expected, rel=1e-3)


def test_no_opinion(weighing: Encoder, bundle: Bundle) -> None:
    """Without a tier before it, or where none is weighed, the encoder says its own."""
    [alone] = weighing.predict(["turn on"])
    assert weighing.predict(["turn on"], [RawPrediction("chat")]) == [alone]
    deaf = bundle.stages[0].model
    said = [RawPrediction("lamp_off", opinion=(-0.1, -14.0, -9.0))]
    assert deaf.predict(["turn on"], said) == deaf.predict(["turn on"])


def test_label_evidence(wary: Bundle) -> None:
    """Log-odds, margin over the next label, energy, margin over what is outside."""
    [found] = wary.guesses("turn on")
    share = np.exp([0.0, 6.0, 0.0, 0.0]) / np.exp([0.0, 6.0, 0.0, 0.0]).sum()
    odds = np.log(share / (1 - share))
    energy = np.log(np.exp([0.0, 6.0, 0.0]).sum())  # of the labels alone
    expected = (odds[1], odds[1] - odds[0], energy, odds[1] - odds[3])
    assert found.label_evidence == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("text", "entities"), [("the kitchen", 1), ("kitchen noon", 2), ("the", 0)]
)
def test_entities_evidence(bundle: Bundle, text: str, entities: int) -> None:
    """Log-odds of the least sure word and of all words together, and how many found."""
    [found] = bundle.guesses(text)
    word = np.exp(12.0) / (np.exp(12.0) + np.exp(3.0) + 3)  # of an entity
    plain = np.exp(3.0) / (np.exp(3.0) + 4)
    sure = [plain if w == "the" else word for w in text.split()]
    least, whole, count = found.entities_evidence
    assert least == pytest.approx(np.log(min(sure) / (1 - min(sure))), rel=1e-3)
    assert whole == pytest.approx(np.log(np.prod(sure) / (1 - np.prod(sure))), rel=1e-3)
    assert count == entities


def test_entities_inside_entities(tmp_path: Path) -> None:
    """Each level adds what lies in the one before; what both find is there once."""
    nested = open_bundle(write_bundle(tmp_path / "nested", levels=2), 1)
    [found] = nested.predict(["the bed room noon"])
    assert places(found) == [
        ("place", 4, 12, "bed room"),
        ("time", 8, 12, "room"),
        ("time", 13, 17, "noon"),
    ]


def test_levels_must_fit_the_graph(tmp_path: Path) -> None:
    """A graph without the second level is refused where the manifest wants one."""
    folder = write_bundle(tmp_path / "flat")
    [tier] = json.loads((folder / "manifest.json").read_text())["tiers"]
    for wrong, said in (
        ({"levels": 2}, "needs 10 tag_logits, the model gives 5"),
        ({"outside": True}, "needs 4 label_logits, the model gives 3"),
    ):
        seal(folder, tiers=[{**tier, **wrong}])
        with pytest.raises(BundleError, match=said):
            open_bundle(folder, 1)


@pytest.mark.parametrize("rubbish", [np.nan, np.inf])
def test_numbers_that_are_none(rubbish: float) -> None:
    """A model that answers NaN has failed; its answer is not published."""
    encoder, session = surveyed(spec())
    session.run = lambda *_: [np.full((1, 3, 3), rubbish, np.float32)]  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="numbers that are none"):
        encoder.predict(["the"])


def test_vocabulary_has_no_gaps() -> None:
    """The tables of the tiny graph have one row for each token."""
    assert sorted(VOCABULARY.values()) == list(range(len(VOCABULARY)))
