"""What teachers think of plain texts, asked once: a probability for each label.

Networks that share an encoder learn from these; to ask each one's teachers about every
batch would take as long again as the training.
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
    known: Catalogue,
    report: Callable[[int, int], None],
) -> Tensor:
    """Return the mean opinion on each example: examples x labels.

    `known` are the labels without what is outside, which the teachers may know: their
    opinion is then that among the labels. Only the first window of a text is read.
    """
    windows = [rows(example, tokenizer, known)[0] for example in examples]
    order = sorted(range(len(windows)), key=lambda number: len(windows[number].ids))
    found = torch.zeros(len(windows), known.classes)
    for first in range(0, len(order), A_BATCH):
        chosen = order[first : first + A_BATCH]
        some = [windows[number] for number in chosen]
        found[chosen] = torch.stack(
            [_said(teacher, some, known.classes) for teacher in teachers]
        ).mean(0)
        report(min(first + A_BATCH, len(order)), len(order))
    return found


def _said(teacher: Network, some: Sequence[FeatureRow], classes: int) -> Tensor:
    batch = collate(some)
    fast = fast_halves(batch.ids.device)
    halves = torch.autocast(batch.ids.device.type, torch.bfloat16, enabled=fast)
    with torch.no_grad(), halves:
        logits: Tensor = teacher(batch.ids, batch.mask)["label_logits"]
    return logits.float()[:, :classes].softmax(-1)
