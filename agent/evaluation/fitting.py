"""Making a calibration: from what the tiers say to labelled texts, to certified scores.

Used by the workshop and, on a device, by `slm-agent calibrate`: numpy and pure Python.
Some of the texts fit the scores, the others certify thresholds on them: a certificate
is worth nothing on data that its scores were fitted to. Scores have a handful of
weights, certificates want numbers: three in ten fit, seven certify.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from agent.core.errors import ConfigError
from agent.core.types import Entity, Form, Guarantee, Prediction, RawPrediction, Tier
from agent.evaluation.examples import Example, Span
from agent.evaluation.scoring import aurc, place
from agent.inference.calibration import (
    STEPS_OF_SCORES,
    Calibration,
    Logistic,
    Threshold,
    TierCalibration,
    log_odds,
)
from agent.inference.certify import DELTA, Case, Claim, certify
from agent.inference.decide import ANY_FORM, Forms, confidence, unfit

# fmt: off
MAX_ERRORS = (
    0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.07, 0.10,
    0.15, 0.20, 0.25, 0.30, 0.40, 0.50,
)
# fmt: on
LEAST = 40  # texts; with fewer nothing can be fitted, let alone certified
FITTING = 0.3  # of the texts fit the scores
PENALTY = 1.0  # of the squared weights of standardised evidence
STEPS = 50
TINY = 1e-9
FOLDS = 5
STRANGE = 2  # texts that a text out of scope counts for: data has few, devices many
# Share of the texts in scope, and rightly labelled, whose form may be doubted.
FORMS_LOST, FORMS_LOST_EARLY = 0.015, 0.1
FORM_FLOORS = (0.5, 0.95)  # the least and the most that is asked of a form
FORMS_UNHEEDED = 0.1  # what refuses more of the right texts is no judge of forms
LONG = 0.95  # of the texts in scope are no longer than what an early tier reads
SLACK = 0.002  # share of the texts, or one, on which an early tier may be worse

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class CalibrationSample:
    """A labelled text and what every tier says of it, cheapest first."""

    example: Example
    guesses: Sequence[RawPrediction]

    def label_right(self, tier: int) -> bool:
        """Whether the tier gave the true label; never so for one it cannot give."""
        return self.guesses[tier].label == self.example.label

    def entities_right(self, tier: int) -> bool:
        """Whether the tier found all entities and no other."""
        return places(self.guesses[tier].entities) == places(self.example.marked)


def places(spans: Sequence[Entity | Span]) -> set[tuple[int, int, str]]:
    """Return what must agree for two sets of entities to be the same."""
    return {place(span) for span in spans}


def parted(
    heard: Sequence[CalibrationSample],
) -> tuple[list[CalibrationSample], list[CalibrationSample]]:
    """Part the texts by their hash, the same way each time: to fit, and to certify.

    A text that comes again is hashed with how often it came before. Were its copies
    kept together, those of a frequent one might all fit, and none certify.
    """
    parts: tuple[list[CalibrationSample], list[CalibrationSample]] = ([], [])
    seen: Counter[str] = Counter()
    for one in heard:
        text = one.example.text
        again = f"\0{seen[text]}" if seen[text] else ""
        seen[text] += 1
        digest = hashlib.sha256(f"{text}{again}".encode("utf-8", "surrogatepass"))
        parts[digest.digest()[0] >= FITTING * 256].append(one)
    return parts


def calibrate(
    heard: Sequence[CalibrationSample],
    tiers: Sequence[Tier],
    fingerprint: str,
    runtime: str,
    data: str,
    outside: Sequence[CalibrationSample] = (),
    *,
    labels: Collection[str] | None = None,
    certified: bool = True,
    before: Sequence[TierCalibration] = (),
    forms: Forms = ANY_FORM,
) -> Calibration:
    """Return the calibration of a cascade; raises ConfigError where data is too little.

    Texts without a label say nothing about labels and are left out where labels are
    judged, so are those without spans where entities are; one whose label is not of
    `labels`, those the bundle knows, is out of scope, and any label for it is wrong.
    `outside` are more of these: they help fit the scores, but nothing is certified on
    them. `data` is for people. Texts that were made up may choose thresholds, but
    certify nothing: `certified` is False then. Scores of what the texts say nothing, or
    next to nothing, about stay as they were `before`; thresholds do not. What has a
    form that `forms` do not allow is not answered.
    """
    fitted, held = parted(heard)
    if min(len(fitted), len(held)) < LEAST // 2:
        raise ConfigError(
            f"{len(heard)} calibration texts are too few; give at least {2 * LEAST}, "
            "better some hundred"
        )
    found = _fitted_tiers(fitted, outside, labels, len(tiers), before, forms)
    proving = {
        guarantee: [one for one in held if _says(one, guarantee, labels)]
        for guarantee in _possible(heard, labels)
    }
    return Calibration(
        fingerprint=fingerprint,
        runtime=runtime,
        data=data,
        fitted_on=len(fitted),
        certified_on=len(held),
        confidence=1 - DELTA,
        certified=certified,
        forms=None if forms == ANY_FORM else forms.told(),
        tiers=found,
        tables={
            guarantee: table(texts, found, tiers, guarantee, forms)
            for guarantee, texts in proving.items()
        },
        claims={
            guarantee: claims(texts, found, tiers, guarantee, forms, [*labels])
            for guarantee, texts in proving.items()
            if labels and guarantee is not Guarantee.ENTITIES
        },
    )


def _fitted_tiers(
    fitted: Sequence[CalibrationSample],
    outside: Sequence[CalibrationSample],
    labels: Collection[str] | None,
    tiers: int,
    before: Sequence[TierCalibration],
    forms: Forms,
) -> list[TierCalibration]:
    """Fit the scores of every tier, and the floors below which none answers alone."""
    strange = [one for one in fitted if _is_strange(one, labels)]
    inside = [one for one in fitted if not _is_strange(one, labels)]
    outside = [*outside, *strange * STRANGE]
    found = [
        _kept(_fit(inside, outside, number), before[number] if before else None)
        for number in range(tiers)
    ]
    for number in range(tiers - 1):
        found[number] = _with_floors(found, number, inside, outside)
    return [
        _with_form_floor(one, number, inside, forms, early=number < tiers - 1)
        for number, one in enumerate(found)
    ]


def _is_strange(heard: CalibrationSample, labels: Collection[str] | None) -> bool:
    label = heard.example.label
    return labels is not None and label is not None and label not in labels


def _possible(
    heard: Sequence[CalibrationSample], labels: Collection[str] | None
) -> list[Guarantee]:
    last = heard[0].guesses[-1]
    able = {
        Guarantee.LABEL: bool(last.label_evidence),
        Guarantee.ENTITIES: bool(last.entities_evidence),
        Guarantee.BOTH: bool(last.label_evidence and last.entities_evidence),
    }
    return [
        guarantee
        for guarantee in Guarantee
        if able[guarantee] and any(_says(h, guarantee, labels) for h in heard)
    ]


def _says(
    heard: CalibrationSample, guarantee: Guarantee, labels: Collection[str] | None
) -> bool:
    """Tell whether the example says what makes an answer wrong.

    An answer to a text out of scope is wrong whatever its entities.
    """
    label = heard.example.label is not None
    spans = heard.example.spans is not None
    if guarantee is Guarantee.LABEL:
        return label
    if guarantee is Guarantee.ENTITIES:
        return spans
    return label and (spans or _is_strange(heard, labels))


# -- scores


def _kept(found: TierCalibration, before: TierCalibration | None) -> TierCalibration:
    """Return what was found, with what was known before where nothing was."""
    if before is None:
        return found
    made = ((key, getattr(found, key)) for key in found.model_fields_set)
    return before.model_copy(update={k: v for k, v in made if v is not None})


def _enough(heard: list[CalibrationSample]) -> list[CalibrationSample]:
    """Return them, or none: a handful of texts says nothing."""
    return heard if len(heard) >= LEAST // 2 else []


def _fit(
    heard: Sequence[CalibrationSample], outside: Sequence[CalibrationSample], tier: int
) -> TierCalibration:
    labelled, strange = (
        [
            h
            for h in some
            if h.example.label is not None and h.guesses[tier].label is not None
        ]
        for some in (heard, outside)
    )
    labelled = _enough(labelled)
    marked = _enough([h for h in heard if h.example.spans is not None])
    extracting = [h for h in marked if h.guesses[tier].entities_evidence]
    entities = [(h, e) for h in extracting for e in h.guesses[tier].entities]
    return TierCalibration(
        label=_judge(
            [h.guesses[tier].label_evidence for h in labelled],
            [h.label_right(tier) for h in labelled],
        ),
        inside=_told_apart(
            [h.guesses[tier].label_evidence for h in labelled],
            [h.guesses[tier].label_evidence for h in strange],
        ),
        entities=_judge(
            [h.guesses[tier].entities_evidence for h in extracting],
            [h.entities_right(tier) for h in extracting],
        ),
        entity=_judge(
            [(log_odds(entity.score or 0.0),) for _, entity in entities],
            [place(entity) in places(h.example.marked) for h, entity in entities],
        ),
    )


def _told_apart(
    inside: Sequence[tuple[float, ...]], outside: Sequence[tuple[float, ...]]
) -> Logistic | None:
    """Return what tells texts in scope from others, if there are both."""
    if not (inside and outside):
        return None
    evidence = np.array([*inside, *outside], np.float64)
    return logistic(evidence, np.arange(len(evidence)) < len(inside))


def _judge(
    evidence: Sequence[tuple[float, ...]], right: Sequence[bool]
) -> Logistic | None:
    """Return what tells right from wrong best: the first evidence alone, or all of it.

    Judged by the area under the risk-coverage curve, cross-validated.
    """
    if not evidence:
        return None
    all_of_it = np.array(evidence, np.float64)
    truth = np.array(right)
    first = all_of_it.copy()
    first[:, 1:] = 0.0  # evidence that is always 0 gets the weight 0
    candidates = (first, all_of_it) if all_of_it.shape[1] > 1 else (first,)
    best = min(candidates, key=lambda columns: _crossed(columns, truth))
    return logistic(best, truth)


def _crossed(evidence: Floats, right: Bools) -> float:
    scores = np.zeros(len(right))
    fold = np.arange(len(right)) % FOLDS
    for number in range(FOLDS):
        held = fold == number
        if held.all() or not held.any():
            continue
        made = logistic(evidence[~held], right[~held])
        scores[held] = [made(row) for row in evidence[held].tolist()]
    return aurc(scores.tolist(), (~right).tolist()) or 0.0


def logistic(evidence: Floats, right: Bools) -> Logistic:
    """Fit by Newton's method, with a penalty that keeps it finite on separable data.

    `evidence`: texts x numbers. One imagined right and one wrong answer keep the bias
    finite where all answers are right.
    """
    mean = evidence.mean(axis=0)
    spread = evidence.std(axis=0)
    spread[spread < TINY] = np.inf  # constant evidence says nothing
    inner = np.column_stack([(evidence - mean) / spread, np.ones(len(evidence))])
    imagined = np.zeros((2, inner.shape[1]))
    imagined[:, -1] = 1.0
    columns = np.vstack([inner, imagined])
    truth = np.append(right.astype(np.float64), [1.0, 0.0])
    weights = np.zeros(columns.shape[1])
    ridge = np.full(columns.shape[1], PENALTY)
    ridge[-1] = 0.0
    for _ in range(STEPS):
        share = 1.0 / (1.0 + np.exp(-np.clip(columns @ weights, -30, 30)))
        slope = columns.T @ (truth - share) - ridge * weights
        bend = (columns * (share * (1 - share))[:, None]).T @ columns + np.diag(ridge)
        step = np.linalg.solve(bend + TINY * np.eye(len(weights)), slope)
        weights = weights + np.clip(step, -4.0, 4.0)
        if np.abs(step).max() < TINY:
            break
    scaled = weights[:-1] / spread
    bias = float(weights[-1] - (scaled * mean).sum())
    return Logistic(weights=tuple(round(float(w), 9) for w in scaled), bias=bias)


# -- thresholds


def _with_floors(
    found: Sequence[TierCalibration],
    tier: int,
    heard: Sequence[CalibrationSample],
    outside: Sequence[CalibrationSample],
) -> TierCalibration:
    """Let an early tier answer only where the last would hardly do better.

    To texts from outside any answer is a loss: the last tier would know.
    """
    last = len(found) - 1

    def judged(some: Sequence[CalibrationSample]) -> list[Prediction]:
        return [found[tier].calibrated(Tier.LINEAR, h.guesses[tier]) for h in some]

    labelled = _enough([h for h in heard if h.example.label is not None])
    marked = _enough([h for h in heard if h.example.spans is not None])
    changes: dict[str, float] = {}
    if found[tier].label is not None and labelled:
        losses = [h.label_right(last) - h.label_right(tier) for h in labelled]
        changes["label_floor"] = _floor(
            [p.score or 0.0 for p in judged([*labelled, *outside])],
            [*losses, *(1 for _ in outside)],
        )
    if found[tier].entities is not None and marked:
        changes["entities_floor"] = _floor(
            [p.entities_score or 0.0 for p in judged(marked)],
            [h.entities_right(last) - h.entities_right(tier) for h in marked],
        )
    return found[tier].model_copy(update=changes)


def _with_form_floor(
    found: TierCalibration,
    tier: int,
    heard: Sequence[CalibrationSample],
    forms: Forms,
    *,
    early: bool,
) -> TierCalibration:
    """Set how likely an allowed form must be, and how long a text an early tier reads.

    As much is asked as leaves nearly all texts in scope; of an early tier more, as a
    later one is asked about the others. Nothing is asked of a last tier that would
    refuse many even so, as few lines may teach it: the rules judge alone.
    """
    changes: dict[str, float | int] = {}
    shares = [
        fitting(h.guesses[tier], h.guesses[tier].label, forms)
        for h in heard
        if h.guesses[tier].forms and h.label_right(tier)
    ]
    if len(shares) >= LEAST // 2:
        lost = FORMS_LOST_EARLY if early else FORMS_LOST
        least, most = FORM_FLOORS
        floor = float(np.quantile(shares, lost))
        refused = float(np.mean(np.asarray(shares) < least))
        heeded = early or refused <= FORMS_UNHEEDED
        changes["form_floor"] = round(min(max(floor, least), most), 4) * heeded
    lengths = [len(h.example.text) for h in heard]
    if early and len(lengths) >= LEAST // 2:
        changes["longest"] = int(np.quantile(lengths, LONG))
    return found.model_copy(update=changes)


def fitting(guess: RawPrediction, label: str | None, forms: Forms) -> float:
    """Return how likely the model thinks a form is that the label allows."""
    allowed = forms.of(label)
    shares = zip(Form, guess.forms, strict=True)
    return sum(share for form, share in shares if form in allowed)


def _floor(scores: Sequence[float], losses: Sequence[int]) -> float:
    """Return the lowest score from which on answering early loses next to nothing.

    A loss is 1 where the last tier is right and this one is not, -1 the other way.
    """
    allowed = max(1.0, SLACK * len(scores))
    ranked = sorted(zip(scores, losses, strict=True), reverse=True)
    floor, lost = 2.0, 0  # a score that nothing reaches
    for number, (score, loss) in enumerate(ranked):
        lost += loss
        tied = number + 1 < len(ranked) and ranked[number + 1][0] == score
        if lost <= allowed and not tied:
            floor = score
    return floor


def table(
    heard: Sequence[CalibrationSample],
    found: Sequence[TierCalibration],
    tiers: Sequence[Tier],
    guarantee: Guarantee,
    forms: Forms = ANY_FORM,
) -> list[Threshold]:
    """Return a certified threshold for each error that the data can carry.

    Every text says what makes an answer to it wrong.
    """
    cases = [_case(h, found, tiers, guarantee, forms) for h in heard]
    certificates = (certify(cases, level) for level in MAX_ERRORS)
    return [
        Threshold(**asdict(certificate)) for certificate in certificates if certificate
    ]


def claims(
    heard: Sequence[CalibrationSample],
    found: Sequence[TierCalibration],
    tiers: Sequence[Tier],
    guarantee: Guarantee,
    forms: Forms,
    labels: Sequence[str],
) -> str:
    """Return what is claimed of texts, with the labels (`Calibration.claims`)."""
    lines = []
    for one in heard:
        said = _claimed(one, found, tiers, guarantee, forms)
        lines.append(
            " ".join(
                f"{labels.index(label)},{int(claim.score * STEPS_OF_SCORES)},"
                f"{claim.right:d}"
                for label, claim in said
                if label is not None
            )
        )
    return "\n".join(lines)


def _case(
    heard: CalibrationSample,
    found: Sequence[TierCalibration],
    tiers: Sequence[Tier],
    guarantee: Guarantee,
    forms: Forms = ANY_FORM,
) -> Case:
    """Return the claims of the tiers that may answer a text."""
    return [claim for _, claim in _claimed(heard, found, tiers, guarantee, forms)]


def _claimed(
    heard: CalibrationSample,
    found: Sequence[TierCalibration],
    tiers: Sequence[Tier],
    guarantee: Guarantee,
    forms: Forms,
) -> list[tuple[str | None, Claim]]:
    """Return the claims, each with its label."""
    claimed = []
    for number, (tier, calibration) in enumerate(zip(tiers, found, strict=True)):
        prediction = calibration.calibrated(tier, heard.guesses[number])
        if unfit(prediction, forms):
            continue
        length = len(heard.example.text)
        if number == len(tiers) - 1 or calibration.may_answer(prediction, length):
            right = _right(heard, number, guarantee)
            claim = Claim(confidence(prediction, guarantee), right)
            claimed.append((prediction.label, claim))
    return claimed


def _right(heard: CalibrationSample, tier: int, guarantee: Guarantee) -> bool:
    if guarantee is Guarantee.LABEL:
        return heard.label_right(tier)
    if guarantee is Guarantee.ENTITIES:
        return heard.entities_right(tier)
    return heard.label_right(tier) and heard.entities_right(tier)
