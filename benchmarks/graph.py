"""Count the nodes and floating-point operations of an exported network."""

from collections import Counter
from math import prod
from pathlib import Path

import onnx


def node_counts(path: Path) -> Counter[str]:
    """Count the graph's nodes by kind."""
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def count_flops(path: Path) -> int:
    """Count the operations of one tile's convolutions and matrix products; multiply and add count as two."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True, data_prop=True).graph
    shapes = {value.name: _sides(value) for value in (*graph.input, *graph.value_info, *graph.output)}
    shapes |= {weight.name: tuple(weight.dims) for weight in graph.initializer}
    total = 0
    for node in graph.node:
        if node.op_type == "MatMul":
            total += 2 * prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
        elif node.op_type == "Gemm":
            total += (
                2 * prod(shapes[node.output[0]]) * prod(shapes[node.input[1]]) // shapes[node.output[0]][-1]
            )
        elif node.op_type == "Attention":
            windows, tokens, width = shapes[node.input[0]]
            total += 2 * (2 * windows * tokens * tokens * width)  # queries by keys, scores by values
        elif node.op_type == "Conv":
            total += 2 * prod(shapes[node.output[0]]) * prod(shapes[node.input[1]][1:])
    return total


def _sides(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(side.dim_value for side in value.type.tensor_type.shape.dim)
