"""Training the head for forms: on what an early layer of a finished encoder says.

An encoder that was taught labels has forgotten by its last layer how a text was put;
a layer in its middle still knows. The encoder stays as it is.
"""

import random
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, pad

from agent.core.types import Form
from agent.workshop.data.forms import Formed

WIDTH = 64
NEAR = 5  # tokens that are looked at together
LONGEST = 32  # tokens of a text that teach
BATCH = 128
EPOCHS = 3
RATE = 2e-3
DROPOUT = 0.2
SMOOTHING = 0.05
FARTHEST = 1e4  # below all that a token can say

Read = Callable[[str], NDArray[np.float32]]  # a text -> tokens x width
Report = Callable[[int, int], None]


class FormHead(nn.Module):  # type: ignore[misc,unused-ignore]  # torch is optional
    """What is said by each few tokens side by side: of that the most, and the mean."""

    def __init__(self, width: int) -> None:
        """`width` is that of the layer it reads."""
        super().__init__()
        self.narrow = nn.Linear(width, WIDTH)
        self.near = nn.Linear(WIDTH * NEAR, 2 * WIDTH)
        self.form = nn.Linear(4 * WIDTH, len(Form))
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, early: Tensor, attention_mask: Tensor) -> Tensor:
        """Return logits, batch x forms, for batch x tokens x width."""
        shown = attention_mask.unsqueeze(-1).to(early.dtype)
        each = gelu(self.narrow(self.dropout(early))) * shown
        sides = pad(each, (0, 0, NEAR // 2, NEAR // 2))
        tokens = early.shape[1]
        places = [sides[:, place : place + tokens] for place in range(NEAR)]
        features = gelu(self.near(torch.cat(places, dim=-1)))
        mean = (features * shown).sum(1) / shown.sum(1)
        most = (features - (1.0 - shown) * FARTHEST).amax(1)
        logits: Tensor = self.form(self.dropout(torch.cat([mean, most], dim=-1)))
        return logits


def train_forms(
    formed: Sequence[Formed], read: Read, seed: int, report: Report
) -> FormHead:
    """Return a head that tells forms by what `read` says of texts."""
    torch.manual_seed(seed)
    chance = random.Random(f"{seed}/forms")  # noqa: S311  no secret
    hidden, lengths = _read(formed, read, report)
    order = [*Form]
    truth = torch.tensor([order.index(one.form) for one in formed])
    head = FormHead(hidden.shape[-1])
    optimiser = torch.optim.AdamW(head.parameters(), lr=RATE, weight_decay=0.02)
    steps = EPOCHS * -(-len(formed) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, steps + EPOCHS)
    head.train()
    for _ in range(EPOCHS):
        for chosen in _batches(lengths, chance):
            longest = int(lengths[chosen].max())
            mask = torch.arange(longest)[None, :] < lengths[chosen, None]
            logits = head(hidden[chosen, :longest].float(), mask)
            loss = cross_entropy(logits, truth[chosen], label_smoothing=SMOOTHING)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()
    head.eval()
    return head


def _read(
    formed: Sequence[Formed], read: Read, report: Report
) -> tuple[Tensor, Tensor]:
    """Return what is said of all texts, texts x tokens x width, and their lengths."""
    first = read(formed[0].text)
    width = first.shape[-1]
    hidden = torch.zeros(len(formed), LONGEST, width, dtype=torch.float16)
    lengths = torch.zeros(len(formed), dtype=torch.long)
    for number, one in enumerate(formed):
        states = read(one.text)[:LONGEST]
        lengths[number] = len(states)
        hidden[number, : len(states)] = torch.from_numpy(states)
        if number % 1000 == 0 or number == len(formed) - 1:
            report(number + 1, len(formed))
    return hidden, lengths


def _batches(lengths: Tensor, chance: random.Random) -> list[Tensor]:
    """Return shuffled batches of texts that are similarly long."""
    order = list(range(len(lengths)))
    chance.shuffle(order)
    near = BATCH * 40
    batches: list[Tensor] = []
    for start in range(0, len(order), near):
        part = sorted(order[start : start + near], key=lambda one: int(lengths[one]))
        batches += torch.split(torch.tensor(part), BATCH)
    chance.shuffle(batches)
    return batches
