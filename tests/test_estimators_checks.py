"""scikit-learn's own checks, with no expected failure."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from sklearn_deq import (
    DEQClassifier,
    DEQKernelRidgeClassifierCV,
    DEQKernelRidgeCV,
    DEQKernelTransformer,
    DEQRegressor,
    ExplicitEquivalentClassifier,
    ExplicitEquivalentRegressor,
)

SMALL = {"width": 32, "max_epochs": 25, "random_state": 0}
SHORT = {"width": 32, "max_epochs": 10, "random_state": 0, "lr": 0.05}

# DEQs of the default width take minutes for all checks: the default run has small ones.
QUICK = [
    DEQClassifier(**SHORT),
    DEQRegressor(**SHORT, activation="tanh"),
    ExplicitEquivalentClassifier(),
    ExplicitEquivalentRegressor(),
    DEQKernelTransformer(),
    DEQKernelRidgeCV(),
    DEQKernelRidgeClassifierCV(),
]
OTHERS = [
    DEQClassifier(),
    DEQRegressor(),
    DEQClassifier(**SMALL, bias_variance=0.1, tol=1e-8),
    DEQRegressor(**SMALL, activation="tanh", trainable="recurrent"),
    DEQClassifier(**SMALL, trainable="readout", normalize=True),
    DEQRegressor(**SMALL, trainable="readout", bias_variance=0.2),
    # With one step an epoch a check on fifty rows would depend on the seed.
    ExplicitEquivalentClassifier(**SMALL, activation="tanh", batch_size=16),
    ExplicitEquivalentRegressor(**SMALL, trainable="readout"),
    DEQKernelTransformer(kernel="ntk", activation="gelu", normalize=True),
    DEQKernelTransformer(n_components=5),
    DEQKernelTransformer(n_components=5, approximation="random_features"),
    DEQKernelRidgeCV(
        activation="leaky_relu",
        recurrent_variance=0.2,
        center=False,
        fit_intercept=False,
        cv=3,
    ),
    DEQKernelRidgeClassifierCV(
        kernel="ntk",
        recurrent_variance=0.2,
        normalize=(False, True),
        class_weight="balanced",
        scoring="neg_log_loss",
    ),
    # One of the checks asks for a score that few features do not reach.
    DEQKernelRidgeCV(n_components=50, random_state=0, recurrent_variance=0.2),
    DEQKernelRidgeClassifierCV(
        n_components=5,
        approximation="random_features",
        random_state=0,
        recurrent_variance=0.2,
        scale="standard",
    ),
]

pytestmark = [
    # Some checks train on data with an offset of a hundred deviations, where a loss
    # may rise: that it is said so is right, and scikit-learn's own run ignores it too.
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    # There tanh saturates, which its tables do not resolve: scale the data, they say.
    pytest.mark.filterwarnings(
        "ignore:The dual activation of tanh:sklearn_deq.exceptions.SolverWarning"
    ),
    # Checks of a handful of rows have fewer than there would be features.
    pytest.mark.filterwarnings("ignore:n_components=50 is more than:UserWarning"),
    # Of a handful of rows those to predict have norms that none of the others has.
    pytest.mark.filterwarnings("ignore:.* samples have norms:UserWarning"),
]


@parametrize_with_checks(QUICK)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks(OTHERS)
def test_scikit_learn_checks_of_others(estimator, check):
    check(estimator)
