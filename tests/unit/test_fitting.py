"""Fitting: scores that mean what they say, and a promise that is kept end to end."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from agent.core.errors import ConfigError
from agent.core.types import Entity, Guarantee, RawPrediction, Tier
from agent.evaluation import fitting
from agent.evaluation.examples import Example, Span
from agent.evaluation.fitting import calibrate, table
from agent.evaluation.regression import logistic
from agent.evaluation.samples import CalibrationSample, parted
from agent.inference import certify as certifying
from agent.inference.calibration import (
    Calibration,
    Logistic,
    TierCalibration,
    with_agreement,
)
from agent.inference.certify import Case, Claim, certify

Floats = NDArray[np.float64]
TIERS = (Tier.LINEAR, Tier.ENCODER)
LABEL, ENTITIES, BOTH = Guarantee


def fitted(
    heard: Sequence[CalibrationSample],
    outside: Sequence[CalibrationSample] = (),
    *,
    certified: bool = True,
) -> Calibration:
    """Return the calibration of as many tiers as were heard."""
    tiers = TIERS[-len(heard[0].guesses) :]
    return calibrate(
        heard, tiers, "0" * 64, "none", "none", outside, certified=certified
    )


# -- the logistic


def test_recovers_what_the_truth_was_drawn_by() -> None:
    """With much data, the weights are those of the probabilities behind it."""
    chance = np.random.default_rng(1)
    evidence = chance.normal([1.0, -3.0], [2.0, 0.5], (40_000, 2))
    share = 1 / (1 + np.exp(-(evidence @ [0.8, -1.5] - 4.0)))
    made = logistic(evidence, chance.random(40_000) < share)
    assert made.weights == pytest.approx((0.8, -1.5), abs=0.06)
    assert made.bias == pytest.approx(-4.0, abs=0.15)


def test_is_calibrated_on_what_it_was_fitted_to() -> None:
    """The mean score is the share of right answers but for two imagined ones."""
    chance = np.random.default_rng(2)
    right = chance.random(500) < 0.8
    evidence = chance.normal(right[:, None] * 1.0, 1.0, (500, 3))
    made = logistic(evidence, right)
    scores = [made(row) for row in evidence.tolist()]
    assert np.mean(scores) == pytest.approx(right.mean(), abs=0.005)


@pytest.mark.parametrize(
    ("evidence", "right"),
    [
        pytest.param([[float(n)] for n in range(-20, 20)], "half", id="separable"),
        pytest.param([[n * 1e6] for n in range(-20, 20)], "half", id="huge"),
        pytest.param([[n * 1e-12] for n in range(-20, 20)], "half", id="tiny"),
        pytest.param([[7.0]] * 40, "half", id="constant"),
        pytest.param([[float(n), 7.0] for n in range(40)], "half", id="one constant"),
        pytest.param([[float(n), n * 2.0] for n in range(40)], "half", id="twice"),
        pytest.param([[float(n)] for n in range(40)], "all", id="all right"),
        pytest.param([[float(n)] for n in range(40)], "none", id="none right"),
        pytest.param([[]] * 40, "half", id="no evidence"),
        pytest.param([[1.0]], "all", id="one answer"),
    ],
)
def test_stays_finite(evidence: list[list[float]], right: str) -> None:
    """Whatever the data, weights are finite and no score is 0 or 1."""
    half = len(evidence) // 2
    truth = {
        "half": [n >= half for n in range(len(evidence))],
        "all": [True] * len(evidence),
        "none": [False] * len(evidence),
    }[right]
    made = logistic(np.array(evidence, np.float64), np.array(truth))
    assert all(map(math.isfinite, (*made.weights, made.bias)))
    scores = [made(row) for row in evidence]
    assert all(0 < score < 1 for score in scores)
    if right != "half":
        n = len(evidence)
        expected = (n + 1) / (n + 2) if right == "all" else 1 / (n + 2)
        assert scores == pytest.approx([expected] * n, abs=1e-6)


def test_constant_evidence_has_no_weight() -> None:
    """What never changes tells nothing, and must not once it changes."""
    made = logistic(
        np.array([[float(n), 3.0] for n in range(40)]), np.arange(40) % 3 > 0
    )
    assert made.weights[1] == 0.0


# -- what is heard


def told(  # one text and what two tiers say
    number: int,
    label: str | None,
    *said: tuple[str | None, float],
    entity: bool | None = None,
) -> CalibrationSample:
    """Return a text with its true label, and label and log-odds of each tier.

    `entity`: whether the last tier finds the one entity; None where nobody looks.
    """
    text = f"kitchen {number}"
    spans = () if entity is None else (Span(start=0, end=7, label="place"),)
    guesses = []
    for name, odds in said:
        evidence = () if name is None else (odds, odds)
        guesses.append(RawPrediction(name, (), evidence))
    if entity is not None:
        found = (Entity("place", "kitchen", 0, 7, 0.9),) if entity else ()
        last = guesses[-1]
        sure = 3.0 if entity else -3.0
        guesses[-1] = RawPrediction(last.label, found, last.label_evidence, (sure,))
    return CalibrationSample(Example(text=text, label=label, spans=spans), guesses)


def ranked(
    n: int, wrong: Callable[[int], bool], label: str = "a"
) -> list[CalibrationSample]:
    """Return texts with one tier that is the less sure the higher the number."""
    return [told(i, label, ("b" if wrong(i) else "a", 4 - 8 * i / n)) for i in range(n)]


def test_parts() -> None:
    """A text falls into the same part each time, in whatever order."""
    heard = ranked(1000, lambda _: False)
    one, other = parted(heard)
    assert len(one) + len(other) == 1000
    assert 250 < len(one) < 350  # three in ten fit
    assert parted(heard[::-1]) == (one[::-1], other[::-1])


def test_copies_of_a_text_part() -> None:
    """Of a text that comes often some copies fit, and most certify; the first stays."""
    heard = ranked(50, lambda _: False)
    firsts = [[h.example.text for h in part] for part in parted(heard)]
    parts = [[h.example.text for h in part] for part in parted(heard * 100)]
    for one in heard:
        fits, certifies = (part.count(one.example.text) for part in parts)
        assert fits + certifies == 100
        assert 10 < fits < 50
    for part, first in zip(parts, firsts, strict=True):
        assert part[: len(first)] == first


def test_both_parts_are_named() -> None:
    """The calibration tells how many texts fitted it and how many certified it."""
    heard = ranked(1000, lambda i: i > 900)
    one, other = parted(heard)
    made = fitted(heard)
    assert (made.fitted_on, made.certified_on) == (len(one), len(other))
    assert made.confidence == 0.95
    assert made.certified


def test_made_up_texts_certify_nothing() -> None:
    """They choose thresholds, but the calibration says that these are no promise."""
    made = fitted(ranked(1000, lambda i: i > 900), certified=False)
    assert made.tables[LABEL]
    assert not made.certified


@pytest.mark.parametrize("n", [1, 2, 39])
def test_too_little_data(n: int) -> None:
    """With a handful of texts there is no calibration, and the operator is told."""
    with pytest.raises(ConfigError, match=f"{n} calibration texts are too few"):
        fitted(ranked(n, lambda _: False))


def test_no_data() -> None:
    """No text at all is too few as well."""
    with pytest.raises(ConfigError, match="0 calibration texts are too few"):
        calibrate([], TIERS, "0" * 64, "none", "none")


@pytest.mark.parametrize(
    ("said", "entity", "tables"),
    [
        (("a", 2.0), None, {LABEL}),
        ((None, 0.0), True, {ENTITIES}),
        (("a", 2.0), True, {LABEL, ENTITIES, BOTH}),
    ],
)
def test_guarantees(
    said: tuple[str | None, float],
    entity: bool | None,  # noqa: FBT001
    tables: set[Guarantee],
) -> None:
    """There is a table for what the bundle can do, and for no more."""
    made = fitted([told(i, "a", said, entity=entity) for i in range(400)])
    assert set(made.tables) == tables
    assert all(made.tables.values())
    assert (made.tiers[0].label is None) == (said[0] is None)
    assert (made.tiers[0].entities is None) == (entity is None)
    assert (made.tiers[0].entity is None) == (entity is None)


def test_no_labels_in_the_data() -> None:
    """Data without labels calibrates entities only."""
    made = fitted([told(i, None, ("a", 2.0), entity=True) for i in range(400)])
    assert set(made.tables) == {ENTITIES}
    assert made.tiers[0].label is None


def test_what_is_wrong_depends_on_the_guarantee() -> None:
    """A missed entity is no wrong label, a wrong label no wrong entity; both is both.

    A tenth has a wrong label, another tenth lacks its entity.
    """
    heard = [
        told(i, "b" if i % 10 == 0 else "a", ("a", 1.0), entity=i % 10 != 1)
        for i in range(4000)
    ]
    made = fitted(heard)
    # where half may be wrong, all texts are answered
    errors = {g: rows[-1].error for g, rows in made.tables.items()}
    assert all(rows[-1].coverage == 1.0 for rows in made.tables.values())
    assert errors[LABEL] == pytest.approx(0.1, abs=0.02)
    assert errors[ENTITIES] == pytest.approx(0.1, abs=0.02)
    assert errors[BOTH] == pytest.approx(errors[LABEL] + errors[ENTITIES])
    assert made.tables[ENTITIES][0].error == 0.0  # those without it can be told apart
    scores = made.tiers[0]
    assert scores.entities is not None
    assert scores.entities((3.0,)) > 0.95
    assert scores.entities((-3.0,)) < 0.05
    assert scores.entity is not None
    assert scores.entity((2.2,)) > 0.99  # whatever was found was right


def test_out_of_scope_counts_as_wrong() -> None:
    """A text whose label the bundle does not know makes any answer wrong."""
    known = ranked(800, lambda _: False)
    strange = [told(i, "oos", ("a", 4 - 8 * i / 800)) for i in range(1, 800, 10)]
    found = fitted([*known[::10], *known[2::10], *known[3::10], *strange])
    assert fitted(known).tables[LABEL][0].error == 0.0
    [row] = [row for row in found.tables[LABEL] if row.max_error == 0.5]
    assert row.coverage == 1.0
    assert row.error == pytest.approx(0.25, abs=0.07)
    assert found.least_error(LABEL) is not None
    assert (found.least_error(LABEL) or 0) > 0.2


def test_texts_without_a_label_say_nothing_of_labels() -> None:
    """They are neither right nor wrong: scores and coverage stay as without them."""
    heard = [
        told(i, "a", ("b" if i % 9 == 0 else "a", 1 - i / 800), entity=True)
        for i in range(800)
    ]
    silent = [told(i, None, ("b", 1.0), entity=True) for i in range(800, 1600)]
    alone, together = fitted(heard), fitted([*heard, *silent])
    assert together.tables[LABEL] == alone.tables[LABEL]
    shares = [
        [(row.max_error, row.coverage, row.error) for row in made.tables[BOTH]]
        for made in (together, alone)
    ]  # the thresholds differ: of entities, they do tell
    assert shares[0] == shares[1]
    assert together.tiers[0].label == alone.tiers[0].label
    assert together.certified_on > alone.certified_on


def test_more_texts_from_outside() -> None:
    """They teach scores what strange texts look like, and certify nothing."""
    heard = ranked(800, lambda _: False)
    outside = [told(i, "oos", ("a", -5.0)) for i in range(800, 1000)]
    without, made = fitted(heard), fitted(heard, outside)
    [guess] = outside[0].guesses
    one, other = (
        m.tiers[0].calibrated(Tier.ENCODER, guess).score for m in (without, made)
    )
    assert (one or 0) > 0.9
    assert (other or 1) < 0.2
    assert made.certified_on == without.certified_on
    assert made.tables[LABEL][-1].error == 0.0


def test_strangers_do_not_change_which_label_is_right() -> None:
    """What tells them apart is a factor of its own: among ours, the order stays."""
    heard = ranked(800, lambda i: i > 600 and i % 3 == 0)
    outside = [told(i, "oos", ("a", -5.0)) for i in range(800, 1000)]
    [without], [made] = fitted(heard).tiers, fitted(heard, outside).tiers
    assert made.label == without.label
    assert without.inside is None
    assert made.inside is not None
    assert made.inside((4.0, 4.0)) > 0.95
    assert made.inside((-5.0, -5.0)) < 0.2


def test_what_the_data_says_nothing_of_stays() -> None:
    """Without strangers in the data, those known before still count: in scores too."""
    heard = ranked(800, lambda i: i > 600 and i % 3 == 0)
    outside = [told(i, "oos", ("a", -5.0)) for i in range(800, 1000)]
    before = fitted(heard, outside)
    made = calibrate(heard, TIERS[1:], "0" * 64, "", "", before=before.tiers)
    assert made == before.model_copy(update={"runtime": "", "data": ""})
    alone = calibrate(heard, TIERS[1:], "0" * 64, "", "")
    assert alone.tables != made.tables


def half_said(
    heard: Sequence[CalibrationSample], **truth: str | None
) -> list[CalibrationSample]:
    """Return the texts with something else said of them, or nothing."""
    return [replace(one, example=one.example.model_copy(update=truth)) for one in heard]


def both_told(n: int) -> list[CalibrationSample]:
    """Return texts with labels and entities, of which the last tier knows some."""
    heard = []
    for i in range(n):
        label, there = ("a" if i % 20 else "b"), i % 10 > 0
        one = told(i, label, ("a", 4 - i % 7), ("a", 3 - i % 5), entity=there)
        first, last = one.guesses
        first = replace(first, entities_evidence=(1 - i % 3,))
        heard.append(replace(one, guesses=[first, last]))
    return heard


def test_lines_with_labels_alone_leave_entities_as_they_were() -> None:
    """Their scores and floors stay; nothing is certified that nobody looked at."""
    before = fitted(both_told(800))
    heard = half_said(both_told(1000)[::-1], spans=None)
    made = calibrate(heard, TIERS, "0" * 64, "", "", before=before.tiers)
    assert set(made.tables) == {LABEL}
    assert made.tables[LABEL]
    for new, old in zip(made.tiers, before.tiers, strict=True):
        assert new.label != old.label
        assert (new.entities, new.entity) == (old.entities, old.entity)
        assert new.entities_floor == old.entities_floor
    assert before.tiers[0].entities_floor > 0


def test_lines_with_spans_alone_leave_labels_as_they_were() -> None:
    """The same the other way round, and a handful with labels changes nothing."""
    before = fitted(both_told(800))
    heard = both_told(1000)[::-1]
    few = [*heard[:4], *half_said(heard[4:], label=None)]
    made = calibrate(few, TIERS, "0" * 64, "", "", before=before.tiers)
    assert made.tables[ENTITIES]
    assert made.tables[LABEL] == []
    for new, old in zip(made.tiers, before.tiers, strict=True):
        assert (new.label, new.label_floor) == (old.label, old.label_floor)
        assert new.entities != old.entities
    assert before.tiers[0].label_floor > 0


def test_strangers_without_spans_count_where_both_must_be_right() -> None:
    """No answer to them is right; of entities they say nothing."""
    heard = both_told(800)
    strange = half_said(both_told(1000)[800:], label="oos", spans=None)
    labels = ("a", "b")
    one, other = (
        calibrate(some, TIERS, "0" * 64, "", "", labels=labels)
        for some in ([*heard, *strange], heard)
    )
    assert one.tables[BOTH][-1].error > other.tables[BOTH][-1].error + 0.1
    shares = [
        [(row.coverage, row.error) for row in made.tables[ENTITIES]]
        for made in (one, other)
    ]
    assert shares[0] == shares[1]


def test_worthless_evidence_is_left_out() -> None:
    """Numbers that tell nothing get no weight: the first alone ranks as well."""
    chance = np.random.default_rng(3)
    heard = []
    for i in range(600):
        odds = float(chance.normal(1.0, 2.0))
        right = chance.random() < 1 / (1 + math.exp(-odds))
        noise = tuple(chance.normal(0, 1, 40).tolist())
        guess = RawPrediction("a", (), (odds, *noise))
        example = Example(text=str(i), label="a" if right else "b")
        heard.append(CalibrationSample(example, [guess]))
    label = fitted(heard).tiers[0].label
    assert label is not None
    assert label.weights[0] > 0.5
    assert set(label.weights[1:]) == {0.0}


# -- floors


def early(
    n: int, rights: Callable[[int], tuple[bool, bool]], odds: Callable[[int], float]
) -> list[CalibrationSample]:
    """Return texts with two tiers, whether each is right and how sure the first is."""
    heard = []
    for i in range(n):
        first, last = ("a" if right else "b" for right in rights(i))
        heard.append(told(i, "a", (first, odds(i)), (last, 2.0)))
    return heard


def answering(made: Calibration, heard: Sequence[CalibrationSample]) -> float:
    """Return the share of texts that the first tier may answer."""
    tier = made.tiers[0]
    judged = (tier.calibrated(Tier.LINEAR, h.guesses[0]) for h in heard)
    return sum(tier.may_answer(p) for p in judged) / len(heard)


def test_an_early_tier_that_is_as_good_answers() -> None:
    """Where the last tier would be no better, nobody waits for it."""
    for right in (lambda _: (True, True), lambda i: (i % 10 > 0, i % 10 > 0)):
        heard = early(600, right, lambda i: i / 300)
        assert answering(fitted(heard), heard) > 0.99


def test_an_early_tier_that_is_worse_never_answers() -> None:
    """However sure it is, a tier that is always wrong has no say, nor a random one."""
    heard = early(600, lambda _: (False, True), lambda i: i / 300)
    assert answering(fitted(heard), heard) == 0.0
    heard = early(600, lambda i: (i % 2 > 0, True), lambda _: 2.0)
    assert answering(fitted(heard), heard) == 0.0


def test_an_early_tier_answers_where_it_is_good() -> None:
    """Its floor lies where the last tier begins to know better."""
    heard = early(1000, lambda i: (i >= 500 or i % 4 > 0, True), lambda i: i / 250 - 2)
    assert answering(fitted(heard), heard) == pytest.approx(0.5, abs=0.03)


def test_the_last_tier_has_no_floor() -> None:
    """Nobody would answer below it."""
    last = fitted(early(600, lambda i: (True, i % 2 > 0), lambda _: 1.0)).tiers[-1]
    assert (last.label_floor, last.entities_floor) == (0.0, 0.0)


def test_strange_texts_raise_the_floor() -> None:
    """To texts from outside an early answer is a loss: the last tier would know."""
    heard = early(600, lambda _: (True, True), lambda i: i / 300)
    strange = [told(i, "oos", ("a", 1.0), ("a", -9.0)) for i in range(600, 700)]
    made = fitted(heard, strange)
    assert answering(fitted(heard), strange) == 1.0
    assert answering(made, strange) == 0.0
    assert 0.2 < answering(made, heard) < 0.8


@pytest.mark.parametrize(("floor", "may"), [(0.99, False), (0.9, True)])
def test_only_those_who_may_answer_are_certified(floor: float, *, may: bool) -> None:
    """Below its floor a tier's claim is none: the next one's answer counts.

    The first tier is surer and wrong, the last right.
    """
    scored = Logistic(weights=(1.0, 0.0), bias=0.0)
    first = TierCalibration(label=scored, label_floor=floor)
    last = TierCalibration(label=scored)
    heard = [told(i, "a", ("b", 3.0), ("a", 2.0)) for i in range(100)]
    rows = table(heard, [first, last], TIERS, LABEL)
    if may:
        assert rows == []
    else:
        assert (rows[0].error, rows[0].coverage) == (0.0, 1.0)


def test_equal_scores_share_a_floor() -> None:
    """A floor lets all equal scores pass, so all their losses are counted."""
    heard = early(2400, lambda i: (i % 3 > 0, True), lambda _: 2.0)
    assert answering(fitted(heard), heard) == 0.0


def test_an_early_tier_that_finds_nothing_answers_where_nothing_is() -> None:
    """Its floor for entities lies where it begins to miss what the last tier finds."""
    heard = []
    for i in range(800):
        there = i >= 400
        one = told(i, "a", ("a", 3.0), ("a", 3.0), entity=True)
        first, last = one.guesses
        first = replace(first, entities_evidence=(2 - i / 200,))
        last = last if there else replace(last, entities=())
        spans = one.example.spans if there else ()
        example = one.example.model_copy(update={"spans": spans})
        heard.append(CalibrationSample(example, [first, last]))
    made = fitted(heard)
    assert answering(made, heard) == pytest.approx(0.5, abs=0.02)
    assert made.tables[BOTH][0].error == 0.0
    assert made.tables[BOTH][0].coverage == 1.0


# -- the promise, end to end: agreement, scores, floors, thresholds

MAX_ERROR = 0.10
CALIBRATIONS = 200
N = 400
HELD_OUT = 100_000
# Three standard errors of a share of 0.05 over the calibrations are allowed on top.
ALLOWED = 0.05 + 3 * math.sqrt(0.05 * 0.95 / CALIBRATIONS)


@dataclass(frozen=True)
class Sample:
    """Texts, what two tiers say to them, and how likely each is right."""

    evidence: tuple[Floats, Floats]  # of each tier, before agreement
    agree: NDArray[np.bool_]
    right: tuple[Floats, Floats]  # given all that is seen; both only if they agree


def sigmoids(values: Floats) -> Floats:
    """Return the sigmoid of each."""
    result: Floats = 1 / (1 + np.exp(-np.clip(values, -500, 500)))
    return result


def telling(chance: np.random.Generator, n: int) -> Sample:
    """Draw tiers whose evidence says much; some labels are wrong whatever it says."""
    ease = chance.normal(0, 1, n)
    first = 3 + 2.0 * ease + chance.normal(0, 1, n)
    last = 3 + 2.0 * ease + chance.normal(0, 1, n)
    agree = chance.random(n) < sigmoids(2 + 1.5 * ease)
    both = 0.965 * sigmoids(1.5 + 0.6 * first + 0.6 * last)
    second = 0.9 * sigmoids(last - 0.5 * first)
    return Sample(
        evidence=(
            np.column_stack([first, first + chance.normal(0, 1, n)]),
            np.column_stack([last, chance.normal(0, 1, n), chance.normal(0, 1, n)]),
        ),
        agree=agree,
        right=(
            np.where(agree, both, (1 - second) * 0.5),
            np.where(agree, both, second),
        ),
    )


def mute(chance: np.random.Generator, n: int) -> Sample:
    """Draw tiers that are wrong in 10.01 %, with much evidence that says nothing of it.

    That is hardly more than allowed: every threshold is one too many.
    """
    share = np.full(n, 0.8999)
    evidence = (chance.normal(0, 1, (n, 20)), chance.normal(0, 1, (n, 20)))
    return Sample(evidence, np.full(n, fill_value=True), (share, share))


Draw = Callable[[np.random.Generator, int], Sample]


def overheard(sample: Sample, chance: np.random.Generator) -> list[CalibrationSample]:
    """Return the texts with a truth drawn by the known probabilities."""
    heard = []
    luck = chance.random(len(sample.agree))
    names = chance.integers(0, 2**62, len(sample.agree)).tolist()
    for i, (name, agree) in enumerate(zip(names, sample.agree.tolist(), strict=True)):
        first, last = (float(right[i]) for right in sample.right)
        if agree:
            truth = "a" if luck[i] < last else "c"
        else:
            truth = "b" if luck[i] < last else "a" if luck[i] < last + first else "c"
        one = RawPrediction("a", (), tuple(sample.evidence[0][i].tolist()))
        other = RawPrediction(
            "a" if agree else "b", (), tuple(sample.evidence[1][i].tolist())
        )
        guesses = [one, with_agreement(other, one)]
        heard.append(CalibrationSample(Example(text=str(name), label=truth), guesses))
    return heard


def scores_of(made: Logistic | None, evidence: Floats) -> Floats:
    """Return the scores of all texts at once."""
    assert made is not None
    return sigmoids(evidence @ np.array(made.weights) + made.bias)


def true_error(made: Calibration, threshold: float, world: Sample) -> float:
    """Return the error of a cascade at work, by the probabilities behind it."""
    first, last = made.tiers
    opinion = np.log1p(np.exp(np.minimum(world.evidence[0][:, 0], 30.0)))
    opinion = np.where(world.agree, opinion, -opinion)
    score = scores_of(first.label, world.evidence[0])
    by_first = (score >= threshold) & (score >= first.label_floor)
    seen = np.column_stack([world.evidence[1], opinion])
    answered = by_first | (scores_of(last.label, seen) >= threshold)
    wrong = 1 - np.where(by_first, world.right[0], world.right[1])
    return float(wrong[answered].mean()) if answered.any() else 0.0


def cases(made: Calibration, heard: Sequence[CalibrationSample]) -> list[Case]:
    """Return the claims of the cascade."""
    return [fitting._case(h, made.tiers, TIERS, LABEL) for h in heard]


Choose = Callable[
    [Calibration, list[CalibrationSample], list[CalibrationSample]], float | None
]


def certified(
    made: Calibration, _: list[CalibrationSample], __: list[CalibrationSample]
) -> float | None:
    """Choose what the calibration itself says."""
    row = made.threshold(LABEL, MAX_ERROR)
    return row and row.threshold


def tuned(
    made: Calibration, _: list[CalibrationSample], held: list[CalibrationSample]
) -> float | None:
    """Choose as one would without thinking: the error seen is the error to come."""
    claims = sorted(
        (max(case, key=lambda claim: claim.score) for case in cases(made, held)),
        key=lambda claim: -claim.score,
    )
    wrong, chosen = 0, None
    for n, claim in enumerate(claims, start=1):
        wrong += not claim.right
        if wrong / n <= MAX_ERROR:
            chosen = claim.score
    return chosen


def same_half(
    made: Calibration, fit: list[CalibrationSample], _: list[CalibrationSample]
) -> float | None:
    """Certify on the texts that the scores were fitted to."""
    rows = table(fit, made.tiers, TIERS, LABEL)
    return rows[0].threshold if rows else None


def last_tier_only(
    made: Calibration, _: list[CalibrationSample], held: list[CalibrationSample]
) -> float | None:
    """Forgive the first tier its errors."""
    forgiven = [
        [*(Claim(claim.score, right=True) for claim in case[:-1]), case[-1]]
        for case in cases(made, held)
    ]
    found = certify(forgiven, MAX_ERROR)
    return found and found.threshold


@cache
def calibrations(
    draw: Draw,
) -> list[tuple[Calibration, list[CalibrationSample], list[CalibrationSample]]]:
    """Return calibrations on fresh texts, with their parts."""
    made = []
    for number in range(CALIBRATIONS):
        chance = np.random.default_rng(number)
        heard = overheard(draw(chance, N), chance)
        made.append((fitted(heard), *parted(heard)))
    return made


def violations(
    draw: Draw, choose: Choose, number: int = CALIBRATIONS
) -> tuple[float, float]:
    """Return how often a promise is broken, and how often one is given."""
    world = draw(np.random.default_rng(10**6), HELD_OUT)
    broken = given = 0
    for made, fit, held in calibrations(draw)[:number]:
        threshold = choose(made, fit, held)
        if threshold is not None:
            given += 1
            broken += true_error(made, threshold, world) > MAX_ERROR
    return broken / number, given / number


@pytest.fixture
def _one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make tables of the one error that is measured: the others take time."""
    monkeypatch.setattr(fitting, "MAX_ERRORS", (MAX_ERROR,))


