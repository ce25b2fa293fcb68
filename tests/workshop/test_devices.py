"""Training on a GPU, as far as that can be seen without one.

Two devices are imitated: each tensor counts as on one of them, and a step with tensors
of both fails, as it does on a GPU; single numbers may be on either. Speed, bfloat16 and
going on from a checkpoint are not tried.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the extra `workshop` is not installed")

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from agent.workshop.bundle import building
from agent.workshop.bundle.building import workpiece
from agent.workshop.data.features import Batch
from agent.workshop.data.material import read_material
from agent.workshop.data.recipe import Recipe
from agent.workshop.training import network, training
from agent.workshop.training.training import Pupil, train

GPU = torch.device("cuda")
CROSSES = {"copy_", "to", "cpu", "_has_compatible_shallow_copy_type"}
COMES_HOME = {"numpy", "__array__"}  # what a tensor on a GPU cannot do


class TwoDevices(TorchFunctionMode):
    """Tensors of the processor, some of which count as being on a GPU."""

    def __init__(self) -> None:
        """Start with all tensors here."""
        super().__init__()
        self._far: dict[int, Tensor] = {}  # by id; held, so that no id comes again

    def is_far(self, tensor: Tensor) -> bool:
        """Tell whether a tensor is on the GPU."""
        return id(tensor) in self._far

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Refuse what a GPU refuses; what comes of tensors is where they are."""
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        far = {self.is_far(tensor) for tensor in given if tensor.dim()}
        if len(far) > 1 and name not in CROSSES and "data" not in _whose(func):
            raise RuntimeError(f"{name}: tensors on two devices")
        if far == {True} and name in COMES_HOME:
            raise TypeError(f"{name}: the tensor is on a GPU")
        if name == "to" and isinstance(args[1], torch.device | str):
            moved = args[0].clone()
            self._mark([moved], far=torch.device(args[1]) == GPU)
            return moved
        if _whose(func) == "device":
            return GPU if far == {True} else func(*args)
        if kwargs.get("device") == GPU:
            kwargs["device"] = "cpu"
            far = {True}
        found = func(*args, **kwargs)
        if name == "__set__" and "data" in _whose(func):
            self._mark(args[:1], far=self.is_far(args[1]))
        elif name != "copy_" and True in far:
            self._mark(tree_leaves(found), far=True)
        return found

    def _mark(self, tensors: Any, *, far: bool) -> None:
        for tensor in tensors:
            if isinstance(tensor, Tensor):
                self._far.pop(id(tensor), None)
                if far:
                    self._far[id(tensor)] = tensor


def _whose(func: Any) -> str:
    """Return the attribute whose getter or setter this is."""
    return str(getattr(getattr(func, "__self__", None), "__name__", ""))


def _read(encoder: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    del attention_mask
    found: Tensor = encoder.encoder(encoder.embeddings(input_ids)).last_hidden_state
    return found


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> Iterator[TwoDevices]:
    """Imitate a GPU, and train on it."""
    monkeypatch.setattr(training, "fastest_device", lambda: GPU)
    monkeypatch.setattr(training, "fast_halves", lambda _: False)
    monkeypatch.setattr(network, "read", _read)  # theirs maps over masks, unseen
    with TwoDevices() as devices:
        yield devices


@pytest.mark.usefixtures("tiny")
def test_training_keeps_to_one_device(
    devices: TwoDevices,
    recipe: Callable[..., Recipe],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Teacher, pupil and batches meet on the GPU; both networks come home."""
    batches = []
    step = training._Run.step

    def watched(self: Any, pupil: Pupil, batch: Batch) -> float:
        held = [*pupil.network.parameters(), batch.ids, batch.opinion]
        batches.append([devices.is_far(tensor) for tensor in held])
        return step(self, pupil, batch)

    monkeypatch.setattr(training._Run, "step", watched)
    made = recipe({"epochs": 1})
    piece = workpiece(made, read_material(made, data))
    known, plan = piece.material.known, made.training
    teacher, pupil = (building._network(piece, None, plan) for _ in range(2))
    lesson = replace(
        building._lesson(piece),
        teachers=[teacher.eval()],
        opinions=torch.full((len(piece.material.train), known.classes), 0.25),
    )
    train(pupil, lesson, plan, tmp_path / "state.pt", lambda *_: None)
    assert batches
    assert all(map(all, batches))
    both = (*teacher.parameters(), *pupil.parameters())
    assert not any(map(devices.is_far, both))


@pytest.mark.usefixtures("tiny")
def test_two_devices_are_told_apart(devices: TwoDevices) -> None:
    """The imitation refuses what a GPU refuses: mixed sums, and numpy."""
    here, there = torch.ones(3), torch.ones(3).to(GPU)
    assert devices.is_far(there + there)
    assert not devices.is_far(here + here)
    assert not devices.is_far(there.to("cpu"))
    with pytest.raises(RuntimeError, match="two devices"):
        here + there
    with pytest.raises(TypeError, match="on a GPU"):
        there.numpy()
