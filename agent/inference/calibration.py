"""What makes of a tier's guess a prediction whose scores mean what they say.

A `Calibration` is what `slm-agent calibrate` and the workshop write
(agent/evaluation/fitting.py makes it): a logistic for each score, and thresholds by
allowed error. It belongs to one model on one runtime, named by its fingerprint. This
module only applies it.
"""

import hashlib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from agent.core.types import Entity, Form, Guarantee, Prediction, RawPrediction, Tier
from agent.inference.certify import Case, Claim
from agent.inference.decide import Forms

STEPS_OF_SCORES = 10_000  # of claims, from 0 to 1
NEARLY = 1e-6  # as close to 0 and 1 as a probability may come before its odds


class FrozenModel(BaseModel):
    """Comes from a file; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Logistic(FrozenModel):
    """The probability of being right, from evidence."""

    weights: tuple[float, ...]
    bias: float

    def __call__(self, evidence: Sequence[float]) -> float:
        """Return the probability; raises ValueError where the evidence is not ours."""
        pairs = zip(self.weights, evidence, strict=True)
        return sigmoid(self.bias + sum(weight * value for weight, value in pairs))


class TierCalibration(FrozenModel):
    """One tier: how its answers are scored, and from where on it may answer.

    The floors hold for every `max_error`: below them a later tier knows better.
    """

    label: Logistic | None = None
    """The label right, of a text that is in scope."""
    inside: Logistic | None = None
    """The text in scope, by the same evidence; None where nothing is known of others.

    Two factors instead of one logistic: what tells strangers apart says little of which
    label is right.
    """
    entities: Logistic | None = None
    """All entities right, none missing."""
    entity: Logistic | None = None
    """One entity; its evidence is the log-odds of its raw score."""
    form_floor: float = Field(default=0.5, ge=0, le=1)
    """The least that the forms which a label allows must have together."""
    longest: int | None = Field(default=None, ge=1)
    """Characters of a text that an early tier may answer; None: any."""
    label_floor: float = Field(default=0.0, ge=0)
    entities_floor: float = Field(default=0.0, ge=0)

    def calibrated(self, by: Tier, guess: RawPrediction) -> Prediction:
        """Return the guess as a prediction, with calibrated scores."""
        return Prediction(
            by=by,
            label=guess.label,
            score=self._label_score(guess.label_evidence),
            entities=tuple(self._scored(entity) for entity in guess.entities),
            entities_score=(
                self.entities(guess.entities_evidence) if self.entities else None
            ),
            outside=guess.outside,
            forms=guess.forms,
            ruled=guess.ruled,
            form_floor=self.form_floor,
        )

    def _label_score(self, evidence: Sequence[float]) -> float | None:
        if self.label is None:
            return None
        return self.label(evidence) * (self.inside(evidence) if self.inside else 1.0)

    def _scored(self, entity: Entity) -> Entity:
        if self.entity is None or entity.score is None:
            return entity
        return replace(entity, score=self.entity([log_odds(entity.score)]))

    def may_answer(self, prediction: Prediction, length: int = 0) -> bool:
        """Tell whether the prediction reaches the floors of its tier.

        `length` is that of the text, in characters.
        """
        if self.longest is not None and length > self.longest:
            return False
        return (prediction.score is None or prediction.score >= self.label_floor) and (
            prediction.entities_score is None
            or prediction.entities_score >= self.entities_floor
        )


class Threshold(FrozenModel):
    """The lowest score from which on at most `max_error` is wrong.

    `coverage` and `error` are those on the calibration data.
    """

    max_error: float = Field(gt=0, lt=1)
    threshold: float = Field(ge=0, le=1)
    coverage: float = Field(ge=0, le=1)
    error: float = Field(ge=0, le=1)


class Calibration(FrozenModel):
    """`calibration.json`: scores and certified thresholds of one bundle."""

    format: Literal[1] = 1
    fingerprint: str = Field(pattern="^[0-9a-f]{64}$")
    runtime: str
    data: str
    fitted_on: int = Field(ge=0)
    certified_on: int = Field(ge=0)
    confidence: float = Field(gt=0, lt=1)
    certified: bool = True
    """False where the texts are not like those that will come, such as made-up ones."""
    forms: dict[str, list[Form]] | None = None
    """Which forms were answered, by label; "": by the others. None: nobody asked."""
    tiers: list[TierCalibration]
    tables: dict[Guarantee, list[Threshold]]
    claims: dict[Guarantee, str] = Field(default_factory=dict)
    """What the certified texts were answered, for labels that want an error of their
    own: a text a line; of each tier that may answer the number of the label, the score
    in ten thousandths, rounded down, and 1 where that is right."""

    def threshold(self, guarantee: Guarantee, max_error: float) -> Threshold | None:
        """Return the row of the largest error that is still allowed, if there is one.

        Errors that the data could not carry have no row.
        """
        table = self.tables.get(guarantee, [])
        rows = [row for row in table if row.max_error <= max_error]
        return max(rows, key=lambda row: row.max_error, default=None)

    def made_with(self, forms: Forms) -> bool:
        """Tell whether what was certified answered these forms, and no others."""
        return self.forms is None or self.forms == forms.told()

    def certifies(
        self, guarantee: Guarantee, max_error: float, threshold: float
    ) -> bool:
        """Tell whether a threshold is one of those that were certified for an error.

        They were tried from strict to lax: what passed for a smaller error did so for
        this one, and so did all from there down to the row's. Nobody tried stricter
        ones: these leave fewer answers, of which the same may be wrong.
        """
        table = self.tables.get(guarantee, [])
        tried = [row.threshold for row in table if row.max_error <= max_error]
        return bool(tried) and min(tried) <= threshold <= max(tried)

    def cases(self, guarantee: Guarantee, labels: Collection[int]) -> list[Case]:
        """Return what was claimed with one of these labels, for texts that had any."""
        cases: list[Sequence[Claim]] = []
        for line in self.claims.get(guarantee, "").splitlines():
            numbers = (map(int, claim.split(",")) for claim in line.split())
            case = [
                Claim(score / STEPS_OF_SCORES, bool(right))
                for label, score, right in numbers
                if label in labels
            ]
            if case:
                cases.append(case)
        return cases

    def least_error(self, guarantee: Guarantee) -> float | None:
        """Return the smallest error that is certified at all."""
        rows = self.tables.get(guarantee, [])
        return min((row.max_error for row in rows), default=None)


def fingerprint(
    files: Mapping[str, str],
    labels: Sequence[str],
    entities: Sequence[str],
    runtime: str,
) -> str:
    """Return the sha256 that names what a calibration was made with.

    `files` are the sha256 of models and tokenizers by file name.
    """
    named = [dict(sorted(files.items())), list(labels), list(entities), runtime]
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()


def with_agreement(
    guess: RawPrediction, earlier: RawPrediction | None
) -> RawPrediction:
    """Append the earlier tier's opinion to the `label_evidence` of a raw prediction.

    One or two numbers follow those of the tier itself (`Encoder.predict` has their
    order):

    1. softplus of the earlier tier's log-odds for its own label, negative if its label
       is another one;
    2. only if the earlier tier recognises texts out of scope: the negative log-odds
       that it gives to that.

    The two tiers make different errors, so each is evidence of the other's. Without an
    earlier tier, or where one of them has no labels, the prediction stays as it is.
    """
    if earlier is None or not earlier.label_evidence or not guess.label_evidence:
        return guess
    odds = earlier.label_evidence[0]
    sign = 1.0 if earlier.label == guess.label else -1.0
    # softplus: an unsure earlier tier is little evidence either way.
    opinion = sign * math.log1p(math.exp(min(odds, 30.0)))
    evidence = (*guess.label_evidence, opinion)
    if earlier.outside is None:
        return replace(guess, label_evidence=evidence)
    evidence = (*evidence, -log_odds(earlier.outside))
    outside = earlier.outside if guess.outside is None else guess.outside
    return replace(guess, label_evidence=evidence, outside=outside)


def sigmoid(value: float) -> float:
    """Return 1 / (1 + exp(-value)) without overflow."""
    if value >= 0:
        return 1.0 / (1.0 + math.exp(-value))
    power = math.exp(value)
    return power / (1.0 + power)


def log_odds(probability: float) -> float:
    """Return log(p / (1 - p)), finite also for 0 and 1."""
    bounded = min(max(probability, NEARLY), 1.0 - NEARLY)
    return math.log(bounded) - math.log1p(-bounded)
