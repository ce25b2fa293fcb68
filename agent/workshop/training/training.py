"""The training loop: one fixed schedule over all training examples, seeded, resumable.

The result is the running mean of the weights (EMA), not the last step. Each epoch has
its own random stream, so that a resumed run makes the same network.

Networks that share an encoder are trained together: each batch is of one of them, and
the batches of all are shuffled.
"""

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR

from agent.core.files import replacing
from agent.evaluation.examples import Example
from agent.workshop.data.augmentation import Pool, pool, swap
from agent.workshop.data.catalogue import Catalogue
from agent.workshop.data.features import IGNORED, Batch, FeatureRow, collate, rows
from agent.workshop.data.negatives import Negatives
from agent.workshop.data.recipe import Training
from agent.workshop.training.network import Network, SharedTrunk

Report = Callable[[int, int, str], None]  # done, total, a detail such as the loss

LARGEST_GRADIENT = 1.0
SORTED_TOGETHER = 40  # batches whose rows are sorted by length: less padding


@dataclass(frozen=True, slots=True)
class Lesson:
    """The training data of a network, and how its texts and classes become numbers.

    `negatives` are texts out of scope. `teachers` are run on every batch. `opinions`
    are the probabilities of teachers that were run before
    (agent/workshop/training/opinions.py): examples x classes.
    """

    examples: Sequence[Example]
    tokenizer: Tokenizer
    known: Catalogue
    negatives: Negatives | None = None
    teachers: Sequence[Network] = ()
    opinions: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Pupil:
    """A network and its training data."""

    network: Network
    lesson: Lesson


def train(
    network: Network,
    lesson: Lesson,
    plan: Training,
    checkpoint: Path,
    report: Report,
) -> None:
    """Train a network in place; continues from `checkpoint` if it exists.

    The caller names the checkpoint by its run: another recipe or other data must have
    another one. `report` is called after each batch.
    """
    _train(network, [Pupil(network, lesson)], plan, checkpoint, report)


def train_together(
    trunk: SharedTrunk,
    lessons: Mapping[str, Lesson],
    plan: Training,
    checkpoint: Path,
    report: Report,
) -> None:
    """Train a trunk and all its members in place, as `train` does.

    `lessons` are those of the members, by name.
    """
    pupils = [Pupil(trunk.member(name), lesson) for name, lesson in lessons.items()]
    _train(trunk, pupils, plan, checkpoint, report)


def _train(
    whole: Network | SharedTrunk,
    pupils: Sequence[Pupil],
    plan: Training,
    checkpoint: Path,
    report: Report,
) -> None:
    device = fastest_device()
    asked = [teacher for pupil in pupils for teacher in pupil.lesson.teachers]
    for network in (whole, *asked):
        network.to(device)
    run = _Run(whole, pupils, plan)
    first = run.restore(checkpoint)
    total = run.batches * plan.epochs
    for epoch in range(first, plan.epochs):
        torch.manual_seed(plan.seed * 1000 + epoch)
        whole.train()
        for number, (pupil, batch) in enumerate(run.epoch(epoch)):
            loss = run.step(pupil, batch.to(device))
            detail = f"epoch {epoch + 1} of {plan.epochs}, loss {loss:.3f}"
            report(epoch * run.batches + number + 1, total, detail)
        run.save(checkpoint, epoch + 1)
    run.take_average()
    for network in (whole, *asked):
        network.to("cpu").eval()


