"""What matrices would cost whose activations are not rounded to int8.

Times the matrices of an encoder of six layers (384 wide), one thread, best of 25 turns,
as the shipped bundles hold them (`DynamicQuantizeMatMul`) and in other ways. Rounded
activations are why two processors may differ in a digit of a score: docs/arm64.md.

Run: .venv/bin/python bench/weights.py (needs the extra `workshop`)
"""

import time
from functools import partial
from itertools import cycle

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

LAYER = [(384, 384)] * 4 + [(384, 1536), (1536, 384)]
SHAPES = LAYER * 6
ROUNDS = 25
TOKENS = (8, 16, 32)
STEP = np.float32(0.002)  # of int8 weights
RANDOM = np.random.default_rng(0)

Matrix = tuple[str, dict[str, object], list[np.ndarray]]


def plain(rows: int, columns: int) -> Matrix:
    """Return a matrix of float32 weights: operator, attributes, operands."""
    weights = RANDOM.normal(scale=0.05, size=(rows, columns)).astype(np.float32)
    return "MatMul", {}, [weights]


def rounded(rows: int, columns: int) -> Matrix:
    """Return one of int8 weights that rounds its input to int8: as it ships."""
    weights = RANDOM.integers(-127, 127, (rows, columns)).astype(np.int8)
    scales = np.full(columns, STEP)
    return "DynamicQuantizeMatMul", {}, [weights, scales, np.zeros((), np.int8)]


def blocks(level: int, rows: int, columns: int) -> Matrix:
    """Return one of int8 weights in blocks; level 4 rounds its input, 1 does not."""
    of = {"K": rows, "N": columns, "bits": 8, "block_size": 128}
    number = rows // 128
    weights = RANDOM.integers(0, 255, (columns, number, 128)).astype(np.uint8)
    scales = np.full(columns * number, STEP)
    return "MatMulNBits", of | {"accuracy_level": level}, [weights, scales]


WAYS = {
    "int8, input int8 (shipped)": rounded,
    "int8 in blocks, input int8": partial(blocks, 4),
    "int8 in blocks, input float32": partial(blocks, 1),
    "float32": plain,
}


def session(matrix: object) -> onnxruntime.InferenceSession:
    """Open a model of all matrices, one after the other; made by `matrix`."""
    nodes, operands = [], []
    for number, (rows, columns) in enumerate(SHAPES):
        operator, attributes, arrays = matrix(rows, columns)
        names = [f"operand-{number}-{place}" for place in range(len(arrays))]
        operands += map(numpy_helper.from_array, arrays, names)
        domain = "" if operator == "MatMul" else "com.microsoft"
        wires = [f"x{number}", *names], [f"x{number + 1}"]
        nodes.append(helper.make_node(operator, *wires, domain=domain, **attributes))
    ends = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["tokens", 384])
        for name in ("x0", f"x{len(SHAPES)}")
    )
    graph = helper.make_graph(nodes, "encoder", *([end] for end in ends), operands)
    domains = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=domains, ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def main() -> None:
    """Print a table: milliseconds for all matrices, by tokens of the text."""
    sessions = {name: session(matrix) for name, matrix in WAYS.items()}
    best = {(name, tokens): float("inf") for name in WAYS for tokens in TOKENS}
    for tokens in TOKENS:
        given = {"x0": RANDOM.normal(size=(tokens, 384)).astype(np.float32)}
        for name, _ in zip(cycle(WAYS), range(ROUNDS * len(WAYS)), strict=False):
            sessions[name].run(None, given)  # warms the caches
            began = time.perf_counter()
            sessions[name].run(None, given)
            taken = time.perf_counter() - began
            best[name, tokens] = min(best[name, tokens], taken)
    print(f"{'ms, tokens':30}" + "".join(f"{tokens:8}" for tokens in TOKENS))
    for name in WAYS:
        times = (1000 * best[name, tokens] for tokens in TOKENS)
        print(f"{name:30}" + "".join(f"{taken:8.2f}" for taken in times))


if __name__ == "__main__":
    main()
