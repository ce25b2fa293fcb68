"""int8 answers do not hang on how a processor adds up floating-point numbers."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the extra `workshop` is not installed")

import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from agent.workshop.export.portable import make_portable

SHIPPED = Path(__file__).parents[2] / "models"
WIDTH = 24
BIAS = {  # which input it is
    "DynamicQuantizeMatMul": 4,
    "FusedGemm": 2,
    "Gemm": 2,
    "MatMulIntegerToFloat": 6,
}
SUMS = (
    "LayerNormalization",
    "ReduceMean",
    "ReduceSum",
    "SkipLayerNormalization",
    "Softmax",
)
Floats = NDArray[np.float32]

pytestmark = pytest.mark.filterwarnings("ignore")  # those of the quantiser


def _layer() -> onnx.ModelProto:
    """Return attention without heads, a normalisation, a product and a sum."""
    chance = np.random.default_rng(0)

    def held(name: str, *shape: int) -> onnx.TensorProto:
        values = chance.normal(scale=0.3, size=shape).astype(np.float32)
        return numpy_helper.from_array(values, name)

    make = helper.make_node
    nodes = [
        make("MatMul", ["x", "w"], ["product"]),
        make("Add", ["product", "w.bias"], ["keys"]),
        make("Transpose", ["keys"], ["turned"], perm=[0, 2, 1]),
        make("MatMul", ["x", "turned"], ["alike"]),
        make("Softmax", ["alike"], ["heed"], axis=-1),
        make("MatMul", ["heed", "x"], ["mixed"]),
        make("Add", ["mixed", "x"], ["both"]),
        make("LayerNormalization", ["both", "n", "n.bias"], ["even"], epsilon=1e-12),
        make("MatMul", ["even", "v"], ["last"]),
        make("Add", ["v.bias", "last"], ["told"]),
        make("ReduceSum", ["told", "tokens"], ["pooled"], keepdims=0),
    ]
    constants = [
        held("w", WIDTH, WIDTH),
        held("w.bias", WIDTH),
        held("n", WIDTH),
        held("n.bias", WIDTH),
        held("v", WIDTH, WIDTH),
        held("v.bias", WIDTH),
        numpy_helper.from_array(np.array([1]), "tokens"),
    ]
    ends = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", [1, "many", WIDTH]), ("pooled", [1, WIDTH]))
    )
    graph = helper.make_graph(nodes, "layer", *([end] for end in ends), constants)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9
    )


@pytest.fixture
def quantised(tmp_path: Path) -> onnx.ModelProto:
    """Return the layer with int8 weights."""
    onnx.save(_layer(), tmp_path / "exact.onnx")
    quantize_dynamic(
        tmp_path / "exact.onnx",
        tmp_path / "int8.onnx",
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=True,
    )
    return onnx.load(tmp_path / "int8.onnx")


def _open(
    model: onnx.ModelProto, seen: Path | None = None
) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if seen:
        options.optimized_model_filepath = str(seen)
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _ask(model: onnx.ModelProto, given: Floats) -> Floats:
    [found] = _open(model).run(None, {"x": given})
    return found


def test_portable_graph_computes_the_same(quantised: onnx.ModelProto) -> None:
    """Answers are those of the graph before, but for the last bits, and its weights."""
    given = np.random.default_rng(1).normal(size=(1, 7, WIDTH)).astype(np.float32)
    before = _ask(quantised, given)
    make_portable(quantised)
    assert np.abs(_ask(quantised, given) - before).max() < 1e-5
    used = {name for node in quantised.graph.node for name in node.input}
    assert {tensor.name for tensor in quantised.graph.initializer} <= used


def test_nothing_is_left_to_the_processor(
    quantised: onnx.ModelProto, tmp_path: Path
) -> None:
    """As onnxruntime runs it, sums are doubles or products, and none takes a bias.

    Of the graph before, one of each would have been left to the processor.
    """
    assert _chances(quantised, tmp_path) == {
        "DynamicQuantizeMatMul with a bias",
        "ReduceSum",
        "SkipLayerNormalization",
        "Softmax",
    }
    make_portable(quantised)
    assert _chances(quantised, tmp_path) == set()


def _chances(model: onnx.ModelProto, folder: Path) -> set[str]:
    """Return what rounds in an order of the processor's, as onnxruntime runs it."""
    path = folder / "seen.onnx"
    _open(model, path)
    doubles: set[str] = set()
    found = set()
    for node in onnx.load(path).graph.node:
        if node.op_type == "Cast":
            wide = TensorProto.DOUBLE in {a.i for a in node.attribute if a.name == "to"}
        else:
            wide = bool(doubles & set(node.input))
        doubles |= set(node.output) if wide else set()
        if any(node.input[BIAS.get(node.op_type, len(node.input)) :]):
            found.add(f"{node.op_type} with a bias")
        if not wide and node.op_type in SUMS:
            found.add(node.op_type)
    return found


def test_zeros_have_no_deviation() -> None:
    """A token of zeros is not divided by nothing."""
    model = _layer()
    make_portable(model)
    assert np.isfinite(_ask(model, np.zeros((1, 3, WIDTH), np.float32))).all()


def test_whole_numbers_are_added_as_before() -> None:
    """Positions and the like, which Sum does not take, stay as they are."""
    numbers = helper.make_tensor_value_info("n", TensorProto.INT64, ["many"])
    more = helper.make_tensor_value_info("more", TensorProto.INT64, ["many"])
    one = numpy_helper.from_array(np.array([1]), "one")
    node = helper.make_node("Add", ["n", "one"], ["more"])
    graph = helper.make_graph([node], "count", [numbers], [more], [one])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    make_portable(model)
    assert [node.op_type for node in model.graph.node] == ["Add"]


def test_strange_normalisation_is_refused() -> None:
    """What is normalised over more than a token's numbers is not rewritten wrongly."""
    model = _layer()
    [normal] = (n for n in model.graph.node if n.op_type == "LayerNormalization")
    normal.attribute.append(helper.make_attribute("axis", 1))
    with pytest.raises(ValueError, match="of another form than ours"):
        make_portable(model)


def _name(weights: Path) -> str:
    return f"{weights.parent.name}/{weights.stem}"


@pytest.mark.parametrize("weights", sorted(SHIPPED.glob("*/*.onnx.data")), ids=_name)
def test_shipped_graphs_are_portable(weights: Path, tmp_path: Path) -> None:
    """What ships with int8 weights was rewritten before it was calibrated."""
    assert _chances(onnx.load(weights.with_suffix("")), tmp_path) == set()
