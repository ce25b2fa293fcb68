"""The training loop: one fixed schedule over all training examples, seeded, resumable.

What ships is the running mean of the weights (EMA), not the last step. Each epoch
draws from its own random stream, so that a resumed run makes the same network.
"""

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR

from agent.examples import Example
from agent.workshop.augmentation import pool, swap
from agent.workshop.catalogue import Catalogue
from agent.workshop.features import IGNORED, Batch, Row, collate, rows
from agent.workshop.negatives import Negatives
from agent.workshop.network import Network
from agent.workshop.recipe import Training

Report = Callable[[int, int, str], None]  # done, total, what is worth saying

LARGEST_GRADIENT = 1.0
SORTED_TOGETHER = 40  # batches whose rows are sorted by length: less padding


@dataclass(frozen=True, slots=True)
class Lesson:
    """What is taught: examples, and how their texts and classes become numbers."""

    examples: Sequence[Example]
    tokenizer: Tokenizer
    known: Catalogue
    negatives: Negatives | None = None
    teachers: Sequence[Network] = ()


def train(
    network: Network,
    lesson: Lesson,
    plan: Training,
    checkpoint: Path,
    report: Report,
) -> None:
    """Train in place; continues from `checkpoint` if there is one of the same run."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device)
    run = _Run(network, lesson, plan)
    first = run.restore(checkpoint)
    total = run.batches * plan.epochs
    for epoch in range(first, plan.epochs):
        torch.manual_seed(plan.seed * 1000 + epoch)
        network.train()
        for number, batch in enumerate(run.epoch(epoch)):
            loss = run.step(batch.to(device))
            report(epoch * run.batches + number + 1, total, f"loss {loss:.3f}")
        run.save(checkpoint, epoch + 1)
    run.take_average()
    network.to("cpu").eval()


class _Run:
    """Owns the optimiser and the running mean of one training."""

    def __init__(self, network: Network, lesson: Lesson, plan: Training) -> None:
        self._network = network
        self._lesson = lesson
        self._plan = plan
        self._swaps = pool(lesson.examples)
        self._mask = lesson.tokenizer.token_to_id("[MASK]")
        self._special = _special_ids(lesson.tokenizer)
        rows_per_epoch = sum(
            len(rows(example, lesson.tokenizer, lesson.known))
            for example in lesson.examples
        )
        extra = lesson.negatives.an_epoch if lesson.negatives else 0
        self.batches = math.ceil((rows_per_epoch + extra) / plan.batch)
        self._autocast = _fast_halves()
        self._names = [name for name, _ in network.named_parameters()]
        self._weights = [weight for _, weight in network.named_parameters()]
        self._average = [weight.detach().clone() for weight in self._weights]
        self._optimiser = torch.optim.AdamW(_groups(network, plan), fused=True)
        steps = self.batches * plan.epochs
        warmup = max(1, int(plan.warmup * steps))
        self._schedule = LambdaLR(self._optimiser, _cosine(warmup, steps))
        self._steps = 0

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield the batches of an epoch: shuffled, of similar length, augmented."""
        chance = random.Random(f"{self._plan.seed}/{number}")  # noqa: S311  no secret
        tokens = torch.Generator().manual_seed(self._plan.seed * 1000 + number)
        chosen: list[Row] = []
        for example in self._lesson.examples:
            if example.spans and chance.random() < self._plan.swapped:
                example = swap(example, self._swaps, chance)  # noqa: PLW2901
            chosen += rows(example, self._lesson.tokenizer, self._lesson.known)
        if self._lesson.negatives:
            for example in self._lesson.negatives.epoch(chance):
                chosen += rows(example, self._lesson.tokenizer, self._lesson.known)[:1]
        chance.shuffle(chosen)
        batches = [collate(group) for group in _grouped(chosen, self._plan.batch)]
        chance.shuffle(batches)
        for batch in batches[: self.batches]:
            yield self._hidden(batch, tokens)

    def _hidden(self, batch: Batch, tokens: torch.Generator) -> Batch:
        """Return the batch with some tokens masked: 0 to twice the mean share."""
        if not self._plan.masked or self._mask is None:
            return batch
        share = 2 * self._plan.masked * torch.rand((), generator=tokens)
        hide = torch.rand(batch.ids.shape, generator=tokens) < share
        hide &= ~torch.isin(batch.ids, self._special)
        ids = batch.ids.masked_fill(hide, self._mask)
        return Batch(ids, batch.mask, batch.tags, batch.labels)

    def step(self, batch: Batch) -> float:
        """Learn from one batch; return its loss."""
        with self._halves(batch):
            found = self._network(batch.ids, batch.mask)
        loss = _loss(found, batch, self._plan.smoothing)
        if self._lesson.teachers:
            taught = _taught(found, self._opinion(batch), batch)
            loss = torch.lerp(loss, taught, self._plan.opinion)
        self._optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self._weights, LARGEST_GRADIENT)
        self._optimiser.step()
        self._schedule.step()
        self._steps += 1
        decay = min(self._plan.averaging, (1 + self._steps) / (10 + self._steps))
        current = [weight.detach() for weight in self._weights]
        torch._foreach_lerp_(self._average, current, 1 - decay)
        return float(loss.item())

    def _halves(self, batch: Batch) -> torch.autocast:
        return torch.autocast(
            batch.ids.device.type, torch.bfloat16, enabled=self._autocast
        )

    def _opinion(self, batch: Batch) -> dict[str, Tensor]:
        """Return the teachers' mean probabilities."""
        shares: dict[str, list[Tensor]] = {}
        with torch.no_grad(), self._halves(batch):
            for teacher in self._lesson.teachers:
                for name, logits in teacher(batch.ids, batch.mask).items():
                    shares.setdefault(name, []).append(logits.float().softmax(-1))
        return {name: torch.stack(each).mean(0) for name, each in shares.items()}

    def take_average(self) -> None:
        """Put the running mean into the network."""
        with torch.no_grad():
            for weight, average in zip(self._weights, self._average, strict=True):
                weight.copy_(average)

    def save(self, path: Path, epochs: int) -> None:
        """Write everything that the next epoch needs; replaces the file at once."""
        state = {
            "epochs": epochs,
            "steps": self._steps,
            "network": self._network.state_dict(),
            "average": dict(zip(self._names, self._average, strict=True)),
            "optimiser": self._optimiser.state_dict(),
            "schedule": self._schedule.state_dict(),
        }
        part = path.with_suffix(".part")
        torch.save(state, part)
        part.replace(path)

    def restore(self, path: Path) -> int:
        """Return how many epochs are done already."""
        if not path.is_file():
            return 0
        state = torch.load(path, map_location="cpu", weights_only=True)
        self._network.load_state_dict(state["network"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._schedule.load_state_dict(state["schedule"])
        average: Mapping[str, Tensor] = state["average"]
        with torch.no_grad():
            for name, weight in zip(self._names, self._average, strict=True):
                weight.copy_(average[name])
        self._steps = state["steps"]
        return int(state["epochs"])


def _special_ids(tokenizer: Tokenizer) -> Tensor:
    added = tokenizer.get_added_tokens_decoder()
    return torch.tensor(sorted(added), dtype=torch.long)


def _grouped(chosen: Sequence[Row], size: int) -> Iterator[Sequence[Row]]:
    """Cut shuffled rows into batches of similar length."""
    near = size * SORTED_TOGETHER
    for start in range(0, len(chosen), near):
        part = sorted(chosen[start : start + near], key=lambda row: len(row.ids))
        for first in range(0, len(part), size):
            yield part[first : first + size]


def _loss(found: Mapping[str, Tensor], batch: Batch, smoothing: float) -> Tensor:
    """Return the sum of both heads' cross entropies."""
    loss = torch.zeros((), device=batch.ids.device)
    if "label_logits" in found and bool((batch.labels != IGNORED).any()):
        loss = loss + cross_entropy(
            found["label_logits"].float(), batch.labels, label_smoothing=smoothing
        )
    if "tag_logits" in found and bool((batch.tags != IGNORED).any()):
        tags = found["tag_logits"].float().flatten(0, 2)
        loss = loss + cross_entropy(tags, batch.tags.flatten())
    return loss


def _taught(
    found: Mapping[str, Tensor], opinion: Mapping[str, Tensor], batch: Batch
) -> Tensor:
    """Return the sum of both heads' cross entropies against the teachers' opinion."""
    loss = torch.zeros((), device=batch.ids.device)
    if "label_logits" in found:
        loss = loss + cross_entropy(
            found["label_logits"].float(), opinion["label_logits"]
        )
    if "tag_logits" in found:
        judged = batch.tags != IGNORED
        if bool(judged.any()):
            loss = loss + cross_entropy(
                found["tag_logits"].float()[judged], opinion["tag_logits"][judged]
            )
    return loss


def _fast_halves() -> bool:
    """Tell whether this machine multiplies bfloat16 faster than float32."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    return "avx512_bf16" in _cpu_flags() or "amx_bf16" in _cpu_flags()


def _cpu_flags() -> str:
    try:
        return Path("/proc/cpuinfo").read_text("ascii", "ignore")
    except OSError:
        return ""


def _groups(network: Network, plan: Training) -> list[dict[str, object]]:
    """Give each layer its learning rate, and no weight decay to norms and biases."""
    layers = network.encoder.config.num_hidden_layers
    found: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, weight in network.named_parameters():
        rate = plan.head_rate
        if name.startswith("encoder."):
            _, _, after = name.partition(".layer.")
            depth = layers - int(after.split(".")[0]) - 1 if after else layers
            rate = plan.encoder_rate * plan.layer_decay**depth
        matrix = weight.ndim > 1 and "embeddings" not in name
        decay = plan.weight_decay if matrix else 0.0
        found.setdefault((rate, decay), []).append(weight)
    return [
        {"params": weights, "lr": rate, "weight_decay": decay}
        for (rate, decay), weights in found.items()
    ]


def _cosine(warmup: int, steps: int) -> Callable[[int], float]:
    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        done = (step - warmup) / max(1, steps - warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    return factor
