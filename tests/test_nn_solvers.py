"""Fixed-point solvers: every row alone, the best state, and how fast they are."""

import math

import pytest
import torch
from numpy.testing import assert_allclose

from sklearn_deq.nn import SOLVERS, fixed_point

solvers = pytest.mark.parametrize("solver", SOLVERS)


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def _normal(*shape, seed=1, dtype=torch.float64):
    return torch.randn(*shape, generator=_generator(seed), dtype=dtype)


@pytest.mark.parametrize(
    ("z0", "options", "message"),
    [
        (torch.zeros(3), {}, "z0 must be a torch tensor"),
        (torch.zeros(3, 2, dtype=torch.long), {}, "z0 must be a torch tensor"),
        (torch.zeros(3, 2, dtype=torch.complex64), {}, "z0 must be a torch tensor"),
        (torch.zeros(3, 2).numpy(), {}, "z0 must be a torch tensor"),
        (torch.zeros(3, 2), {"max_iter": 10.5}, "max_iter must be an integer"),
        (torch.zeros(3, 2), {"max_iter": math.nan}, "max_iter must be an integer"),
        (torch.zeros(3, 2), {"tol": None}, "tol must be positive"),
    ],
    ids=str,
)
def test_arguments_of_no_use(z0, options, message):
    with pytest.raises(ValueError, match=message):
        fixed_point(lambda z, rows: 0.5 * z, z0, **options)


@solvers
@pytest.mark.parametrize("scale", [1e-15, 1e-18, 1e-21, 1e-24, 1e-30])
def test_states_whose_squares_underflow(solver, scale):
    f, solution = _linear(0.7)
    start = torch.zeros(solution.shape, dtype=torch.float32)

    def small(z, rows):
        return (scale * f(z.double() / scale, rows)).float()

    result = fixed_point(small, start, solver=solver)
    assert result.converged.all()
    found = result.z.double() / scale
    # The residual over 1 − 0.7.
    assert (found - solution).norm(dim=1).max() < 4e-5 * solution.norm(dim=1).max()


def _linear(norm, size=6, n=5):
    """A map z ↦ z Aᵀ + b with an A of this norm, and its fixed point."""
    A = _normal(size, size, seed=0)
    A *= norm / torch.linalg.matrix_norm(A, 2)
    b = _normal(n, size)
    solution = torch.linalg.solve(torch.eye(size, dtype=b.dtype) - A, b.T).T
    return lambda z, rows: z @ A.T + b[rows], solution


@solvers
def test_solution_of_a_linear_system(solver):
    f, expected = _linear(0.6)
    result = fixed_point(f, torch.zeros_like(expected), solver=solver, tol=1e-14)
    assert result.converged.all()
    assert_allclose(result.z, expected, rtol=1e-12, atol=1e-13)
    assert (result.n_iter < 100).all()


@pytest.mark.parametrize("solver", ["anderson", "broyden"])
def test_accelerated_solvers_solve_what_is_no_contraction(solver):
    """A linear map of six dimensions: exact after seven steps, but for rounding."""
    f, expected = _linear(3.0)
    result = fixed_point(f, torch.zeros_like(expected), solver=solver, tol=1e-10)
    assert result.converged.all()
    assert (result.n_iter <= 16).all()
    assert_allclose(result.z, expected, rtol=1e-7, atol=1e-8)
    plain = fixed_point(f, torch.zeros_like(expected), tol=1e-10)
    assert not plain.converged.any()


def test_damping_takes_a_map_that_oscillates():
    start = torch.zeros(2, 3, dtype=torch.float64)

    def f(z, rows):
        return 1.0 - 1.5 * z

    result = fixed_point(f, start, solver="damped", tol=1e-12)
    assert_allclose(result.z, 0.4, rtol=1e-11)
    assert not fixed_point(f, start).converged.any()


