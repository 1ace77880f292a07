"""Probabilities from decision values: one factor, or a matrix near it."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize_scalar
from sklearn.metrics import log_loss

from sklearn_deq.linear import (
    calibrated,
    class_log_probabilities,
    class_probabilities,
    fit_calibration,
    fit_temperature,
)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_temperature_minimises_the_log_loss(rng, n_classes):
    values = rng.standard_normal((2000, n_classes))
    values = values[:, 0] if n_classes == 2 else values
    chances = class_probabilities(values, 1.7)
    codes = np.array([rng.choice(n_classes, p=p) for p in chances])
    weight = rng.integers(1, 4, 2000).astype(float)
    found = fit_temperature(values, codes, weight)
    # Smoothing the labels moves the optimum by one in the number of samples.
    best = minimize_scalar(
        lambda t: log_loss(codes, class_probabilities(values, t), sample_weight=weight),
        bounds=(0.1, 10.0),
        method="bounded",
    ).x
    assert_allclose(found, best, rtol=2e-2)
    assert_allclose(found, 1.7, rtol=0.15)
    repeats = weight.astype(int)
    copies = fit_temperature(values.repeat(repeats, axis=0), codes.repeat(repeats))
    assert_allclose(copies, found, rtol=1e-9)


def test_temperature_is_finite_on_separable_and_positive_on_reversed_values():
    codes = np.array([0] * 10 + [1] * 10)
    signs = 2.0 * codes - 1.0
    separable = class_probabilities(signs, fit_temperature(signs, codes))
    # Platt's targets for ten samples of a class.
    assert_allclose(separable[0], [11 / 12, 1 / 12])
    assert fit_temperature(-signs, codes) > 0
    assert fit_temperature(np.zeros(20), codes) > 0


def _calibration_loss(values, codes, weight, x, penalty=30.0):
    """Loss of docs: common factor, coefficients and intercepts, in torch."""
    n_classes = values.shape[1]
    totals = np.bincount(codes, weights=weight)[codes]
    targets = np.full(values.shape, np.nan)
    targets[:] = (1 / (totals + 2) / (n_classes - 1))[:, None]
    targets[np.arange(len(codes)), codes] = (totals + 1) / (totals + 2)
    factor, coef, intercept = x
    logits = torch.from_numpy(values) @ coef + intercept
    each = -(torch.from_numpy(targets) * logits.log_softmax(dim=1)).sum(dim=1)
    away = coef - factor * torch.eye(n_classes, dtype=coef.dtype)
    return (torch.from_numpy(weight) * each).sum() + penalty / 2 * (
        (away**2).sum() + (intercept**2).sum()
    )


@pytest.fixture
def mixed(rng):
    """Decision values that tell the classes only together, and unequally."""
    values = rng.standard_normal((600, 3))
    mixing = np.array([[3.0, 1.0, 0.0], [0.0, 2.0, 0.5], [-1.0, 0.0, 2.0]])
    chances = class_probabilities(values @ mixing + [0.5, 0.0, -0.5])
    codes = np.array([rng.choice(3, p=p) for p in chances])
    return values, codes, rng.integers(1, 4, 600).astype(float)


def test_calibration_is_where_the_gradient_vanishes(mixed):
    values, codes, weight = mixed
    coef, intercept = fit_calibration(values, codes, weight)
    # Of the deviations from βI, those with ‖·‖ least have no trace.
    factor = np.trace(coef) / 3
    x = [torch.tensor(v, requires_grad=True) for v in (factor, coef, intercept)]
    loss = _calibration_loss(values, codes, weight, x)
    for gradient in torch.autograd.grad(loss, x):
        # Sums of 1,200 terms of size 1; the tolerance of L-BFGS is 1e-7.
        assert abs(gradient).max() < 1e-4


def test_calibration_is_better_than_a_temperature(mixed):
    values, codes, weight = mixed
    coef, intercept = fit_calibration(values, codes, weight)
    plain = fit_temperature(values, codes, weight)
    assert log_loss(
        codes, class_probabilities(calibrated(values, coef, intercept))
    ) < log_loss(codes, class_probabilities(values, plain))
    far, none = fit_calibration(values, codes, weight, penalty=1e9)
    assert_allclose(far, plain * np.eye(3), atol=1e-5)
    assert_allclose(none, 0.0, atol=1e-5)


def test_calibration_of_copies_and_of_renamed_classes(mixed):
    values, codes, weight = mixed
    coef, intercept = fit_calibration(values, codes, weight)
    repeats = weight.astype(int)
    copies = fit_calibration(values.repeat(repeats, axis=0), codes.repeat(repeats))
    order = np.array([2, 0, 1])
    renamed = fit_calibration(values[:, order], np.argsort(order)[codes], weight)
    # The optimum is known to the root of what rounding leaves of the loss.
    assert_allclose(copies[0], coef, atol=1e-5)
    assert_allclose(copies[1], intercept, atol=1e-5)
    assert_allclose(renamed[0], coef[np.ix_(order, order)], atol=1e-5)
    assert_allclose(renamed[1], intercept[order], atol=1e-5)


def test_calibration_of_two_classes_is_one_line(mixed):
    values, codes, _ = mixed
    f, codes = 2.0 * values[:, 1], (codes == 1).astype(int)
    slope, intercept = fit_calibration(f, codes)
    coef, intercepts = fit_calibration(np.column_stack([-f / 2, f / 2]), codes)
    odds = np.diff(calibrated(np.column_stack([-f / 2, f / 2]), coef, intercepts))
    assert_allclose(calibrated(f, slope, intercept), odds.ravel(), atol=1e-8)
    # Fewer of the second class.
    assert intercept < 0


def test_calibration_never_turns_values_around_and_of_many_classes_is_a_factor(rng):
    codes = np.array([0] * 10 + [1] * 10)
    signs = 2.0 * codes - 1.0
    assert fit_calibration(signs, codes)[0] > 0
    assert_array_equal(fit_calibration(np.zeros(20), codes)[1], 0.0)
    codes = np.arange(1001).repeat(2)
    values = rng.standard_normal((2002, 1001)) + 2.0 * np.eye(1001)[codes]
    coef, intercept = fit_calibration(values, codes)
    assert_array_equal(coef, coef[0, 0] * np.eye(1001))
    # Every class is as frequent.
    assert np.abs(intercept).max() < 0.1


def test_probabilities_are_ordered_as_the_values(rng):
    values = rng.standard_normal((50, 3))
    probabilities = class_probabilities(values, 3.0)
    assert_allclose(probabilities.sum(axis=1), 1.0)
    assert (probabilities.argmax(axis=1) == values.argmax(axis=1)).all()
    binary = class_probabilities(values[:, 0], 3.0)
    assert_allclose(binary[:, 1], 1 / (1 + np.exp(-3.0 * values[:, 0])))


@pytest.mark.parametrize("n_classes", [2, 3])
def test_decisions_are_never_turned_around(rng, n_classes):
    """Values of leave-one-out are against their own class where nothing is learnt."""
    codes = np.arange(30) % n_classes
    signs = np.where(codes[:, None] == np.arange(n_classes), 1.0, -1.0)
    values = 0.3 * rng.standard_normal((30, n_classes)) - signs
    if n_classes == 2:
        slope, intercept = fit_calibration(values[:, 1], codes)
        assert slope > 0.0
        assert_array_equal(slope * values[:, 1] + intercept > 0, values[:, 1] > 0)
        return
    coef, intercept = fit_calibration(values, codes)
    centred = np.eye(3) - 1.0 / 3.0
    assert np.linalg.eigvalsh(centred @ (coef + coef.T) @ centred)[1] > 0.0
    decided = calibrated(values, coef, intercept).argmax(axis=1)
    # Shares that differ by chance move the borders; turned around, hardly any agrees.
    assert np.mean(decided == values.argmax(axis=1)) > 0.8


@pytest.mark.parametrize("shares", [(0.9, 0.1), (0.9, 0.07, 0.03)])
@pytest.mark.parametrize("seed", range(4))
def test_shares_of_the_classes_are_known_where_nothing_is_learnt(shares, seed):
    """Some of these values are worse than chance: what is cut off is their slope."""
    rng = np.random.default_rng(seed)
    codes = rng.choice(len(shares), size=400, p=shares)
    values = rng.standard_normal((400, len(shares)))
    values = values[:, 0] if len(shares) == 2 else values
    log_odds = calibrated(values, *fit_calibration(values, codes))
    loss = -class_log_probabilities(log_odds)[np.arange(400), codes].mean()
    counts = np.bincount(codes) / 400
    # Of intercepts that are penalised (where no slope is cut off) a little is lost.
    assert loss < 0.05 - counts @ np.log(counts)


def test_shares_of_few_samples_are_kept_where_all_are_against_their_class():
    """As leave-one-out has it of means: nothing but the share of the class is known."""
    codes = np.repeat([0, 1, 2], [28, 8, 4])
    signs = 2.0 * np.eye(3)[codes] - 1.0
    values = (signs.sum(axis=0) - signs) / 39
    values = 20.0 * (values - values.mean(axis=0))
    log_odds = calibrated(values, *fit_calibration(values, codes))
    found = class_probabilities(log_odds).mean(axis=0)
    # Smoothed: one sample more of every other class.
    assert_allclose(found, [0.7, 0.2, 0.1], atol=0.05)


def test_a_slope_at_its_bound_keeps_the_intercept():
    """It is the common factor, which is bounded by the same: only rounding differs."""
    codes = np.repeat([0, 1], [80, 20])
    values = 1e-5 * np.random.default_rng(0).standard_normal(100)
    slope, intercept = fit_calibration(values, codes)
    assert slope > 0.0
    assert intercept < -0.5
