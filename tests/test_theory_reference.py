"""The theory against reference values from an independent quadrature."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from sklearn_deq.kernels import deq_kernel
from sklearn_deq.theory import equilibrium_kernel, equilibrium_moments
from tests.conftest import REFERENCE

ROWS = REFERENCE
# The reference is good to about 1e-12.
RTOL, ATOL = 1e-9, 1e-12


def _name(row):
    return f"{row['activation']}-{'centred' if row['center'] else 'uncentred'}"


def _moments(row):
    return equilibrium_moments(
        row["activation"],
        row["recurrent_variance"],
        row["input_variance"],
        tau0=row["tau0"],
        center=row["center"],
    )


def test_every_builtin_activation_is_in_the_reference():
    assert {row["activation"] for row in ROWS} >= {"relu", "tanh", "gelu", "elu", "sin"}


@pytest.mark.parametrize("row", ROWS, ids=_name)
def test_moments(row):
    moments = _moments(row)
    for name, expected in row["scalars"].items():
        found = np.atleast_1d(getattr(moments, name))
        expected = np.atleast_1d(expected)
        assert_allclose(
            found[: expected.size], expected, rtol=RTOL, atol=ATOL, err_msg=name
        )


@pytest.mark.parametrize("row", ROWS, ids=_name)
@pytest.mark.parametrize(
    ("kernel", "field"),
    [("ck", "ck"), ("ntk_recurrent", "ntk_recurrent"), ("ntk", "ntk_all")],
)
def test_kernel_entries(row, kernel, field):
    pair = equilibrium_kernel(_moments(row), kernel)
    for entry in row["kernel"]:
        sides = [np.array([entry[name]]) for name in ("s_ii", "s_jj")]
        scale = np.sqrt(pair.diagonal(sides[0]) * pair.diagonal(sides[1]))[0]
        states = [pair.states(side) for side in sides]
        found = pair.entries(*states, np.array([entry["s_ij"]]))[0]
        assert abs(found - entry[field]) <= RTOL * scale + ATOL


@pytest.mark.parametrize("row", ROWS, ids=_name)
def test_gram_matrix_of_points_with_these_inner_products(row):
    for entry in row["kernel"]:
        s11, s22, s12 = entry["s_ii"], entry["s_jj"], entry["s_ij"]
        x = np.sqrt(2 * s11) * np.array([1.0, 0.0])
        along = 2 * s12 / x[0]
        y = np.array([along, np.sqrt(max(2 * s22 - along**2, 0.0))])
        for kernel, field in [("ck", "ck"), ("ntk", "ntk_all")]:
            K = deq_kernel(
                np.array([x, y]),
                kernel=kernel,
                activation=row["activation"],
                recurrent_variance=row["recurrent_variance"],
                input_variance=row["input_variance"],
                tau0=row["tau0"],
                center=row["center"],
            )
            # Where the points coincide, rounding of ρ moves a kinked Ḋ by 1e-8.
            close = abs(s12) > 0.999 * np.sqrt(s11 * s22)
            rtol = 1e-7 if close else RTOL
            assert abs(K[0, 1] - entry[field]) <= rtol * np.sqrt(K[0, 0] * K[1, 1])
