"""Weights rounded in turn: the errors of a whole output shrink, the grid stays."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the extra `workshop` is not installed")

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from agent.workshop.export.rounding import Feed, round_together

TEXTS = 60


@pytest.fixture(params=["MatMul", "Gemm"])
def graph(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Write a graph that looks tokens up in a table and multiplies by weights.

    Those of a Gemm are outputs x inputs, as torch has them.
    """
    kind: str = request.param
    chance = np.random.default_rng(1)
    mix = chance.normal(size=(8, 24))  # tokens whose 24 numbers hang together
    table = (chance.normal(size=(50, 8)) @ mix).astype(np.float32)
    weights = chance.normal(size=(24, 16)).astype(np.float32)
    nodes = [
        onnx.helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        onnx.helper.make_node("Reshape", ["rows", "shape"], ["hidden"]),
        onnx.helper.make_node(kind, ["hidden", "weights"], ["logits"]),
    ]
    if kind == "Gemm":
        nodes[-1].attribute.append(onnx.helper.make_attribute("transB", 1))
        weights = weights.T.copy()
    made = onnx.helper.make_graph(
        nodes,
        "tiny",
        [onnx.helper.make_tensor_value_info("input_ids", 7, ["batch", "tokens"])],
        [onnx.helper.make_tensor_value_info("logits", 1, ["tokens", 16])],
        [
            onnx.numpy_helper.from_array(np.array([-1, 24]), "shape"),
            onnx.numpy_helper.from_array(table, "table"),
            onnx.numpy_helper.from_array(weights, "weights"),
        ],
    )
    opset = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(made, opset_imports=opset, ir_version=9)
    path = tmp_path / "exact.onnx"
    onnx.save(model, path)
    return path


def _weights(model: object) -> dict[str, np.ndarray]:
    """Return what a graph holds; int8 weights by one name, however they came about."""
    return {
        t.name.replace("_Transposed", ""): onnx.numpy_helper.to_array(t)
        for t in model.graph.initializer
    }


def test_errors_cancel(graph: Path, tmp_path: Path) -> None:
    """On inputs like those it was shown, outputs come closer than by nearest rounding.

    The scales are the quantiser's, and no weight leaves the seven bits.
    """
    small = tmp_path / "int8.onnx"
    quantize_dynamic(
        graph, small, weight_type=QuantType.QInt8, per_channel=True, reduce_range=True
    )
    chance = np.random.default_rng(2)
    feeds: list[Feed] = [
        {"input_ids": chance.integers(0, 50, (1, 9))} for _ in range(TEXTS)
    ]
    model = onnx.load(small)
    before = _weights(model)
    round_together(graph, model, feeds)
    after = _weights(model)
    exact = _weights(onnx.load(graph))
    seen = exact["table"][chance.integers(0, 50, 500)]
    weights = exact["weights"]
    wanted = seen @ (weights if len(weights) == seen.shape[1] else weights.T)

    def error(found: dict[str, np.ndarray]) -> float:
        weights = found["weights_quantized"] * found["weights_scale"]
        return float(np.square(seen @ weights - wanted).mean())

    assert error(after) < 0.5 * error(before)
    assert after["weights_quantized"].dtype == np.int8
    limit = np.abs(before["weights_quantized"].astype(int)).max()
    assert np.abs(after["weights_quantized"].astype(int)).max() <= limit
    assert (after["weights_scale"] == before["weights_scale"]).all()
