"""From the trained network to the graph that ships: ONNX, int8 weights, mmapped.

Dynamic quantisation, as static int8 was slower and further off (docs: models).
"""

import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn

from agent.workshop.network import Network
from agent.workshop.rounding import Feed, round_together

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOLERANCE = 1e-3  # of logits, torch against ONNX; float noise is 1e-5
MAPPED_FROM = 1024  # bytes; smaller tensors stay inside the graph


class Exported(nn.Module):  # type: ignore[misc,unused-ignore]  # torch is optional
    """The network with its outputs as a tuple, in the order of `outputs`."""

    def __init__(self, network: Network) -> None:
        """Take the network in evaluation mode: the exporter looks at the outer one."""
        super().__init__()
        self.network = network
        self.outputs = [
            name
            for name, head in (
                ("label_logits", network.label),
                ("tag_logits", network.tag),
            )
            if head is not None
        ]
        self.eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        """Return the logits the network has."""
        found = self.network(input_ids, attention_mask)
        if "tag_logits" in found:
            found["tag_logits"] = found["tag_logits"].flatten(2)
        return tuple(found[name] for name in self.outputs)


def export(network: Network, path: Path) -> None:
    """Write the network as an fp32 ONNX graph; raises RuntimeError if it differs."""
    network.encoder.set_attn_implementation("eager")  # a graph a quarter smaller
    module = Exported(network)
    config = network.encoder.config
    ids, mask = _padded(config.vocab_size, 3, 12)
    batch = torch.export.Dim("batch")
    tokens = torch.export.Dim("tokens", max=config.max_position_embeddings)
    shape = {0: batch, 1: tokens}
    with _quiet():
        torch.onnx.export(
            module,
            (ids, mask),
            str(path),
            dynamo=True,
            input_names=["input_ids", "attention_mask"],
            output_names=module.outputs,
            dynamic_shapes={"input_ids": shape, "attention_mask": shape},
            external_data=False,
            verbose=False,
        )
    difference = _difference(module, path)
    if difference > TOLERANCE:
        raise RuntimeError(f"{path}: the exported graph is off by {difference:.1e}")


def quantise(source: Path, target: Path, feeds: Sequence[Feed] = ()) -> None:
    """Write the graph with int8 weights, in `target` and `target`.data.

    Seven bits a weight, as x86 processors without VNNI add two products in 16 bits
    and would overflow; a scale for each output, without which that costs two points.
    With `feeds`, inputs as they come, weights are rounded so that errors cancel.
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
        data = target.with_name(f"{target.name}.data")
        data.unlink(missing_ok=True)
        onnx.save(
            _bare(small),
            target,
            save_as_external_data=True,
            location=data.name,
            size_threshold=MAPPED_FROM,
        )
        data.chmod(target.stat().st_mode)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' remarks about themselves out of the progress display."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _bare(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop what the exporter notes on every node: stack traces, with local paths."""
    for item in (model, model.graph, *model.graph.node, *model.graph.initializer):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    for value in (*model.graph.input, *model.graph.output):
        value.ClearField("metadata_props")
    model.graph.ClearField("value_info")
    return model


def _padded(pieces: int, batch: int, tokens: int) -> tuple[Tensor, Tensor]:
    """Return random ids of which every second row is padded at its end."""
    chance = torch.Generator().manual_seed(tokens)
    ids = torch.randint(1, pieces, (batch, tokens), generator=chance)
    mask = torch.ones_like(ids)
    mask[::2, tokens // 2 :] = 0
    return ids * mask, mask


def _difference(module: Exported, path: Path) -> float:
    """Return how far ONNX is from torch on real tokens, over several sizes."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    pieces = module.network.encoder.config.vocab_size
    worst = 0.0
    longest = module.network.encoder.config.max_position_embeddings
    for batch, tokens in ((1, 2), (1, 9), (4, 31), (7, longest)):
        ids, mask = _padded(pieces, batch, tokens)
        with torch.no_grad():
            expected = module(ids, mask)
        feed = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
        found = session.run(module.outputs, feed)
        for name, ours, theirs in zip(module.outputs, expected, found, strict=True):
            gap: NDArray[np.float32] = np.abs(ours.numpy() - theirs)
            if name == "tag_logits":
                gap = gap[mask.numpy() == 1]
            worst = max(worst, float(gap.max()))
    return worst
