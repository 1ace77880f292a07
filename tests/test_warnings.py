"""Warnings point at the user's line, whatever libraries are between it and ours."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sklearn_deq import DEQClassifier, DEQKernelTransformer, _warnings, match_deq
from sklearn_deq._warnings import solver_warnings
from sklearn_deq.kernels import deq_kernel
from sklearn_deq.nn import EquilibriumLayer
from sklearn_deq.theory import Activation, _duals, equilibrium_moments, solve_match

RNG = np.random.default_rng(0)
X = RNG.standard_normal((40, 5))
y = np.arange(40) % 2
TINY = make_pipeline(
    FunctionTransformer(lambda X: 1e-9 * X), DEQClassifier(width=8, max_epochs=1)
)
# In three iterations it does not converge.
LAYER = EquilibriumLayer(5, 32, recurrent_variance=0.9, solver_max_iter=3)
ROWS = torch.from_numpy(X).float()


def states() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return LAYER(ROWS)


def unconverged_equations() -> None:
    solve_match(equilibrium_moments("relu", 0.9, 0.1), architecture="leaky_relu")


CALLS = {
    "layer": lambda: LAYER(ROWS),
    "layer in a module": lambda: torch.nn.Sequential(LAYER)(ROWS),
    "backward pass": lambda: states().sum().backward(),
    "equations": unconverged_equations,
    "pipeline": lambda: TINY.fit(X, y),
    "pipeline in a search": lambda: GridSearchCV(
        TINY, {"deqclassifier__lr": [0.01]}, cv=2
    ).fit(X, y),
    "mixin of scikit-learn": lambda: DEQKernelTransformer(
        n_components=50, approximation="nystroem"
    ).fit_transform(X),
    "match of a fitted estimator": lambda: match_deq(
        DEQClassifier(width=8, recurrent_variance=0.9, max_epochs=1, random_state=0),
        architecture="leaky_relu",
    ).fit(X, y),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))
def test_warnings_point_at_the_line_that_called(call) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    assert caught
    assert {each.filename for each in caught} == {__file__}


def test_blocks_on_threads_warn_at_the_line_that_called(monkeypatch) -> None:
    monkeypatch.setattr(_duals, "_WARNED_OF", -1.0)
    phi = Activation(np.tanh, derivative=lambda x: 1.0 / np.cosh(x) ** 2)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            deq_kernel(X, activation=phi)
        with solver_warnings() as heard:
            deq_kernel(X, activation=phi)
    finally:
        torch.set_num_threads(before)
    assert {each.filename for each in caught} == {__file__}
    assert heard == [str(each.message) for each in caught]


class Everything:
    def __contains__(self, name: str) -> bool:
        return True


def test_a_warning_is_given_where_no_frame_is_a_users(monkeypatch) -> None:
    monkeypatch.setattr(_warnings, "_BETWEEN", Everything())
    with pytest.warns(UserWarning, match="nobody's"):
        _warnings.warn("nobody's")
