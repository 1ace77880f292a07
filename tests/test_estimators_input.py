"""Bad and degenerate input: an error in words, or a result."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import (
    check_dataframe_column_names_consistency,
    check_get_feature_names_out_error,
    check_inplace_ensure_writeable,
    check_param_validation,
    check_set_output_transform,
    check_transformer_get_feature_names_out,
    check_transformer_get_feature_names_out_pandas,
)

from sklearn_deq import (
    DEQClassifier,
    DEQKernelRidgeClassifierCV,
    DEQKernelTransformer,
    DEQRegressor,
    ExplicitEquivalentClassifier,
    ExplicitEquivalentRegressor,
)
from sklearn_deq.exceptions import MatchWarning

SMALL = {"width": 16, "max_epochs": 2, "random_state": 0}
NETWORKS = [
    DEQClassifier,
    DEQRegressor,
    ExplicitEquivalentClassifier,
    ExplicitEquivalentRegressor,
]
ALL = [*[cls(**SMALL) for cls in NETWORKS], DEQKernelTransformer()]


@pytest.fixture
def data(rng):
    """Thirty samples of three classes."""
    return rng.standard_normal((30, 4)), np.arange(30) % 3


@pytest.mark.parametrize(
    "check",
    [
        check_param_validation,
        check_dataframe_column_names_consistency,
        check_transformer_get_feature_names_out,
        check_transformer_get_feature_names_out_pandas,
        check_get_feature_names_out_error,
        check_set_output_transform,
        check_inplace_ensure_writeable,
    ],
)
@pytest.mark.parametrize("estimator", ALL, ids=lambda e: type(e).__name__)
def test_checks_that_scikit_learn_runs_on_its_own_only(estimator, check):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="X (has|does not have valid) feature")
        check(type(estimator).__name__, clone(estimator))


@pytest.mark.parametrize("estimator", ALL, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda X: np.where(X > 1, np.nan, X), "contains NaN"),
        (lambda X: np.where(X > 1, np.inf, X), "infinity"),
        (lambda X: X[:, 0], "Expected 2D array"),
        (lambda X: np.full(X.shape, "a"), "could not convert string"),
        (lambda X: X[:0], "0 sample"),
        (lambda X: 1e200 * X, "too large for float64.*Scale X"),
        (lambda X: (1e30 * X).astype(np.float32), "too large for float32"),
    ],
)
def test_bad_data(estimator, change, message, data):
    X, y = data
    y = y[: len(change(X))]
    with pytest.raises(ValueError, match=message):
        clone(estimator).fit(change(X), y)


@pytest.mark.parametrize("estimator", ALL, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"activation": "rellu"}, "Unknown activation 'rellu'. Did you mean 'relu'"),
        ({"recurrent_variance": -0.1}, "'recurrent_variance' parameter"),
        ({"input_variance": -0.1}, "'input_variance' parameter"),
        ({"bias_variance": np.nan}, "'bias_variance' parameter"),
        ({"tau0": -1.0}, "'tau0' parameter"),
        ({"dtype": "float16"}, "'dtype' parameter"),
        ({"device": "tpu9"}, "device must be .* got 'tpu9'"),
        ({"recurrent_variance": 2.5}, r"Unstable.*χ.*recurrent_variance=2\.5"),
    ],
)
def test_bad_parameters_of_all(estimator, params, message, data):
    with pytest.raises(ValueError, match=message):
        clone(estimator).set_params(**params).fit(*data)


def test_bad_kernel_names(data):
    for estimator in (DEQKernelTransformer(), ExplicitEquivalentClassifier(**SMALL)):
        with pytest.raises(ValueError, match="'kernel' parameter"):
            clone(estimator).set_params(kernel="nkt").fit(*data)
    with pytest.raises(ValueError, match="'architecture' parameter"):
        ExplicitEquivalentRegressor(architecture="deep").fit(*data)


@pytest.mark.parametrize("cls", NETWORKS)
@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"width": 0}, "'width' parameter"),
        ({"trainable": "none"}, "'trainable' parameter"),
        ({"lr": 0.0}, "'lr' parameter"),
        ({"batch_size": 0}, "'batch_size' parameter"),
        ({"optimizer": "adm"}, "'optimizer' parameter"),
        ({"optimizer": int}, "optimizer must be one of .* got <class 'int'>"),
        ({"callbacks": [1]}, "callbacks must hold skorch callbacks.*got 1"),
        (
            {"early_stopping": True, "validation_fraction": 0.999},
            "holds out 30 of 30 samples and trains on 0",
        ),
    ],
)
def test_bad_parameters_of_networks(cls, params, message, data):
    with pytest.raises(ValueError, match=message):
        cls(**{**SMALL, **params}).fit(*data)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
@pytest.mark.parametrize("estimator", ALL, ids=lambda e: type(e).__name__)
def test_missing_cuda_is_said(estimator, data):
    with pytest.raises(ValueError, match=r"device must be .* got 'cuda'"):
        clone(estimator).set_params(device="cuda").fit(*data)
    clone(estimator).set_params(device="auto").fit(*data)


def test_a_sample_may_be_unstable_where_the_mean_is_not(rng):
    X = rng.standard_normal((40, 10))
    X[0] *= 0.1
    variances = {"activation": "tanh", "recurrent_variance": 1.5, "input_variance": 1.5}
    model = DEQClassifier(**SMALL, **variances)
    model.fit(X[1:], np.arange(39) % 2)
    with pytest.raises(ValueError, match=r"Unstable.*recurrent_variance=1\.5"):
        clone(model).fit(X, np.arange(40) % 2)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"class_weight": {7: 1.0}}, r"labels that y lacks: \[7\]"),
        ({"class_weight": {0: -1.0}}, "class_weight must be finite, not negative"),
        ({"class_weight": {0: 0, 1: 0, 2: 0}}, "positive for one of the classes"),
        (
            {"early_stopping": True, "validation_fraction": 0.01},
            "holds out 1 of 30 samples .* at least 3, one of every class",
        ),
    ],
)
def test_rules_of_classifiers(params, message, data):
    with pytest.raises(ValueError, match=message):
        DEQClassifier(**SMALL, **params).fit(*data)


def test_early_stopping_needs_two_of_every_class(data):
    X, y = data
    y = np.where(np.arange(30) == 4, 9, y)
    with pytest.raises(ValueError, match="at least 2 samples of every class"):
        DEQClassifier(**SMALL, early_stopping=True).fit(X, y)


def test_what_partial_fit_cannot_do(data):
    with pytest.raises(ValueError, match="cannot hold out samples"):
        DEQClassifier(**SMALL, early_stopping=True).partial_fit(*data)
    with pytest.raises(ValueError, match="give the weights as a dict"):
        DEQClassifier(**SMALL, class_weight="balanced").partial_fit(*data)


@pytest.mark.parametrize("cls", [*NETWORKS, DEQKernelTransformer])
def test_unknown_parameters(cls):
    with pytest.raises(TypeError, match=r"'dtpye'. Did you mean 'dtype'\?"):
        cls(dtpye="float32")
    with pytest.raises(TypeError, match="positional"):
        cls("ck")
    with pytest.raises(ValueError, match=r"'dtpye'.* Did you mean 'dtype'\?"):
        cls().set_params(dtpye="float32")
    with pytest.raises(ValueError, match="Invalid parameter 'dtype__x'"):
        cls().set_params(dtype__x=1)


@pytest.mark.parametrize("trainable", ["all", "readout"])
@pytest.mark.parametrize("cls", NETWORKS)
@pytest.mark.parametrize("case", ["constant", "feature", "zero row", "twice", "sample"])
def test_degenerate_data_work(cls, trainable, case, data):
    X, y = data
    if case == "constant":
        X = np.ones_like(X)
    elif case == "feature":
        X = X[:, :1]
    elif case == "zero row":
        X = np.vstack([0 * X[:1], X[1:]])
    elif case == "twice":
        X, y = np.repeat(X[:2], 15, axis=0), np.repeat(y[:2], 15)
    elif case == "sample":
        X, y = X[:1], y[:1]
    model = cls(**SMALL, trainable=trainable)
    if case == "sample" and "Classifier" in cls.__name__ and trainable == "readout":
        with pytest.raises(ValueError, match="only one class"):
            model.fit(X, y)
        return
    model.fit(X, y)
    assert model.predict(X).shape == y.shape
    assert np.isfinite(model.transform(X)).all()


def test_data_of_zeros(data):
    X, y = data
    model = DEQClassifier(**SMALL).fit(0 * X, y)
    assert np.isfinite(model.predict_proba(0 * X)).all()
    K = DEQKernelTransformer().fit_transform(0 * X)
    assert np.isfinite(K).all()
    with pytest.raises(ValueError, match="does not see its input"):
        ExplicitEquivalentClassifier(**SMALL).fit(0 * X, y)


@pytest.mark.parametrize("cls", [DEQClassifier, ExplicitEquivalentClassifier])
def test_one_class(cls, data):
    X, _ = data
    model = cls(**SMALL).fit(X, np.full(30, "only"))
    assert set(model.predict(X)) == {"only"}
    assert (model.predict_proba(X) == 1).all()
    with pytest.raises(ValueError, match="only one class"):
        cls(**SMALL, trainable="readout").fit(X, np.zeros(30))


def test_constant_targets(data):
    X, _ = data
    for trainable in ("all", "readout"):
        model = DEQRegressor(**SMALL, trainable=trainable).fit(X, np.full(30, 5.0))
        np.testing.assert_allclose(model.predict(X), 5.0)


def test_poor_matches_are_said(data):
    with pytest.warns(MatchWarning, match=r"residual.*architecture='hard_tanh'"):
        model = ExplicitEquivalentClassifier(
            **SMALL, activation="tanh", architecture="leaky_relu"
        ).fit(*data)
    assert model.match_.residual > 1e-6
    assert not model.match_.converged
    biased = ExplicitEquivalentClassifier(
        **SMALL, bias_variance=0.3, architecture="hermite"
    )
    with pytest.warns(MatchWarning, match=r"residual.*normalize=True"):
        biased.fit(*data)
    with pytest.raises(ValueError, match=r"bias_variance=0\.3"):
        biased.set_params(architecture="rounded").fit(*data)


def test_huge_learning_rates_are_not_silent(data):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        DEQRegressor(**SMALL, lr=1e10).fit(*data)
    assert any(issubclass(w.category, ConvergenceWarning) for w in caught)


@pytest.mark.parametrize("cls", [DEQClassifier, ExplicitEquivalentClassifier])
def test_samples_too_large_for_the_weights(cls, data):
    """Of a network in float32 as the data were, whatever the dtype of new samples."""
    X, y = data
    model = cls(**SMALL).fit(X.astype(np.float32), y)
    far = np.full((1, X.shape[1]), 1e200)
    with pytest.raises(ValueError, match=r"too large for float32: it reaches 1\.0e"):
        model.predict_proba(far)


def test_labels_of_several_types(data):
    labels = np.array(["a", 1] * (len(data[0]) // 2), dtype=object)
    for cls in (DEQClassifier, DEQKernelRidgeClassifierCV):
        with pytest.raises(ValueError, match=r"several types \(int, str\): make them"):
            cls().fit(data[0][: len(labels)], labels)
    # NumPy's strings are strings.
    labels[1::2] = np.str_("b")
    DEQClassifier(**SMALL).fit(data[0][: len(labels)], labels)