class _Run:
    """Owns the optimiser and the running mean of a training run."""

    def __init__(
        self, whole: Network | SharedTrunk, pupils: Sequence[Pupil], plan: Training
    ) -> None:
        self._pupils = [(pupil, pool(pupil.lesson.examples)) for pupil in pupils]
        self._plan = plan
        tokenizer = pupils[0].lesson.tokenizer
        self._mask = tokenizer.token_to_id("[MASK]")
        self._special = _special_ids(tokenizer)
        self.batches = sum(_batches(pupil.lesson, plan.batch) for pupil in pupils)
        self._names = [name for name, _ in whole.named_parameters()]
        self._weights = [weight for _, weight in whole.named_parameters()]
        self._autocast = fast_halves(self._weights[0].device)
        self._average = [weight.detach().clone() for weight in self._weights]
        self._optimiser = torch.optim.AdamW(_groups(whole, plan), fused=True)
        steps = self.batches * plan.epochs
        warmup = max(1, int(plan.warmup * steps))
        self._schedule = LambdaLR(self._optimiser, _cosine(warmup, steps))
        self._steps = 0

    def epoch(self, number: int) -> Iterator[tuple[Pupil, Batch]]:
        """Yield the batches of an epoch: shuffled, of similar length, augmented."""
        chance = random.Random(f"{self._plan.seed}/{number}")  # noqa: S311  no secret
        tokens = torch.Generator().manual_seed(self._plan.seed * 1000 + number)
        batches: list[tuple[Pupil, Batch]] = []
        for pupil, swaps in self._pupils:
            chosen = list(self._rows(pupil.lesson, swaps, chance))
            chance.shuffle(chosen)
            groups = _grouped(chosen, self._plan.batch)
            batches += [(pupil, collate(group)) for group in groups]
        chance.shuffle(batches)
        for pupil, batch in batches[: self.batches]:
            yield pupil, self._hidden(batch, tokens)

    def _rows(
        self, lesson: Lesson, swaps: Pool, chance: random.Random
    ) -> Iterator[FeatureRow]:
        for number, example in enumerate(lesson.examples):
            if example.marked and chance.random() < self._plan.swapped:
                example = swap(example, swaps, chance)  # noqa: PLW2901
            own = rows(example, lesson.tokenizer, lesson.known)
            if lesson.opinions is not None:
                own = [replace(row, opinion=lesson.opinions[number]) for row in own]
            yield from own
        if lesson.negatives:
            for example in lesson.negatives.epoch(chance):
                yield from rows(example, lesson.tokenizer, lesson.known)[:1]

    def _hidden(self, batch: Batch, tokens: torch.Generator) -> Batch:
        """Return the batch with a random share of tokens masked: mean `plan.masked`."""
        if not self._plan.masked or self._mask is None:
            return batch
        share = 2 * self._plan.masked * torch.rand((), generator=tokens)
        hide = torch.rand(batch.ids.shape, generator=tokens) < share
        hide &= ~torch.isin(batch.ids, self._special)
        ids = batch.ids.masked_fill(hide, self._mask)
        return replace(batch, ids=ids)

    def step(self, pupil: Pupil, batch: Batch) -> float:
        """Learn from one batch; return its loss."""
        with self._halves(batch):
            logits = pupil.network(batch.ids, batch.mask)
        loss = self._loss(logits, pupil.lesson, batch)
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

    def _loss(
        self, logits: Mapping[str, Tensor], lesson: Lesson, batch: Batch
    ) -> Tensor:
        """Return the sum of both heads' losses, mixed with those against teachers."""
        share = self._plan.opinion
        of_label, of_tags = _losses(logits, batch, self._plan.smoothing)
        if batch.opinion is not None:
            taught = cross_entropy(logits["label_logits"].float(), batch.opinion)
            of_label = torch.lerp(of_label, taught, share)
        loss = of_label + of_tags
        if lesson.teachers:
            opinion = self._opinion(lesson.teachers, batch)
            loss = torch.lerp(loss, _taught(logits, opinion, batch), share)
        return loss

    def _halves(self, batch: Batch) -> torch.autocast:
        return torch.autocast(
            batch.ids.device.type, torch.bfloat16, enabled=self._autocast
        )

    def _opinion(self, teachers: Sequence[Network], batch: Batch) -> dict[str, Tensor]:
        """Return the mean probabilities of the teachers, by head."""
        shares: dict[str, list[Tensor]] = {}
        with torch.no_grad(), self._halves(batch):
            for teacher in teachers:
                for name, logits in teacher(batch.ids, batch.mask).items():
                    shares.setdefault(name, []).append(logits.float().softmax(-1))
        return {name: torch.stack(each).mean(0) for name, each in shares.items()}

    def take_average(self) -> None:
        """Put the running mean into the network."""
        with torch.no_grad():
            for weight, average in zip(self._weights, self._average, strict=True):
                weight.copy_(average)

    def save(self, path: Path, epochs: int) -> None:
        """Write all that the next epoch needs; the file is replaced as a whole."""
        current = [weight.detach() for weight in self._weights]
        state = {
            "epochs": epochs,
            "steps": self._steps,
            "network": dict(zip(self._names, current, strict=True)),
            "average": dict(zip(self._names, self._average, strict=True)),
            "optimiser": self._optimiser.state_dict(),
            "schedule": self._schedule.state_dict(),
        }
        with replacing(path) as file:
            torch.save(state, file)

    def restore(self, path: Path) -> int:
        """Read a saved state, if there is one; return how many epochs are done."""
        if not path.is_file():
            return 0
        state = torch.load(path, map_location="cpu", weights_only=True)
        self._optimiser.load_state_dict(state["optimiser"])
        self._schedule.load_state_dict(state["schedule"])
        for key, held in (("network", self._weights), ("average", self._average)):
            saved: Mapping[str, Tensor] = state[key]
            with torch.no_grad():
                for name, weight in zip(self._names, held, strict=True):
                    weight.copy_(saved[name])
        self._steps = state["steps"]
        return int(state["epochs"])


