"""Round weights so that their errors cancel: GPTQ (Frantar et al., ICLR 2023).

Seven bits a weight are few. Rounded independently, each weight keeps its error. Rounded
in turn, later weights compensate for the errors of earlier ones, on the inputs that
training texts produce. The scales are those of the quantiser.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import numpy_helper

DAMPING = 0.01  # share of the mean curvature that is added: the inverse stays finite
TURNED = "_Transposed"  # outputs x inputs, as Gemm has them, before the quantiser
BLOCK = 64  # inputs whose errors are passed on together: fewer passes over memory

Floats = NDArray[np.float64]
Feed = Mapping[str, NDArray[np.int64] | NDArray[np.float32]]


def round_together(
    exact: Path, quantised: onnx.ModelProto, feeds: Sequence[Feed]
) -> None:
    """Replace the int8 weights of `quantised` in place, by those of the graph `exact`.

    `feeds` are typical inputs of the graph, one text each.
    """
    source = onnx.load(exact)
    stored = {tensor.name: tensor for tensor in source.graph.initializer}
    small = {tensor.name: tensor for tensor in quantised.graph.initializer}
    inputs: dict[str, list[str]] = {}  # tensor -> weights that it is multiplied with
    for node in source.graph.node:
        if node.op_type in ("MatMul", "Gemm") and _stem(node.input[1], small):
            inputs.setdefault(node.input[0], []).append(node.input[1])
    for name, curvature in _curvatures(source, list(inputs), feeds):
        for weight in inputs[name]:
            wanted = numpy_helper.to_array(stored[weight]).astype(np.float64)
            stem = _stem(weight, small)
            if stem.endswith(TURNED):
                wanted = wanted.T
            scale = numpy_helper.to_array(small[f"{stem}_scale"]).astype(np.float64)
            old = small[f"{stem}_quantized"]
            limit = int(np.abs(numpy_helper.to_array(old).astype(np.int32)).max())
            new = _rounded(wanted, scale, curvature, limit).astype(np.int8)
            old.CopyFrom(numpy_helper.from_array(new, old.name))


def _stem(weight: str, small: Mapping[str, onnx.TensorProto]) -> str:
    """Return the quantiser's name for a weight; empty if it did not quantise it."""
    stems = (weight, f"{weight}{TURNED}")
    return next((stem for stem in stems if f"{stem}_quantized" in small), "")


def _curvatures(
    source: onnx.ModelProto, names: Sequence[str], feeds: Sequence[Feed]
) -> Iterator[tuple[str, Floats]]:
    """Yield each tensor's name and the sum of outer products of its rows."""
    watched = onnx.ModelProto()
    watched.CopyFrom(source)
    for name in names:
        value = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        watched.graph.output.append(value)
    session = onnxruntime.InferenceSession(
        watched.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    rows: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}
    for feed in feeds:
        arrays = session.run(list(names), dict(feed))
        for name, array in zip(names, arrays, strict=True):
            rows[name].append(array.reshape(-1, array.shape[-1]))
    for name in names:
        whole = np.concatenate(rows.pop(name))
        yield name, (whole.T @ whole).astype(np.float64)


def _rounded(
    weights: Floats, scale: Floats, curvature: Floats, limit: int
) -> NDArray[np.int64]:
    """Return weights as whole multiples of `scale`: inputs x outputs.

    No multiple is larger than `limit`. `curvature` is inputs x inputs.
    """
    size = len(weights)
    order = np.argsort(-np.diag(curvature))  # the most important first: others follow
    bent = curvature[np.ix_(order, order)]
    bent += DAMPING * np.diag(bent).mean() * np.eye(size)
    # Row k says how later weights compensate for the error of weight k.
    spread = np.linalg.cholesky(np.linalg.inv(bent)).T
    left = weights[order].copy()
    rounded = np.zeros(weights.shape, np.int64)
    for first in range(0, size, BLOCK):
        last = min(first + BLOCK, size)
        errors = np.zeros((last - first, weights.shape[1]))
        for number in range(first, last):
            whole = np.clip(np.rint(left[number] / scale), -limit, limit)
            rounded[order[number]] = whole
            error = (left[number] - whole * scale) / spread[number, number]
            errors[number - first] = error
            left[number + 1 : last] -= np.outer(
                spread[number, number + 1 : last], error
            )
        left[last:] -= spread[first:last, last:].T @ errors
    return rounded
