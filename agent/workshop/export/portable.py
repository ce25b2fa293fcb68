"""The same answer, bit for bit, on other processors: what int8 asks of the rest.

int8 products are whole numbers, and so are exact everywhere. What lies between them is
not: processors add up floating-point numbers in their own order, and some add in the
same step as they multiply. That is off in the last bit only, but where a number lies
between two int8 steps, its neighbour on another processor is rounded to the other one,
and the difference is a thousand times as large. A certificate made on one processor
should hold on another, so nothing before the last int8 product is left to chance:

- a bias is added in a step of its own;
- the sums of a normalisation are products with a column, as onnxruntime's matrix
  products add in the same order wherever there is fused multiply-add;
- other sums, and softmax, are taken in double precision and rounded once.

Which operations differ, and where it was tried: docs/decisions/0018.
"""

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.shape_inference import infer_shapes

DOUBLED = ("ReduceMean", "ReduceSum", "Softmax")
SHARES = "shares_"  # columns that take a mean
EPSILON = "epsilon_"


def make_portable(model: onnx.ModelProto) -> None:
    """Rewrite a graph in place, so that other processors compute the same to the bit.

    Looks at what our exporter and onnxruntime's quantiser write, not into subgraphs.
    Raises ValueError for a layer normalisation that they do not write, and onnx's
    InferenceError where a type cannot be told.
    """
    graph = model.graph
    inferred = infer_shapes(model, strict_mode=True).graph
    floats = {
        value.name
        for value in (*inferred.value_info, *inferred.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    }
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "LayerNormalization":
            nodes += _normalised(node, constants, graph)
        elif node.op_type in DOUBLED and node.output[0] in floats:
            nodes += _doubled(node)
        else:
            biased = node.op_type == "Add" and constants.keys() & set(node.input)
            if biased and node.output[0] in floats:
                # Sum is Add under another name, which onnxruntime leaves alone: a bias
                # would be fused into the product before it, and arm64 fuses its steps.
                node.op_type = "Sum"
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _doubled(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """Yield the same operation in double precision."""
    [result], [given, *others] = node.output, node.input
    wide, sums = f"{result}_wide", f"{result}_sums"
    yield helper.make_node("Cast", [given], [wide], to=TensorProto.DOUBLE)
    node.input[:] = [wide, *others]
    node.output[:] = [sums]
    yield node
    yield helper.make_node("Cast", [sums], [result], to=TensorProto.FLOAT)


def _normalised(
    node: onnx.NodeProto,
    constants: dict[str, onnx.TensorProto],
    graph: onnx.GraphProto,
) -> Iterator[onnx.NodeProto]:
    """Yield a layer normalisation step by step."""
    given, scale, *bias = (name for name in node.input if name)
    result, *others = (name for name in node.output if name)
    how = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    if others or scale not in constants or how.get("axis", -1) != -1:
        raise ValueError(f"{node.name}: a layer normalisation as we do not write it")
    width = len(numpy_helper.to_array(constants[scale]))
    least = np.float32(how.get("epsilon", 1e-5))
    shares, epsilon = f"{SHARES}{width}", f"{EPSILON}{least:.9g}"
    for name, values in (
        (shares, np.full((width, 1), 1 / width, np.float32)),
        (epsilon, np.array(least)),
    ):
        if name not in constants:
            constants[name] = numpy_helper.from_array(values, name)
            graph.initializer.append(constants[name])
    parts = ("mean", "centred", "square", "variance", "more", "deviation", "even")
    mean, centred, square, variance, more, deviation, even = (
        f"{result}_{part}" for part in parts
    )
    scaled = f"{result}_scaled" if bias else result
    make = helper.make_node
    yield make("MatMul", [given, shares], [mean])
    yield make("Sub", [given, mean], [centred])
    yield make("Mul", [centred, centred], [square])
    yield make("MatMul", [square, shares], [variance])
    yield make("Add", [variance, epsilon], [more])
    yield make("Sqrt", [more], [deviation])
    yield make("Div", [centred, deviation], [even])
    yield make("Mul", [even, scale], [scaled])
    if bias:
        yield make("Add", [scaled, *bias], [result])