@solvers
def test_bad_rows_neither_converge_nor_harm_the_others(solver):
    factor = torch.tensor([0.5, 3.0, 0.1], dtype=torch.float64)[:, None]

    def f(z, rows):
        out = factor[rows] * z + 1.0
        return torch.where(rows[:, None] == 1, out * 1e200, out)

    start = torch.zeros(3, 2, dtype=torch.float64)
    result = fixed_point(f, start, solver=solver, tol=1e-12)
    assert result.converged.tolist() == [True, False, True]
    assert torch.isfinite(result.z).all()
    assert_allclose(result.z[0], 2.0, rtol=1e-11)
    assert_allclose(result.z[2], 1 / 0.9, rtol=1e-11)


@solvers
@pytest.mark.parametrize("n", [1, 7, 64])
def test_rows_are_solved_alone(solver, n):
    """To the bit, as f is elementwise: rows done keep the value that they had."""
    factor = torch.linspace(-0.95, 0.9, 100, dtype=torch.float64)[:, None]
    start = _normal(100, 5)

    def solve(part):
        def f(z, rows):
            return factor[part][rows] * z.tanh() + 1.0

        return fixed_point(f, start[part], solver=solver, tol=1e-8)

    whole = solve(torch.arange(100))
    parts = [solve(part) for part in torch.arange(100).split(n)]
    for field in ("z", "residual", "n_iter", "n_evaluations", "converged"):
        pieces = torch.cat([getattr(part, field) for part in parts])
        assert torch.equal(pieces, getattr(whole, field))
    assert len(set(whole.n_iter.tolist())) > 5


@solvers
def test_rows_that_are_done_are_not_evaluated_again(solver):
    factor = torch.linspace(0.1, 0.9, 8, dtype=torch.float64)[:, None]
    seen = []

    def f(z, rows):
        seen.extend(rows.tolist())
        return factor[rows] * z.cos() + 1.0

    result = fixed_point(f, torch.zeros(8, 3, dtype=torch.float64), solver=solver)
    assert [seen.count(row) for row in range(8)] == result.n_evaluations.tolist()
    assert len(set(result.n_evaluations.tolist())) > 1


def _measure(f, z):
    gap = torch.linalg.vector_norm(f(z, torch.arange(len(z))) - z, dim=1)
    return gap / torch.linalg.vector_norm(z, dim=1)


