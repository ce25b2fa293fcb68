"""Export a trained network: an ONNX graph with int8 weights in a file of their own.

Quantisation is dynamic, because static int8 was slower and less exact.
"""

import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn

from agent.inference.onnx import FORMS, HIDDEN, MASK
from agent.workshop.export.lean import Lean
from agent.workshop.export.portable import make_portable
from agent.workshop.export.rounding import Feed, round_together
from agent.workshop.training.form_training import FormHead
from agent.workshop.training.network import Network, read

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOLERANCE = 1e-3  # of logits, torch against ONNX; rounding noise is 1e-5
MAPPED_FROM = 1024  # bytes; smaller tensors stay inside the graph


class Exported(nn.Module):  # type: ignore[misc,unused-ignore]  # torch is optional
    """A network with its outputs as a tuple, in the order of `outputs`."""

    inputs = ("input_ids", MASK)

    def __init__(self, network: Network) -> None:
        """Take the network in evaluation mode: the exporter looks at the outer one."""
        super().__init__()
        self.network = network
        heads = {"label_logits": network.label, "tag_logits": network.tag}
        self.outputs = [name for name, head in heads.items() if head is not None]
        self.eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        """Return the logits of the network, in the order of `outputs`."""
        return self.flat(self.network(input_ids, attention_mask))

    def flat(self, logits: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Return logits in the order of `outputs`.

        `tag_logits` becomes batch x tokens x (levels x tags).
        """
        if "tag_logits" in logits:
            logits["tag_logits"] = logits["tag_logits"].flatten(2)
        return tuple(logits[name] for name in self.outputs)


class ExportedHeads(Exported):
    """The heads of a network alone."""

    inputs = (HIDDEN, MASK)

    def forward(self, hidden: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        """Return the logits for hidden states, batch x tokens x width."""
        return self.flat(self.network.judge(hidden, attention_mask))


class ExportedTrunk(nn.Module):  # type: ignore[misc,unused-ignore]  # torch is optional
    """An encoder alone."""

    inputs = ("input_ids", MASK)
    outputs = (HIDDEN,)

    def __init__(self, encoder: Any) -> None:
        """Take the encoder in evaluation mode."""
        super().__init__()
        self.encoder = encoder
        self.eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        """Return the hidden states, batch x tokens x width."""
        return (read(self.encoder, input_ids, attention_mask),)


def export(network: Network, path: Path) -> None:
    """Write a network as an fp32 ONNX graph.

    Raises RuntimeError if the graph computes other logits than the network.
    """
    lean = deepcopy(network)
    lean.encoder = Lean(network.encoder)
    _export(Exported(network), Exported(lean), network.encoder.config, path)


def export_trunk(encoder: Any, path: Path) -> None:
    """Write an encoder, with the output `hidden`; raises as `export` does."""
    lean = ExportedTrunk(Lean(encoder))
    _export(ExportedTrunk(encoder), lean, encoder.config, path)


def export_heads(network: Network, path: Path) -> None:
    """Write the heads of a network, with the input `hidden`; raises as `export`."""
    heads = ExportedHeads(network)
    _export(heads, heads, network.encoder.config, path)


def export_forms(head: FormHead, path: Path) -> None:
    """Write a head for forms as an fp32 graph; raises RuntimeError if it differs."""
    width = head.narrow.in_features
    chance = torch.Generator().manual_seed(width)

    def given(batch: int, tokens: int) -> tuple[Tensor, Tensor]:
        mask = torch.ones(batch, tokens, dtype=torch.long)
        mask[::2, tokens // 2 + 1 :] = 0
        return torch.randn(batch, tokens, width, generator=chance), mask

    shape = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens", max=512)}
    with _quiet():
        torch.onnx.export(
            head,
            given(3, 12),
            str(path),
            dynamo=True,
            input_names=["early", MASK],
            output_names=[FORMS],
            dynamic_shapes={"early": shape, "attention_mask": shape},
            external_data=False,
            verbose=False,
        )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch, tokens in ((1, 2), (1, 9), (4, 31)):
        early, mask = given(batch, tokens)
        [logits] = session.run(None, {"early": early.numpy(), MASK: mask.numpy()})
        with torch.no_grad():
            difference = float(np.abs(logits - head(early, mask).numpy()).max())
        if difference > TOLERANCE:
            raise RuntimeError(f"{path}: the exported graph is off by {difference:.1e}")


def _export(
    trained: Exported | ExportedTrunk,
    written: Exported | ExportedTrunk,
    config: Any,
    path: Path,
) -> None:
    """Write `written`, and compare the graph with `trained`, which it must equal."""
    longest = config.max_position_embeddings
    batch = torch.export.Dim("batch")
    tokens = torch.export.Dim("tokens", max=longest)
    shape = {0: batch, 1: tokens}
    with _quiet():
        torch.onnx.export(
            written,
            _padded(written.inputs, config, 3, min(12, longest)),
            str(path),
            dynamo=True,
            input_names=list(written.inputs),
            output_names=list(written.outputs),
            dynamic_shapes=dict.fromkeys(signature(written.forward).parameters, shape),
            external_data=False,
            verbose=False,
        )
    difference = _difference(trained, config, path)
    if difference > TOLERANCE:
        raise RuntimeError(f"{path}: the exported graph is off by {difference:.1e}")


def quantise(source: Path, target: Path, feeds: Sequence[Feed] = ()) -> None:
    """Write the graph `source` with int8 weights; large ones go to `<target>.data`.

    A weight has seven bits, because x86 processors without VNNI add two products in 16
    bits and could overflow. Each output has a scale of its own; one for all costs two
    points of accuracy. With `feeds`, typical inputs, weights are rounded so that their
    errors cancel. The graph computes the same on every processor, to the bit.
    """
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "int8.onnx"
        with _quiet():
            quantize_dynamic(
                source,
                whole,
                weight_type=QuantType.QInt8,
                per_channel=True,
                reduce_range=True,
            )
        small = onnx.load(whole)
        if feeds:
            round_together(source, small, feeds)
        make_portable(small)
        save(small, target)


def save(model: onnx.ModelProto, target: Path) -> None:
    """Write a graph; weights that are large lie in `target`.data."""
    data = target.with_name(f"{target.name}.data")
    data.unlink(missing_ok=True)
    onnx.save(
        _bare(model),
        target,
        save_as_external_data=True,
        location=data.name,
        size_threshold=MAPPED_FROM,
    )
    if data.is_file():  # a small graph holds all its weights
        data.chmod(target.stat().st_mode)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep messages of the exporters out of the progress display."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _bare(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove the exporter's notes on every node: stack traces with local paths."""
    for item in (model, model.graph, *model.graph.node, *model.graph.initializer):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    for value in (*model.graph.input, *model.graph.output):
        value.ClearField("metadata_props")
    model.graph.ClearField("value_info")
    return model


def _padded(
    inputs: Sequence[str], config: Any, batch: int, tokens: int
) -> tuple[Tensor, Tensor]:
    """Return random inputs and a mask; every second row is padded at its end."""
    chance = torch.Generator().manual_seed(tokens)
    ids = torch.randint(1, config.vocab_size, (batch, tokens), generator=chance)
    mask = torch.ones_like(ids)
    mask[::2, tokens // 2 :] = 0
    if inputs[0] == HIDDEN:
        width = config.hidden_size
        return torch.randn(batch, tokens, width, generator=chance), mask
    return ids * mask, mask


def _difference(module: Exported | ExportedTrunk, config: Any, path: Path) -> float:
    """Return the largest difference of ONNX and torch on real tokens, over sizes."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    worst = 0.0
    longest = config.max_position_embeddings
    for batch, tokens in ((1, 2), (1, 9), (4, 31), (7, longest)):
        given = _padded(module.inputs, config, batch, min(tokens, longest))
        with torch.no_grad():
            expected = module(*given)
        feed = {
            name: array.numpy()
            for name, array in zip(module.inputs, given, strict=True)
        }
        given_back = session.run(list(module.outputs), feed)
        for name, ours, theirs in zip(
            module.outputs, expected, given_back, strict=True
        ):
            gap: NDArray[np.float32] = np.abs(ours.numpy() - theirs)
            if name != "label_logits":
                gap = gap[feed[MASK] == 1]
            worst = max(worst, float(gap.max()))
    return worst