def _batches(lesson: Lesson, size: int) -> int:
    """Return the number of batches of a lesson in an epoch."""
    windows = sum(
        len(rows(example, lesson.tokenizer, lesson.known))
        for example in lesson.examples
    )
    extra = lesson.negatives.an_epoch if lesson.negatives else 0
    return math.ceil((windows + extra) / size)


def _special_ids(tokenizer: Tokenizer) -> Tensor:
    added = tokenizer.get_added_tokens_decoder()
    return torch.tensor(sorted(added), dtype=torch.long)


def _grouped(chosen: Sequence[FeatureRow], size: int) -> Iterator[Sequence[FeatureRow]]:
    """Cut shuffled rows into batches of similar length."""
    near = size * SORTED_TOGETHER
    for start in range(0, len(chosen), near):
        part = sorted(chosen[start : start + near], key=lambda row: len(row.ids))
        for first in range(0, len(part), size):
            yield part[first : first + size]


def _losses(
    logits: Mapping[str, Tensor], batch: Batch, smoothing: float
) -> tuple[Tensor, Tensor]:
    """Return the cross entropies of both heads."""
    of_label = of_tags = torch.zeros((), device=batch.ids.device)
    if "label_logits" in logits and bool((batch.labels != IGNORED).any()):
        of_label = cross_entropy(
            logits["label_logits"].float(), batch.labels, label_smoothing=smoothing
        )
    if "tag_logits" in logits and bool((batch.tags != IGNORED).any()):
        tags = logits["tag_logits"].float().flatten(0, 2)
        of_tags = cross_entropy(tags, batch.tags.flatten())
    return of_label, of_tags


def _taught(
    logits: Mapping[str, Tensor], opinion: Mapping[str, Tensor], batch: Batch
) -> Tensor:
    """Return the sum of both heads' cross entropies against the teachers."""
    loss = torch.zeros((), device=batch.ids.device)
    if "label_logits" in logits:
        loss = loss + cross_entropy(
            logits["label_logits"].float(), opinion["label_logits"]
        )
    if "tag_logits" in logits:
        judged = batch.tags != IGNORED
        if bool(judged.any()):
            loss = loss + cross_entropy(
                logits["tag_logits"].float()[judged], opinion["tag_logits"][judged]
            )
    return loss


def fastest_device() -> torch.device:
    """Return the device to train on: the GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fast_halves(device: torch.device) -> bool:
    """Tell whether this device multiplies bfloat16 faster than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return "avx512_bf16" in _cpu_flags() or "amx_bf16" in _cpu_flags()


def _cpu_flags() -> str:
    try:
        return Path("/proc/cpuinfo").read_text("ascii", "ignore")
    except OSError:
        return ""


def _groups(network: Network | SharedTrunk, plan: Training) -> list[dict[str, object]]:
    """Return parameter groups: a rate for each layer, decay for matrices only."""
    layers = network.encoder.config.num_hidden_layers
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, weight in network.named_parameters():
        rate = plan.head_rate
        if name.startswith("encoder."):
            _, _, after = name.partition(".layer.")
            depth = layers - int(after.split(".")[0]) - 1 if after else layers
            rate = plan.encoder_rate * plan.layer_decay**depth
        matrix = weight.ndim > 1 and "embeddings" not in name
        decay = plan.weight_decay if matrix else 0.0
        groups.setdefault((rate, decay), []).append(weight)
    return [
        {"params": weights, "lr": rate, "weight_decay": decay}
        for (rate, decay), weights in groups.items()
    ]


def _cosine(warmup: int, steps: int) -> Callable[[int], float]:
    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        done = (step - warmup) / max(1, steps - warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    return factor