@pytest.mark.usefixtures("_one_row")
@pytest.mark.parametrize("draw", [telling, mute])
def test_the_promise_is_kept(draw: Draw) -> None:
    """Over 200 calibrations of a cascade at most about 5 % promise too much."""
    broken, given = violations(draw, certified)
    assert broken <= ALLOWED
    if draw is telling:
        assert given > 0.4  # it is no use to promise nothing


def lax(
    made: Calibration, _: list[CalibrationSample], held: list[CalibrationSample]
) -> float | None:
    """Forget that two sequences share DELTA: each has twice of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certifying, "SEQUENCES", ((0.5, 2.0), (0.0, 2.0)))
        rows = table(held, made.tiers, TIERS, LABEL)
    return rows[0].threshold if rows else None


@pytest.mark.usefixtures("_one_row")
@pytest.mark.parametrize(
    ("draw", "choose", "number"),
    [
        (telling, tuned, 60),
        (mute, tuned, 60),
        (mute, same_half, 60),
        (telling, last_tier_only, 60),
        (mute, lax, CALIBRATIONS),
    ],
)
def test_a_broken_calibration_is_caught(
    draw: Draw, choose: Choose, number: int
) -> None:
    """The same simulation does not let pass what only looks like a certificate."""
    broken, _ = violations(draw, choose, number)
    assert broken > ALLOWED


# -- the promise where few texts come again and again


def recurring(world: int) -> tuple[list[CalibrationSample], Floats]:
    """Return 40 texts and how often each comes; some are always answered wrongly.

    These are 10 to 12 % of what comes. If possible their first copies fit: a
    calibration that keeps copies together certifies without having seen them.
    """
    chance = np.random.default_rng(world)
    often = 1 / np.arange(1, 41)
    often /= often.sum()
    texts = [f"alarm {world}-{i}" for i in range(40)]
    fit, _ = parted([CalibrationSample(Example(text=text), ()) for text in texts])
    first = [one.example.text for one in fit]
    wrong: list[str] = []
    share = 0.0
    for text, part in sorted(
        zip(texts, often, strict=True), key=lambda t: t[0] not in first
    ):
        if share + part <= 1.2 * MAX_ERROR:
            wrong.append(text)
            share += part
    assert share > MAX_ERROR
    heard = []
    for text, odds in zip(texts, chance.normal(3, 1, 40).tolist(), strict=True):
        example = Example(text=text, label="b" if text in wrong else "a")
        heard.append(CalibrationSample(example, [RawPrediction("a", (), (odds, odds))]))
    return heard, often


@pytest.mark.usefixtures("_one_row")
def test_the_promise_is_kept_where_texts_come_again() -> None:
    """Over 200 calibrations on 40 texts, some of them frequent, as well."""
    broken = 0
    for number in range(CALIBRATIONS):
        heard, often = recurring(number % 20)
        chance = np.random.default_rng(number)
        made = fitted([heard[i] for i in chance.choice(40, N, p=often)])
        row = made.threshold(LABEL, MAX_ERROR)
        if row is None:
            continue
        judged = [made.tiers[0].calibrated(Tier.ENCODER, h.guesses[0]) for h in heard]
        passed = [(prediction.score or 0.0) >= row.threshold for prediction in judged]
        wrong = [not h.label_right(0) for h in heard]
        risk = often[np.array(passed) & wrong].sum() / often[passed].sum()
        broken += risk > MAX_ERROR
    assert broken / CALIBRATIONS <= ALLOWED


def test_the_simulation_sees_what_is_at_work() -> None:
    """Its scores, all at once, are those that each text has at work."""
    chance = np.random.default_rng(4)
    sample = telling(chance, 200)
    heard = overheard(sample, chance)
    made = fitted(heard)
    opinion = np.array([h.guesses[1].label_evidence[-1] for h in heard])
    seen = np.column_stack([sample.evidence[1], opinion])
    for tier, evidence in enumerate((sample.evidence[0], seen)):
        judged = [
            made.tiers[tier].calibrated(TIERS[tier], h.guesses[tier]) for h in heard
        ]
        scores = scores_of(made.tiers[tier].label, evidence)
        assert [p.score for p in judged] == pytest.approx(scores.tolist())