@solvers
@pytest.mark.parametrize("max_iter", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("factor", [-3.0, -1.5, -1.0, 0.5, 1.5])
def test_residual_is_that_of_the_state_returned(solver, factor, max_iter):
    """Whether it converges or not; and it is the best state seen."""
    seen = []

    def f(z, rows):
        return factor * z.tanh() + 1.0

    def watched(z, rows):
        seen.append(torch.full((4,), math.inf, dtype=z.dtype))
        seen[-1][rows] = _measure(f, z)
        return f(z, rows)

    start = _normal(4, 3)
    result = fixed_point(watched, start, solver=solver, max_iter=max_iter, tol=1e-9)
    best = torch.stack(seen).amin(dim=0)
    assert_allclose(result.residual, best, rtol=1e-12)
    assert_allclose(result.residual, _measure(f, result.z), rtol=1e-6, atol=1e-15)
    assert torch.equal(result.converged, result.residual <= 1e-9)


def test_absolute_tolerance():
    """A row may be done by either; the other rows go on."""
    scale = torch.tensor([[1.0], [1e-6]], dtype=torch.float64)

    def f(z, rows):
        return 0.5 * z + scale[rows]

    start = torch.zeros(2, 3, dtype=torch.float64)
    result = fixed_point(f, start, tol=1e-12, atol=1e-9)
    assert result.converged.all()
    gap = result.residual * torch.linalg.vector_norm(result.z, dim=1)
    assert (gap <= 1e-9).all()
    assert (gap > 1e-10).all()
    relative = fixed_point(f, start, tol=1e-12)
    assert (relative.n_iter > result.n_iter).all()


@solvers
def test_state_at_the_solution_stays(solver):
    f, solution = _linear(0.6)
    result = fixed_point(f, solution, solver=solver, tol=1e-12)
    assert (result.n_iter == 1).all()
    assert torch.equal(result.z, solution)


@solvers
def test_solver_does_not_depend_on_the_scale(solver):
    b = _normal(5, 4)
    plain, tiny = (
        fixed_point(
            lambda z, rows, b=b: 0.5 * z.roll(1, 1) + b[rows],
            torch.zeros_like(b),
            solver=solver,
        )
        for b in (b, 2.0**-60 * b)
    )
    assert torch.equal(plain.z * 2.0**-60, tiny.z)
    assert torch.equal(plain.n_iter, tiny.n_iter)


@solvers
def test_state_at_rest_converges(solver):
    result = fixed_point(lambda z, rows: 0.5 * z, torch.zeros(2, 3), solver=solver)
    assert result.converged.all()
    assert (result.n_iter == 1).all()
    assert not result.residual.any()


@solvers
def test_no_rows(solver):
    result = fixed_point(lambda z, rows: z, torch.zeros(0, 3), solver=solver)
    assert result.z.shape == (0, 3)
    assert result.converged.shape == (0,)


def test_solver_arguments_are_checked():
    with pytest.raises(ValueError, match="solver must be"):
        fixed_point(lambda z, rows: z, torch.zeros(1, 1), solver="newton")
    with pytest.raises(ValueError, match="tol must be positive"):
        fixed_point(lambda z, rows: z, torch.zeros(1, 1), tol=0.0)
    with pytest.raises(ValueError, match="atol nonnegative"):
        fixed_point(lambda z, rows: z, torch.zeros(1, 1), atol=-1.0)


# Of the slowest of 64 rows; the linearisation needs 17 and 43 with GMRES.
_MOST = {"anderson": (17, 44), "broyden": (18, 50)}


@pytest.mark.parametrize("solver", _MOST)
@pytest.mark.parametrize(("hard", "variance"), [(0, 0.2), (1, 0.9)])
def test_evaluations_for_a_random_deq(solver, hard, variance):
    A, B = _normal(256, 256, seed=2), _normal(256, 784, seed=3)
    u = math.sqrt((1 - variance) / 784) * _normal(64, 784, seed=4) @ B.T

    def f(z, rows):
        pre = u[rows] + math.sqrt(variance) * z @ A.T
        return torch.relu(pre) / 16.0

    result = fixed_point(f, torch.relu(u) / 16.0, solver=solver, tol=1e-8)
    assert result.converged.all()
    assert int(result.n_evaluations.max()) <= _MOST[solver][hard]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_states_too_large_to_be_measured_do_not_converge(dtype):
    """Growth by 2 % a step, until norms overflow and the relative gap looks like 0."""
    grow = torch.tensor(1.02, dtype=dtype)
    start = torch.ones(2, 3, dtype=dtype)
    result = fixed_point(lambda z, rows: grow * z, start, max_iter=40_000)
    assert not result.converged.any()
    assert (result.residual > 0.01).all()


def test_a_map_that_changes_the_shape_is_refused():
    with pytest.raises(ValueError, match=r"returns shape \(2, 1\) for states of shape"):
        fixed_point(lambda z, rows: z[:, :1], torch.zeros(2, 3))


@pytest.mark.parametrize("solver", SOLVERS)
def test_numbers_below_the_smallest_normal_one_are_at_rest(solver):
    """Adjoints of samples that are classified beyond doubt: residuals are rounding."""
    tiny = torch.finfo(torch.float32).tiny
    target = torch.tensor([[3.0, -2.0], [1e38, 1e38]]) * tiny
    result = fixed_point(
        lambda z, rows: 0.7 * z + 0.3 * target[rows], torch.zeros(2, 2), solver=solver
    )
    assert result.converged.all()
    assert float(result.residual.max()) <= 1e-5


def test_states_of_no_unit_are_refused():
    with pytest.raises(ValueError, match="with m ≥ 1"):
        fixed_point(lambda z, rows: z, torch.zeros(2, 0))


@pytest.mark.parametrize("f", [lambda z: 0.5 * z, lambda: 0, 3])
def test_a_map_that_takes_no_rows_is_refused_in_words(f):
    with pytest.raises(TypeError, match=r"f must be a function of the states and of"):
        fixed_point(f, torch.zeros(2, 3))


def test_type_errors_of_a_map_are_its_own():
    def f(z, rows):
        return z + "1"

    with pytest.raises(TypeError, match=r"unsupported operand|must be Tensor"):
        fixed_point(f, torch.zeros(2, 3))
