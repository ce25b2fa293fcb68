"""A head for forms, grafted onto the int8 graph of a finished encoder.

It reads a layer in the middle of the graph and adds an output; what was there before
computes what it did, bit for bit.
"""

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import compose, helper
from tokenizers import Tokenizer

from agent.inference.onnx import FORMS, MASK
from agent.workshop.data.forms import Formed
from agent.workshop.export.export import export_forms, quantise, save
from agent.workshop.training.form_training import Report, train_forms

if TYPE_CHECKING:
    from agent.workshop.export.rounding import Feed

EARLY = "early"  # what the head takes: batch x tokens x width
LAYER = 3  # after which it reads, or after the last but one
NORM = re.compile(r"layer_norm(?:_(\d+))?")
SHOWN = 300  # texts that tell how errors of rounded weights cancel


def graft_forms(
    graph: Path,
    exact: Path | None,
    tokenizer: Tokenizer,
    longest: int,
    formed: Sequence[Formed],
    seed: int,
    report: Report,
) -> None:
    """Teach a head for forms, and add it to an encoder's int8 graph, in place.

    `exact` is the same graph in fp32, which gets the head as it was taught; `longest`
    the window in tokens. Raises ValueError where the graph has no layers that this
    knows.
    """
    model = onnx.load(graph)
    layer = _layer(model)
    below = _below(model, layer)

    def read(text: str) -> NDArray[np.float32]:
        ids = np.array([tokenizer.encode(text).ids[:longest]], dtype=np.int64)
        [outputs] = below.run(None, {"input_ids": ids, MASK: np.ones_like(ids)})
        states: NDArray[np.float32] = outputs[0]
        return states

    head = train_forms(formed, read, seed, report)
    shown: list[Feed] = []
    for one in formed[:: max(1, len(formed) // SHOWN)]:
        hidden = read(one.text)[np.newaxis]
        shown.append({EARLY: hidden, MASK: np.ones(hidden.shape[:2], dtype=np.int64)})
    with tempfile.TemporaryDirectory() as folder:
        whole, small = Path(folder) / "exact.onnx", Path(folder) / "small.onnx"
        export_forms(head, whole)
        quantise(whole, small, shown)
        save(grafted(model, onnx.load(small), layer), graph)
        if exact:
            precise = onnx.load(exact)
            onnx.save(grafted(precise, onnx.load(whole), _layer(precise)), exact)


def grafted(
    model: onnx.ModelProto, head: onnx.ModelProto, layer: str
) -> onnx.ModelProto:
    """Return the graph with the head on a layer, and its output beside the others."""
    part = compose.add_prefix(head, "forms/").graph
    known = {f"forms/{MASK}": MASK, f"forms/{EARLY}": layer, f"forms/{FORMS}": FORMS}
    for node in part.node:
        for names in (node.input, node.output):
            for number, name in enumerate(names):
                names[number] = known.get(name, name)
    [output] = part.output
    output.name = FORMS
    model.graph.node.extend(part.node)
    model.graph.initializer.extend(part.initializer)
    model.graph.output.append(output)
    return model


def ungraft(graph: Path) -> None:
    """Take a head for forms off a graph, in place, if it has one."""
    model = onnx.load(graph)
    if all(output.name != FORMS for output in model.graph.output):
        return
    for items in (model.graph.node, model.graph.initializer, model.graph.output):
        kept = [one for one in items if not _of_head(one)]
        del items[:]
        items.extend(kept)
    save(model, graph)


def _of_head(item: Any) -> bool:
    outputs = getattr(item, "output", ())
    return item.name == FORMS or any(
        name == FORMS or name.startswith("forms/") for name in (item.name, *outputs)
    )


def _layer(model: onnx.ModelProto) -> str:
    """Return the name of what the layer says that the head reads."""
    norms: dict[int, str] = {
        int(match[1] or 0): name
        for node in model.graph.node
        for name in node.output
        if (match := NORM.fullmatch(name))
    }
    layers = len(norms) // 2  # one before the first, two in each; the last is `hidden`
    wanted = 2 * min(LAYER, layers - 1)  # 0: the embeddings
    if wanted not in norms:
        raise ValueError(f"the graph has no layer {wanted // 2} that a head could read")
    return norms[wanted]


def _below(model: onnx.ModelProto, layer: str) -> onnxruntime.InferenceSession:
    """Return what computes the layer, and nothing beyond."""
    part = onnx.ModelProto()
    part.CopyFrom(model)
    del part.graph.output[:]
    part.graph.output.append(
        helper.make_tensor_value_info(layer, onnx.TensorProto.FLOAT, None)
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        part.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
