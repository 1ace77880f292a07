"""Explicit networks as ONNX graphs, in float32, from standard operators alone."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sklearn_deq.theory import ExplicitLayer, RoundedPiece, ThreePiece
from sklearn_deq.theory._hermite import HermiteFunction, neuron_signs

# What graphs may use: supported by onnxruntime since 1.16.
_OPSET = 18
_IR_VERSION = 9
_FLOAT = 1
_INT64 = 7
# Cells on either side of 0 of a table, uniform in √|t| up to t = 16.
_ROOT_CELLS = 4096
_ROOT_END = 4.0


class _Graph:
    """Nodes and constants of a graph in the making; values are named."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """Add a constant, and return its name."""
        from onnx import numpy_helper

        name = f"c{len(self.constants)}"
        array = np.asarray(value, dtype=dtype)
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def apply(self, operator: str, *inputs: str, name: str = "", **options: Any) -> str:
        """Add a node, and return the name of its output."""
        from onnx import helper

        name = name or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **options))
        return name

    def scaled(self, factor: Any, x: str) -> str:
        """Multiply by a constant."""
        return self.apply("Mul", x, self.constant(factor))


def _three_piece(graph: _Graph, sigma: ThreePiece, x: str, *_: Any) -> str:
    """slope · x + bend · |x| + rise · clip(x, ±knee)."""
    value = graph.scaled(sigma.slope, x)
    if sigma.bend:
        bent = graph.scaled(sigma.bend, graph.apply("Abs", x))
        value = graph.apply("Add", value, bent)
    if sigma.rise:
        limits = graph.constant(-sigma.knee), graph.constant(sigma.knee)
        clipped = graph.scaled(sigma.rise, graph.apply("Clip", x, *limits))
        value = graph.apply("Add", value, clipped)
    return value


def _rounded_piece(graph: _Graph, sigma: RoundedPiece, x: str, *_: Any) -> str:
    """slope · x + (bend · x + rise · √(π/2) knee) erf(x/√2 knee)."""
    inner = graph.scaled(1.0 / (math.sqrt(2.0) * sigma.knee), x)
    height = graph.constant(sigma.rise * sigma.knee * math.sqrt(math.pi / 2.0))
    factor = graph.apply("Add", graph.scaled(sigma.bend, x), height)
    bent = graph.apply("Mul", factor, graph.apply("Erf", inner))
    return graph.apply("Add", graph.scaled(sigma.slope, x), bent)


def _hermite(
    graph: _Graph, sigma: HermiteFunction, x: str, inputs: str, width: int
) -> str:
    """Σ_k w_k(r) (intercept + slope · t) in the cell of t = x/r, r = |inputs|.

    With s_j0 e_0(r) + s_j1 e_1(r) t for neuron j, if norms vary.
    """
    if not sigma.conditioned:
        t = graph.scaled(1.0 / sigma.high, x)
        (line,) = _lines(graph, sigma, t)
        return line
    norms = graph.apply("ReduceL2", inputs, graph.constant([1], np.int64), keepdims=1)
    if sigma.homogeneous:
        size = graph.apply("Max", norms, graph.constant(1e-30))
        (line,) = _lines(graph, sigma, graph.apply("Div", x, size))
        return graph.apply("Mul", line, norms)
    ends = graph.constant(sigma.low), graph.constant(sigma.high)
    size = graph.apply("Clip", norms, *ends)
    t = graph.apply("Div", x, size)
    lines = _lines(graph, sigma, t)
    *weights, constant, linear = _weights(graph, sigma, size)
    signs = [graph.constant(each[None]) for each in neuron_signs(width)]
    linear = graph.apply("Mul", graph.apply("Mul", linear, t), signs[1])
    total = graph.apply("Add", graph.apply("Mul", constant, signs[0]), linear)
    for weight, line in zip(weights, lines, strict=True):
        total = graph.apply("Add", total, graph.apply("Mul", weight, line))
    return total


def _weights(graph: _Graph, sigma: HermiteFunction, size: str) -> list[str]:
    """`HermiteFunction.weights` at the norms, each of shape (n, 1)."""
    low, high, series = sigma.weight_series()
    place = graph.apply("Asinh", graph.scaled(4.0, size))
    shift = graph.constant(-(high + low) / (high - low))
    place = graph.apply("Add", graph.scaled(2.0 / (high - low), place), shift)
    terms = [graph.apply("Add", graph.scaled(0.0, place), graph.constant(1.0)), place]
    for _ in range(len(series) - 2):
        twice = graph.scaled(2.0, graph.apply("Mul", place, terms[-1]))
        terms.append(graph.apply("Sub", twice, terms[-2]))
    basis = graph.apply("Concat", *terms[: len(series)], axis=1)
    return [
        graph.apply("MatMul", basis, graph.constant(column[:, None]))
        for column in series.T
    ]


def _lines(graph: _Graph, sigma: HermiteFunction, t: str) -> list[str]:
    """Values of each function at t, linear in cells that are uniform in sign(t) √|t|.

    ONNX cannot look at the bits of a number, as the tables of the package do.
    """
    sides = np.square(np.linspace(0.0, _ROOT_END, _ROOT_CELLS + 1))
    cells = []
    # From −16 to −0.0 and from 0.0 to 16: σ may jump there.
    for edges in (-sides[::-1], sides):
        values = sigma.parts(edges)
        slopes = np.diff(values, axis=0) / np.diff(edges)[:, None]
        cells.append((values[:-1] - slopes * edges[:-1, None], slopes))
    intercepts, slopes = (np.concatenate(each) for each in zip(*cells, strict=True))
    root = graph.apply("Sqrt", graph.apply("Abs", t))
    root = graph.apply("Mul", root, graph.apply("Sign", t))
    place = graph.scaled(_ROOT_CELLS / _ROOT_END, root)
    place = graph.apply("Floor", graph.apply("Add", place, graph.constant(_ROOT_CELLS)))
    ends = graph.constant(0.0), graph.constant(2 * _ROOT_CELLS - 1.0)
    cell = graph.apply("Cast", graph.apply("Clip", place, *ends), to=_INT64)
    lines = []
    for k in range(intercepts.shape[1]):
        intercept, slope = (
            graph.apply("Gather", graph.constant(column[:, k]), cell)
            for column in (intercepts, slopes)
        )
        lines.append(graph.apply("Add", intercept, graph.apply("Mul", slope, t)))
    return lines


# Layer function -> what writes it to a graph: the one place to add one.
_WRITERS: dict[type, Callable[[_Graph, Any, str, str, int], str]] = {
    HermiteFunction: _hermite,
    ThreePiece: _three_piece,
    RoundedPiece: _rounded_piece,
}


def _layer(graph: _Graph, layer: ExplicitLayer, weight: np.ndarray, x: str) -> str:
    """(σ(x Wᵀ) − offset)/√m."""
    sigma = layer.activation.function
    writer = _WRITERS.get(type(sigma))
    if writer is None:
        raise NotImplementedError(
            f"{layer} cannot be written as ONNX: known are "
            f"{', '.join(kind.__name__ for kind in _WRITERS)} layers."
        )
    pre = graph.apply("MatMul", x, graph.constant(weight.T))
    x = writer(graph, sigma, pre, x, len(weight))
    x = graph.apply("Sub", x, graph.constant(layer.offset))
    return graph.scaled(1.0 / math.sqrt(len(weight)), x)


def _affine(preprocessing: Any, n_features: int) -> tuple[np.ndarray, np.ndarray]:
    """Factor and shift of a fitted preprocessing that treats each feature alone."""
    probes = np.random.default_rng(0).standard_normal((4, n_features))
    shift = preprocessing.transform(np.zeros((1, n_features)))
    factor = preprocessing.transform(np.ones((1, n_features))) - shift
    found = np.asarray(preprocessing.transform(probes))
    if found.shape != probes.shape or not np.allclose(found, probes * factor + shift):
        raise ValueError(
            "preprocessing must be fitted, and scale and shift each feature by itself, "
            f"as StandardScaler does; got {preprocessing!r}."
        )
    return np.asarray(factor), np.asarray(shift)


def build_network(
    n_features: int,
    layers: tuple[ExplicitLayer, ...],
    weights: list[np.ndarray],
    readout: tuple[np.ndarray, np.ndarray],
    *,
    preprocessing: Any = None,
    normalize: bool = False,
) -> tuple[_Graph, str]:
    """Write an explicit network up to the outputs of its readout.

    Parameters
    ----------
    n_features : int
        p.
    layers : tuple of ExplicitLayer
        Hidden layers.
    weights : list of ndarray
        Their weights.
    readout : tuple of ndarrays of shape (n_outputs, m) and (n_outputs,)
        Coefficients and intercept.
    preprocessing : fitted transformer, default=None
        What comes first.
    normalize : bool, default=False
        Whether rows are projected on the sphere.

    Returns
    -------
    graph, str
        The graph, whose input is "X", and the name of the outputs, (n, n_outputs).
    """
    graph, x = _Graph(), "X"
    if preprocessing is not None:
        factor, shift = _affine(preprocessing, n_features)
        x = graph.apply("Add", graph.scaled(factor, x), graph.constant(shift))
    if normalize:
        axes = graph.constant([1], np.int64)
        norm = graph.apply("ReduceL2", x, axes, keepdims=1)
        x = graph.apply("Div", x, graph.apply("Max", norm, graph.constant(1e-30)))
    else:
        x = graph.scaled(1.0 / math.sqrt(n_features), x)
    for layer, weight in zip(layers, weights, strict=True):
        x = _layer(graph, layer, weight, x)
    coef, intercept = readout
    x = graph.apply("MatMul", x, graph.constant(np.atleast_2d(coef).T))
    return graph, graph.apply("Add", x, graph.constant(np.atleast_1d(intercept)))


def probabilities(graph: _Graph, outputs: str, n_outputs: int) -> None:
    """Turn outputs into "probabilities": one column is the second class's."""
    if n_outputs == 1:
        nothing = graph.scaled(0.0, outputs)
        outputs = graph.apply("Concat", nothing, outputs, axis=1)
    graph.apply("Softmax", outputs, name="probabilities", axis=1)


def save(
    graph: _Graph,
    path: str | Path,
    n_features: int,
    output: str,
    shape: list[int | str],
    metadata: dict[str, Any],
) -> None:
    """Check the graph, and write it to a file.

    Parameters
    ----------
    graph : _Graph
        Its input is "X", of shape (n, n_features).
    path : str or Path
        The file.
    n_features : int
        p.
    output : str
        Name of the output.
    shape : list
        Its shape; a string is a free length.
    metadata : dict
        Written as JSON into the model's properties.
    """
    import onnx
    from onnx import helper

    inputs = helper.make_tensor_value_info("X", _FLOAT, ["n", n_features])
    outputs = helper.make_tensor_value_info(output, _FLOAT, shape)
    body = helper.make_graph(
        graph.nodes, "sklearn_deq", [inputs], [outputs], graph.constants
    )
    model = helper.make_model(
        body, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION
    )
    helper.set_model_props(model, {k: json.dumps(v) for k, v in metadata.items()})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
