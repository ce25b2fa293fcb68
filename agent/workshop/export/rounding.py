"""Rounding weights so that their errors cancel: GPTQ (Frantar et al., ICLR 2023).

Seven bits a weight are few. Rounded one by one, each weight is off by its own error;
rounded in turn, the error of each is made up for by those still to come, as far as the
inputs that training texts cause tell how. Scales stay those of the quantiser.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import numpy_helper

DAMPING = 0.01  # of the mean curvature: keeps the inverse finite
TURNED = "_Transposed"  # outputs x inputs, as Gemm has them, before the quantiser
BLOCK = 64  # inputs whose errors are handed on together: fewer passes over memory

Floats = NDArray[np.float64]
Feed = Mapping[str, NDArray[np.int64] | NDArray[np.float32]]


def round_together(
    exact: Path, quantised: onnx.ModelProto, feeds: Sequence[Feed]
) -> None:
    """Replace the int8 weights of `quantised`, made from the graph `exact`, in place.

    `feeds` are inputs as they come, one text each.
    """
    source = onnx.load(exact)
    stored = {tensor.name: tensor for tensor in source.graph.initializer}
    small = {tensor.name: tensor for tensor in quantised.graph.initializer}
    inputs: dict[str, list[str]] = {}  # a tensor -> the weights it is multiplied by
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
    """Return how the quantiser calls what it made of a weight; empty: it left it."""
    stems = (weight, f"{weight}{TURNED}")
    return next((stem for stem in stems if f"{stem}_quantized" in small), "")


def _curvatures(
    source: onnx.ModelProto, names: Sequence[str], feeds: Sequence[Feed]
) -> Iterator[tuple[str, Floats]]:
    """Yield for each tensor the sum of the outer products of its rows."""
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
        found = session.run(list(names), dict(feed))
        for name, array in zip(names, found, strict=True):
            rows[name].append(array.reshape(-1, array.shape[-1]))
    for name in names:
        whole = np.concatenate(rows.pop(name))
        yield name, (whole.T @ whole).astype(np.float64)


def _rounded(
    weights: Floats, scale: Floats, curvature: Floats, limit: int
) -> NDArray[np.int64]:
    """Return whole numbers of `scale`: inputs x outputs, at most `limit` large."""
    size = len(weights)
    order = np.argsort(-np.diag(curvature))  # what matters most while others can help
    bent = curvature[np.ix_(order, order)]
    bent += DAMPING * np.diag(bent).mean() * np.eye(size)
    # Row k of this tells how the later weights make up for the error of the k-th.
    spread = np.linalg.cholesky(np.linalg.inv(bent)).T
    left = weights[order].copy()
    found = np.zeros(weights.shape, np.int64)
    for first in range(0, size, BLOCK):
        last = min(first + BLOCK, size)
        errors = np.zeros((last - first, weights.shape[1]))
        for number in range(first, last):
            whole = np.clip(np.rint(left[number] / scale), -limit, limit)
            found[order[number]] = whole
            error = (left[number] - whole * scale) / spread[number, number]
            errors[number - first] = error
            left[number + 1 : last] -= np.outer(
                spread[number, number + 1 : last], error
            )
        left[last:] -= spread[first:last, last:].T @ errors
    return found
