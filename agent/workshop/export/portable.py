"""Rewrite int8 graphs so that every processor computes the same, to the bit.

int8 products are whole numbers, and exact everywhere. The floating-point numbers
between them are not: processors add in different orders, and some multiply and add in
one step. They differ in the last bit only; but if a number lies between two int8 steps,
another processor rounds it to the other step, and the difference is a thousand times
larger. A certificate made on one processor must hold on another, so up to the last int8
product:

- a bias is added in a step of its own;
- the sums of a normalisation are products with a column, because onnxruntime's matrix
  products add in the same order wherever there is fused multiply-add;
- other sums and softmax are computed in double precision and rounded once.

docs/decisions/0018 has which operations differ, and where this was tried.
"""

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.shape_inference import infer_shapes

DOUBLED = ("ReduceMean", "ReduceSum", "Softmax")
SHARES = "shares_"  # prefix of columns that compute a mean
EPSILON = "epsilon_"


def make_portable(model: onnx.ModelProto) -> None:
    """Rewrite a graph in place, so that other processors compute the same to the bit.

    It handles the operations that our exporter and onnxruntime's quantiser write, and
    no subgraphs. Raises ValueError for another form of layer normalisation, and onnx's
    InferenceError if the type of a tensor cannot be inferred.
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
                # Sum is an Add that onnxruntime does not optimise. It would fuse a bias
                # into the product before it, which arm64 computes in one step.
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
    """Yield a layer normalisation as single steps."""
    given, scale, *bias = (name for name in node.input if name)
    result, *others = (name for name in node.output if name)
    how = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    if others or scale not in constants or how.get("axis", -1) != -1:
        raise ValueError(
            f"{node.name}: a layer normalisation of another form than ours"
        )
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
