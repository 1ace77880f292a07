"""Explicit networks as ONNX graphs, in float32, from standard operators alone."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sklearn_deq._warnings import warn
from sklearn_deq.theory import ExplicitLayer, RoundedPiece, ThreePiece
from sklearn_deq.theory._hermite import HermiteFunction
from sklearn_deq.theory._hermite_mixture import HermiteMixture

# What graphs may use: supported by onnxruntime since 1.16.
_OPSET = 18
_IR_VERSION = 9
_FLOAT = 1
_INT64 = 7
# Cells on either side of 0 of a table, uniform in √|t| up to t = 16.
_ROOT_CELLS = 4096
_ROOT_END = 4.0
# Sizes of the numbers by which a preprocessing is told to be affine.
_PROBES = (1.0, 1e3, 1e6, 1e9)
# Where its slopes are measured: at ±1 they would drown in the rounding of the mean.
_FAR = 2.0**30
# What rounding "X" to float32 may cost of a scaled feature before it is warned of.
_ROUNDING = 1e-5


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


def _three_piece(graph: _Graph, sigma: ThreePiece, x: str, _input: str) -> str:
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


def _rounded_piece(graph: _Graph, sigma: RoundedPiece, x: str, _input: str) -> str:
    """slope · x + (bend · x + rise · √(π/2) knee) erf(x/√2 knee)."""
    inner = graph.scaled(1.0 / (math.sqrt(2.0) * sigma.knee), x)
    height = graph.constant(sigma.rise * sigma.knee * math.sqrt(math.pi / 2.0))
    factor = graph.apply("Add", graph.scaled(sigma.bend, x), height)
    bent = graph.apply("Mul", factor, graph.apply("Erf", inner))
    return graph.apply("Add", graph.scaled(sigma.slope, x), bent)


def _hermite(graph: _Graph, sigma: HermiteFunction, x: str, inputs: str) -> str:
    """Σ_k w_k(r) (intercept + slope · t) in the cell of t = x/r, r = |inputs|."""
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
    lines = _lines(graph, sigma, graph.apply("Div", x, size))
    total = ""
    for weight, line in zip(_weights(graph, sigma, size), lines, strict=True):
        part = graph.apply("Mul", weight, line)
        total = graph.apply("Add", total, part) if total else part
    return total


def _weights(graph: _Graph, sigma: HermiteFunction, size: str) -> list[str]:
    """`HermiteFunction.weights` at the norms, each of shape (n, 1)."""
    low, high = sigma.ends
    count = sigma.table.shape[1]
    place = graph.apply("Asinh", graph.scaled(4.0, size))
    # In float32: the middle first, and what rounding leaves outside the range put back.
    place = graph.apply("Sub", place, graph.constant(0.5 * (high + low)))
    place = graph.scaled(2.0 / (high - low), place)
    place = graph.apply("Clip", place, graph.constant(-1.0), graph.constant(1.0))
    terms = [graph.apply("Add", graph.scaled(0.0, place), graph.constant(1.0)), place]
    for _ in range(count - 2):
        twice = graph.scaled(2.0, graph.apply("Mul", place, terms[-1]))
        terms.append(graph.apply("Sub", twice, terms[-2]))
    return terms[:count]


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
_WRITERS: dict[type, Callable[[_Graph, Any, str, str], str]] = {
    HermiteFunction: _hermite,
    ThreePiece: _three_piece,
    RoundedPiece: _rounded_piece,
}


def _layer(graph: _Graph, layer: ExplicitLayer, weight: np.ndarray, x: str) -> str:
    """(σ(x Wᵀ) − offset)/√m."""
    sigma = layer.activation.function
    if isinstance(sigma, HermiteMixture):
        columns = sigma.columns(len(weight))
        groups = zip(sigma.groups, columns, strict=True)
        parts = [_units(graph, layer, each, weight[units], x) for each, units in groups]
        x = graph.apply("Concat", *parts, axis=1)
    else:
        x = _units(graph, layer, sigma, weight, x)
    x = graph.apply("Sub", x, graph.constant(layer.offset))
    return graph.scaled(1.0 / math.sqrt(len(weight)), x)


def _units(
    graph: _Graph, layer: ExplicitLayer, sigma: Any, weight: np.ndarray, x: str
) -> str:
    """σ(x Wᵀ) of units that have one function."""
    writer = _WRITERS.get(type(sigma))
    if writer is None:
        raise NotImplementedError(
            f"{layer} cannot be written as ONNX: known are "
            f"{', '.join(kind.__name__ for kind in _WRITERS)} layers."
        )
    return writer(graph, sigma, graph.apply("MatMul", x, graph.constant(weight.T)), x)


def _affine(preprocessing: Any, n_features: int) -> tuple[np.ndarray, np.ndarray]:
    """Factor and shift of a fitted preprocessing that treats each feature alone."""
    expected = getattr(preprocessing, "n_features_in_", n_features)
    if expected != n_features:
        raise ValueError(
            f"preprocessing takes {expected} features and the network {n_features}: "
            "what encodes or selects features is not written. Give the scaler that "
            "comes last alone, and do the rest before the file is run."
        )
    if isinstance(preprocessing, type) or not hasattr(preprocessing, "transform"):
        raise ValueError(
            f"preprocessing must be a fitted transformer, got {preprocessing!r}."
        )
    normal = np.random.default_rng(0).standard_normal((4, n_features))
    # Large ones show what is clipped, and NaN what is imputed.
    probes = np.concatenate([normal * size for size in _PROBES])
    missing = np.full((1, n_features), np.nan)
    refusal = (
        "preprocessing must be fitted, and scale and shift each feature by itself, as "
        f"StandardScaler does, with nothing clipped or imputed; got {preprocessing!r}."
    )
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # A scaler fitted on a data frame would like the probes to have its names.
        warnings.filterwarnings("ignore", "X does not have valid feature names")
        far = np.full((1, n_features), _FAR)
        try:
            shift, low, high, found = (
                np.asarray(preprocessing.transform(rows))
                for rows in (0.0 * far, -far, far, probes)
            )
        except ValueError as error:
            raise ValueError(f"{refusal} It fails on some rows: {error}") from error
        passes = _passes_nan(preprocessing, missing)
        factor = (high - low) / (2.0 * _FAR)
        affine = found.shape == probes.shape and np.allclose(
            found, probes * factor + shift
        )
    if not (affine and passes):
        raise ValueError(refusal)
    return factor, shift


def _scaled_rows(graph: _Graph, factor: np.ndarray, shift: np.ndarray, x: str) -> str:
    """factor · x + shift, as differences from the mean, which float32 has exactly."""
    slopes = np.where(factor == 0.0, 1.0, factor)
    mean = np.where(factor == 0.0, 0.0, -shift / slopes).astype(np.float32)
    _warn_of_rounding(factor, mean)
    # What is left of the shift, as the mean is one of float32.
    rest = shift + factor * mean.astype(np.float64)
    x = graph.scaled(factor, graph.apply("Sub", x, graph.constant(mean)))
    return graph.apply("Add", x, graph.constant(rest))


def _warn_of_rounding(factor: np.ndarray, mean: np.ndarray) -> None:
    """Say which features float32 does not resolve around their mean."""
    lost = 0.5 * np.spacing(np.abs(mean[0])) * np.abs(factor[0])
    columns = np.flatnonzero(lost > _ROUNDING)
    if not len(columns):
        return
    worst = columns[np.argmax(lost[columns])]
    some = ", ".join(str(column) for column in columns[:8])
    if len(columns) > 8:
        some += f" and {len(columns) - 8} more"
    warn(
        f'The graph takes "X" in float32, which does not resolve column(s) {some}: '
        f"they vary little beside their means. Rounding loses {lost[worst]:.1e} of the "
        f"scaled column {worst}, whose mean is {mean[0, worst]:.3g}, and predictions "
        "of the file will differ from the estimator's, unless float32 holds the values "
        "exactly, as it does integers below 2**24. Subtract a constant near the mean "
        "in float64, both before the scaler is fitted and before the file is run.",
    )


def _passes_nan(preprocessing: Any, missing: np.ndarray) -> bool:
    """Whether what is missing stays so, or is refused."""
    try:
        found = np.asarray(preprocessing.transform(missing))
    except ValueError:
        return True
    return found.shape == missing.shape and bool(np.isnan(found).all())


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
        x = _scaled_rows(graph, factor, shift, x)
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


def label_values(classes: np.ndarray) -> list[Any]:
    """Class labels as JSON has them: text, numbers or truth values.

    Parameters
    ----------
    classes : ndarray of shape (n_classes,)
        The labels.

    Returns
    -------
    list
        The labels as Python's own values.

    Raises
    ------
    ValueError
        If a label is of another type.
    """
    labels = [v.item() if isinstance(v, np.generic) else v for v in classes.tolist()]
    # Dates may be lists of integers, of units that nobody would know.
    names = {type(v).__name__ for v in labels if not isinstance(v, str | int | float)}
    if classes.dtype.kind in "mM":
        names = {classes.dtype.name}
    if names:
        raise ValueError(
            f"An ONNX file holds labels that are text, numbers or truth values, but "
            f"classes_ has {', '.join(sorted(names))}: fit to such labels, for example "
            "to y.astype(str), or to integer codes."
        )
    return labels


def probabilities(graph: _Graph, outputs: str, *, log_odds: bool) -> None:
    """Turn outputs into "probabilities"; log odds are those of the second class."""
    if log_odds:
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
