"""The label probabilities of teachers for training texts, computed once.

Networks that share an encoder learn from them. To run each network's teachers on every
batch would double the time of the training.
"""

from collections.abc import Callable, Sequence

import torch
from tokenizers import Tokenizer
from torch import Tensor

from agent.evaluation.examples import Example
from agent.workshop.data.catalogue import Catalogue
from agent.workshop.data.features import FeatureRow, collate, rows
from agent.workshop.training.network import Network
from agent.workshop.training.training import fast_halves

A_BATCH = 64


def opinions(
    teachers: Sequence[Network],
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    catalogue: Catalogue,
    report: Callable[[int, int], None],
) -> Tensor:
    """Return the mean label probabilities of the teachers: examples x labels.

    `catalogue` has the labels without the class for texts out of scope. Teachers may
    have that class; then their probabilities are those among the labels. Only the first
    window of a text is read.
    """
    windows = [rows(example, tokenizer, catalogue)[0] for example in examples]
    order = sorted(range(len(windows)), key=lambda number: len(windows[number].ids))
    means = torch.zeros(len(windows), catalogue.classes)
    for first in range(0, len(order), A_BATCH):
        chosen = order[first : first + A_BATCH]
        some = [windows[number] for number in chosen]
        means[chosen] = torch.stack(
            [_probabilities(teacher, some, catalogue.classes) for teacher in teachers]
        ).mean(0)
        report(min(first + A_BATCH, len(order)), len(order))
    return means


def _probabilities(
    teacher: Network, some: Sequence[FeatureRow], classes: int
) -> Tensor:
    batch = collate(some)
    fast = fast_halves(batch.ids.device)
    halves = torch.autocast(batch.ids.device.type, torch.bfloat16, enabled=fast)
    with torch.no_grad(), halves:
        logits: Tensor = teacher(batch.ids, batch.mask)["label_logits"]
    return logits.float()[:, :classes].softmax(-1)
