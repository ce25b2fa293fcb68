"""Making a calibration: from what the tiers say to labelled texts, to certified scores.

Used by the workshop and, on a device, by `slm-agent calibrate`: numpy and pure Python.
Some of the texts fit the scores, the others certify thresholds on them: a certificate
is worth nothing on data that its scores were fitted to. Scores have a handful of
weights, certificates want numbers: three in ten fit, seven certify.
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict

import numpy as np

from agent.core.errors import ConfigError
from agent.core.types import Form, Guarantee, Prediction, RawPrediction, Tier
from agent.evaluation.regression import judge, told_apart
from agent.evaluation.samples import LEAST, CalibrationSample, parted, places
from agent.evaluation.scoring import place
from agent.inference.calibration import (
    STEPS_OF_SCORES,
    Calibration,
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
STRANGE = 2  # texts that a text out of scope counts for: data has few, devices many
# Share of the texts in scope, and rightly labelled, whose form may be doubted.
FORMS_LOST, FORMS_LOST_EARLY = 0.015, 0.1
FORM_FLOORS = (0.5, 0.95)  # the least and the most that is asked of a form
FORMS_UNHEEDED = 0.1  # what refuses more of the right texts is no judge of forms
LONG = 0.95  # of the texts in scope are no longer than what an early tier reads
SLACK = 0.002  # share of the texts, or one, on which an early tier may be worse


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
    calibrations = _fitted_tiers(fitted, outside, labels, len(tiers), before, forms)
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
        tiers=calibrations,
        tables={
            guarantee: table(texts, calibrations, tiers, guarantee, forms)
            for guarantee, texts in proving.items()
        },
        claims={
            guarantee: claims(texts, calibrations, tiers, guarantee, forms, [*labels])
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
    calibrations = [
        _kept(_fit(inside, outside, number), before[number] if before else None)
        for number in range(tiers)
    ]
    for number in range(tiers - 1):
        calibrations[number] = _with_floors(calibrations, number, inside, outside)
    return [
        _with_form_floor(one, number, inside, forms, early=number < tiers - 1)
        for number, one in enumerate(calibrations)
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


def _kept(fresh: TierCalibration, before: TierCalibration | None) -> TierCalibration:
    """Return what was found, with what was known before where nothing was."""
    if before is None:
        return fresh
    made = ((key, getattr(fresh, key)) for key in fresh.model_fields_set)
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
        label=judge(
            [h.guesses[tier].label_evidence for h in labelled],
            [h.label_right(tier) for h in labelled],
        ),
        inside=told_apart(
            [h.guesses[tier].label_evidence for h in labelled],
            [h.guesses[tier].label_evidence for h in strange],
        ),
        entities=judge(
            [h.guesses[tier].entities_evidence for h in extracting],
            [h.entities_right(tier) for h in extracting],
        ),
        entity=judge(
            [(log_odds(entity.score or 0.0),) for _, entity in entities],
            [place(entity) in places(h.example.marked) for h, entity in entities],
        ),
    )


# -- thresholds


def _with_floors(
    calibrations: Sequence[TierCalibration],
    tier: int,
    heard: Sequence[CalibrationSample],
    outside: Sequence[CalibrationSample],
) -> TierCalibration:
    """Let an early tier answer only where the last would hardly do better.

    To texts from outside any answer is a loss: the last tier would know.
    """
    last = len(calibrations) - 1

    def judged(some: Sequence[CalibrationSample]) -> list[Prediction]:
        return [
            calibrations[tier].calibrated(Tier.LINEAR, h.guesses[tier]) for h in some
        ]

    labelled = _enough([h for h in heard if h.example.label is not None])
    marked = _enough([h for h in heard if h.example.spans is not None])
    changes: dict[str, float] = {}
    if calibrations[tier].label is not None and labelled:
        losses = [h.label_right(last) - h.label_right(tier) for h in labelled]
        changes["label_floor"] = _floor(
            [p.score or 0.0 for p in judged([*labelled, *outside])],
            [*losses, *(1 for _ in outside)],
        )
    if calibrations[tier].entities is not None and marked:
        changes["entities_floor"] = _floor(
            [p.entities_score or 0.0 for p in judged(marked)],
            [h.entities_right(last) - h.entities_right(tier) for h in marked],
        )
    return calibrations[tier].model_copy(update=changes)


def _with_form_floor(
    calibration: TierCalibration,
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
    return calibration.model_copy(update=changes)


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
    calibrations: Sequence[TierCalibration],
    tiers: Sequence[Tier],
    guarantee: Guarantee,
    forms: Forms = ANY_FORM,
) -> list[Threshold]:
    """Return a certified threshold for each error that the data can carry.

    Every text says what makes an answer to it wrong.
    """
    cases = [_case(h, calibrations, tiers, guarantee, forms) for h in heard]
    certificates = (certify(cases, level) for level in MAX_ERRORS)
    return [
        Threshold(**asdict(certificate)) for certificate in certificates if certificate
    ]


def claims(
    heard: Sequence[CalibrationSample],
    calibrations: Sequence[TierCalibration],
    tiers: Sequence[Tier],
    guarantee: Guarantee,
    forms: Forms,
    labels: Sequence[str],
) -> str:
    """Return what is claimed of texts, with the labels (`Calibration.claims`)."""
    lines = []
    for one in heard:
        claimed = _claimed(one, calibrations, tiers, guarantee, forms)
        lines.append(
            " ".join(
                f"{labels.index(label)},{int(claim.score * STEPS_OF_SCORES)},"
                f"{claim.right:d}"
                for label, claim in claimed
                if label is not None
            )
        )
    return "\n".join(lines)


def _case(
    heard: CalibrationSample,
    calibrations: Sequence[TierCalibration],
    tiers: Sequence[Tier],
    guarantee: Guarantee,
    forms: Forms = ANY_FORM,
) -> Case:
    """Return the claims of the tiers that may answer a text."""
    return [
        claim for _, claim in _claimed(heard, calibrations, tiers, guarantee, forms)
    ]


def _claimed(
    heard: CalibrationSample,
    calibrations: Sequence[TierCalibration],
    tiers: Sequence[Tier],
    guarantee: Guarantee,
    forms: Forms,
) -> list[tuple[str | None, Claim]]:
    """Return the claims, each with its label."""
    claimed = []
    for number, (tier, calibration) in enumerate(zip(tiers, calibrations, strict=True)):
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
