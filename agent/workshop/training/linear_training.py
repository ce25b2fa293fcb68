"""Train the linear tier: sparse features, dense weights, seconds on one core."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    embedding_bag,
)

from agent.core.types import Form
from agent.evaluation.examples import Example
from agent.inference.linear import LinearSpec, features
from agent.workshop.data.catalogue import Catalogue
from agent.workshop.data.forms import Formed
from agent.workshop.data.negatives import Negatives
from agent.workshop.data.recipe import LinearTier
from agent.workshop.data.speech import accent

WEIGHTS = "linear.npz"
UNKNOWN = -100  # the label is not known; cross_entropy ignores it


@dataclass(frozen=True, slots=True)
class Fact:
    """The features of a text, its true label, and whether it has no entities."""

    rows: list[int]
    label: int = UNKNOWN
    empty: float = float("nan")  # 1: no entities, 0: some, nan: not known
    form: int = UNKNOWN


def train_linear(
    plan: LinearTier,
    examples: Sequence[Example],
    catalogue: Catalogue,
    negatives: Negatives | None,
    seed: int,
    formed: Sequence[Formed] = (),
) -> tuple[LinearSpec, dict[str, np.ndarray]]:
    """Return the spec of the tier and the arrays of its weights file.

    agent/inference/linear.py has their shapes. `negatives` are texts out of scope;
    `formed` are texts of which the form is known, and maybe nothing else.
    """
    chance = random.Random(f"{seed}/linear")  # noqa: S311  no secret
    facts = [_fact(example, plan, catalogue) for example in examples]
    forms = [_of_form(one, plan) for one in formed]
    entities = bool(catalogue.entities)
    columns = catalogue.classes + entities + bool(formed) * len(Form)
    weights = torch.zeros(1 << plan.bits, columns, requires_grad=True)
    bias = torch.zeros(columns, requires_grad=True)
    optimiser = torch.optim.Adam([weights, bias], lr=plan.rate, fused=True)
    say = accent()
    extra = negatives.an_epoch if negatives else 0
    extra += min(len(forms), len(facts))
    steps = plan.epochs * -(-(len(facts) + extra) // plan.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: max(0.0, 1 - step / steps)
    )
    for _ in range(plan.epochs):
        drawn = [*facts, *chance.sample(forms, min(len(forms), len(facts)))]
        for number, example in enumerate(examples):
            if chance.random() < plan.spoken:
                drawn[number] = _fact(say(example, chance), plan, catalogue)
        if negatives:
            drawn += [_fact(one, plan, catalogue) for one in negatives.epoch(chance)]
        chance.shuffle(drawn)
        for first in range(0, len(drawn), plan.batch):
            batch = drawn[first : first + plan.batch]
            logits = _logits(batch, weights, bias, plan.dropout, chance)
            loss = _loss(logits, batch, catalogue)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()
    spec = LinearSpec(
        family="linear",
        weights=WEIGHTS,
        bits=plan.bits,
        outside=catalogue.outside is not None,
        forms=bool(formed),
    )
    return spec, _quantised(weights.detach().numpy(), bias.detach().numpy())


def write_linear(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write the weights file into a bundle."""
    np.savez(folder / WEIGHTS, allow_pickle=False, **arrays)


def _fact(example: Example, plan: LinearTier, catalogue: Catalogue) -> Fact:
    labelled = example.label is not None
    outside = labelled and example.label == catalogue.outside
    unknown = example.spans is None or outside
    return Fact(
        rows=features(example.text, plan.bits),
        label=catalogue.index(example.label) if example.label is not None else UNKNOWN,
        empty=float("nan") if unknown else float(not example.spans),
    )


def _of_form(formed: Formed, plan: LinearTier) -> Fact:
    return Fact(features(formed.text, plan.bits), form=[*Form].index(formed.form))


def _logits(
    batch: Sequence[Fact],
    weights: Tensor,
    bias: Tensor,
    dropout: float,
    chance: random.Random,
) -> Tensor:
    rows: list[int] = []
    starts: list[int] = []
    scales: list[float] = []
    for fact in batch:
        kept = [row for row in fact.rows if chance.random() >= dropout] or fact.rows
        starts.append(len(rows))
        rows += kept
        scales += [len(kept) ** -0.5] * len(kept)
    total: Tensor = embedding_bag(
        torch.tensor(rows, dtype=torch.long),
        weights,
        torch.tensor(starts),
        mode="sum",
        per_sample_weights=torch.tensor(scales),
    )
    return total + bias


def _loss(logits: Tensor, batch: Sequence[Fact], catalogue: Catalogue) -> Tensor:
    loss = torch.zeros(())
    labels = torch.tensor([fact.label for fact in batch])
    if catalogue.labels and bool((labels != UNKNOWN).any()):
        loss = loss + cross_entropy(logits[:, : catalogue.classes], labels)
    empty = torch.tensor([fact.empty for fact in batch])
    marked = ~empty.isnan()
    if catalogue.entities and bool(marked.any()):
        nothing = logits[marked, catalogue.classes]
        loss = loss + binary_cross_entropy_with_logits(nothing, empty[marked])
    forms = torch.tensor([fact.form for fact in batch])
    if bool((forms != UNKNOWN).any()):
        loss = loss + cross_entropy(logits[:, -len(Form) :], forms)
    return loss


def _quantised(weights: np.ndarray, bias: np.ndarray) -> dict[str, np.ndarray]:
    """Return int8 weights with a scale for each column."""
    scale = np.maximum(np.abs(weights).max(axis=0), 1e-9) / 127
    return {
        "weights": np.round(weights / scale).astype(np.int8),
        "scale": scale.astype(np.float32),
        "bias": bias.astype(np.float32),
    }
