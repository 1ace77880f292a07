"""Exported networks give the predictions of the estimators, in onnxruntime."""

import json
import warnings
from functools import partial

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_diabetes, load_iris
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MinMaxScaler,
    OneHotEncoder,
    PowerTransformer,
    StandardScaler,
)

from sklearn_deq import ExplicitEquivalentClassifier, ExplicitEquivalentRegressor

SMALL = {"width": 64, "max_epochs": 3, "random_state": 0}


def run(path, X):
    """Output of the file."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"X": X.astype(np.float32)})[0]


@pytest.mark.parametrize("trainable", ["all", "readout"])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"activation": "tanh", "dtype": "float32"},
        {"architecture": "piecewise_linear", "normalize": True},
        {"activation": "gelu", "architecture": "rounded"},
        {"architecture": "hermite", "normalize": True, "bias_variance": 0.1},
        {"architecture": "hermite", "center": False},
        {"architecture": "hermite"},
    ],
    ids=[
        "leaky_relu",
        "hard_tanh",
        "piecewise_linear",
        "rounded",
        "one norm",
        "homogeneous",
        "norms that vary",
    ],
)
@pytest.mark.filterwarnings("ignore::sklearn_deq.exceptions.MatchWarning")
def test_classifier(settings, n_classes, trainable, tmp_path):
    X, y = load_iris(return_X_y=True)
    X, y = X[y < n_classes], np.array(["a", "b", "c"])[y[y < n_classes]]
    scaler = StandardScaler().fit(X)
    model = ExplicitEquivalentClassifier(**SMALL, trainable=trainable, **settings)
    model.fit(scaler.transform(X), y)
    path = tmp_path / "model.onnx"
    model.export_onnx(path, preprocessing=scaler)
    found = run(path, X)
    expected = model.predict_proba(scaler.transform(X))
    assert_allclose(found, expected, atol=1e-5)
    assert_allclose(run(path, X[:1]), expected[:1], atol=1e-5)
    properties = {p.key: p.value for p in onnx.load(path).metadata_props}
    assert json.loads(properties["classes"]) == list("abc"[:n_classes])


@pytest.mark.parametrize("n_targets", [1, 2])
def test_regressor(n_targets, tmp_path):
    X, y = load_diabetes(return_X_y=True)
    y = np.column_stack([y, -y])[:, :n_targets]
    steps = make_pipeline(MinMaxScaler(), StandardScaler()).fit(X)
    model = ExplicitEquivalentRegressor(**SMALL).fit(steps.transform(X), y)
    path = tmp_path / "model.onnx"
    model.export_onnx(str(path), preprocessing=steps)
    expected = model.predict(steps.transform(X))
    # float32 relative to targets of a few hundred.
    assert_allclose(run(path, X), expected.reshape(len(X), -1), rtol=1e-5, atol=1e-3)


def test_zero_rows_stay_zero(tmp_path):
    X, y = load_iris(return_X_y=True)
    X[0] = 0.0
    model = ExplicitEquivalentClassifier(**SMALL, normalize=True).fit(X, y)
    model.export_onnx(tmp_path / "model.onnx")
    found = run(tmp_path / "model.onnx", X)
    assert_allclose(found, model.predict_proba(X), atol=1e-5)


def test_scaler_fitted_on_a_data_frame(tmp_path):
    # It once warned that the probes of the export had no names.
    X, y = load_iris(return_X_y=True, as_frame=True)
    scaler = StandardScaler().fit(X)
    model = ExplicitEquivalentClassifier(**SMALL).fit(scaler.transform(X), y)
    model.export_onnx(tmp_path / "model.onnx", preprocessing=scaler)
    expected = model.predict_proba(scaler.transform(X))
    assert_allclose(run(tmp_path / "model.onnx", X.to_numpy()), expected, atol=1e-5)


# Integers, of which the scaler does not know.
@pytest.mark.filterwarnings("ignore:The graph takes .* float32:UserWarning")
@pytest.mark.parametrize("mean", [2_000.0, 1e5, 1e7])
def test_means_beside_which_features_vary_little(mean, tmp_path):
    # x · factor + shift in float32 once lost 2e-3 of the probabilities, and slopes that
    # were measured between 0 and 1 as much at 1e7.
    rng = np.random.default_rng(0)
    X = np.rint(10 * rng.standard_normal((200, 4))) + mean  # float32 has them
    scaler = StandardScaler().fit(X)
    model = ExplicitEquivalentClassifier(**SMALL)
    model.fit(scaler.transform(X), X[:, 0] > mean)
    model.export_onnx(tmp_path / "model.onnx", preprocessing=scaler)
    expected = model.predict_proba(scaler.transform(X))
    assert_allclose(run(tmp_path / "model.onnx", X), expected, atol=1e-5)


def test_features_that_float32_does_not_resolve(tmp_path):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((400, 4))
    X[:, 2] = 1.7e9 + rng.uniform(0, 3600, 400)
    y = X[:, 2] > 1.7e9 + 1800
    path = tmp_path / "model.onnx"

    def export(X):
        scaler = StandardScaler().fit(X)
        model = ExplicitEquivalentClassifier(**SMALL).fit(scaler.transform(X), y)
        model.export_onnx(path, preprocessing=scaler)
        return abs(run(path, X) - model.predict_proba(scaler.transform(X))).max()

    with pytest.warns(UserWarning, match=r"column\(s\) 2: .* 6.1e-02 of the") as caught:
        assert export(X) > 1e-3
    assert caught[0].filename == __file__
    # What the warning says to do; and a mean that float32 bears.
    assert export(X - [0, 0, 1.7e9, 0]) <= 1e-5
    assert export(X - [0, 0, 1.7e9, 150]) <= 1e-5


@pytest.mark.parametrize("dtype", [None, "float32"])
def test_a_single_class(tmp_path, dtype):
    X, y = load_iris(return_X_y=True)
    model = ExplicitEquivalentClassifier(**SMALL, dtype=dtype).fit(X, 0 * y + 3)
    model.export_onnx(tmp_path / "model.onnx")
    found = run(tmp_path / "model.onnx", X)
    assert_array_equal(found, model.predict_proba(X))
    assert found.shape == (150, 1)


@pytest.mark.parametrize("labels", [["no", "yes"], [False, True], [-1, 7], [0.0, 2.0]])
def test_labels_of_the_file(tmp_path, labels):
    X, y = load_iris(return_X_y=True)
    model = ExplicitEquivalentClassifier(**SMALL).fit(X, np.array(labels)[y % 2])
    model.export_onnx(tmp_path / "model.onnx")
    properties = onnx.load(tmp_path / "model.onnx").metadata_props
    assert json.loads(properties[0].value) == labels


@pytest.mark.parametrize("dtype", ["datetime64[s]", "datetime64[ns]"])
def test_labels_that_no_file_holds(tmp_path, dtype):
    X, y = load_iris(return_X_y=True)
    labels = np.array(["2020-01-01", "2021-01-01", "2022-01-01"]).astype(dtype)[y]
    model = ExplicitEquivalentClassifier(**SMALL).fit(X, labels)
    with pytest.raises(ValueError, match=r"classes_ has datetime64\[.*astype\(str\)"):
        model.export_onnx(tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_messages(tmp_path):
    X, y = load_iris(return_X_y=True)
    model = ExplicitEquivalentClassifier(**SMALL)
    with pytest.raises(NotFittedError):
        model.export_onnx(tmp_path / "model.onnx")
    model.fit(X, y)
    with pytest.raises(ValueError, match="as StandardScaler does"):
        model.export_onnx(tmp_path / "model.onnx", preprocessing=PCA().fit(X))
    holes = X.copy()
    holes[0] = np.nan
    for other in (
        make_pipeline(SimpleImputer(), StandardScaler()).fit(holes),
        MinMaxScaler(clip=True).fit(1e4 * X),
        FunctionTransformer(partial(np.clip, a_min=-50, a_max=50)).fit(X),
    ):
        with pytest.raises(ValueError, match="nothing clipped or imputed"):
            model.export_onnx(tmp_path / "model.onnx", preprocessing=other)
    assert not (tmp_path / "model.onnx").exists()


def test_an_encoder_before_the_scaler_is_spoken_of(tmp_path):
    """Which makes other features than it takes: the raw words were scikit-learn's."""
    rng = np.random.default_rng(0)
    raw = np.column_stack([rng.standard_normal(30), rng.integers(0, 3, 30)])
    encoder = ColumnTransformer(
        [("scale", StandardScaler(), [0]), ("code", OneHotEncoder(), [1])]
    )
    X = encoder.fit_transform(raw)
    model = ExplicitEquivalentClassifier(
        width=8, max_epochs=1, architecture="leaky_relu", random_state=0
    ).fit(X, raw[:, 0] > 0)
    with pytest.raises(ValueError, match="takes 2 features and the network 4"):
        model.export_onnx(tmp_path / "model.onnx", preprocessing=encoder)


def test_what_a_transformer_does_to_probes_is_not_the_users(tmp_path):
    X, y = load_iris(return_X_y=True)
    scaler = FunctionTransformer(np.log1p).fit(X)
    model = ExplicitEquivalentClassifier(**SMALL).fit(scaler.transform(X), y)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        with pytest.raises(ValueError, match="must be fitted, and scale and shift"):
            model.export_onnx(tmp_path / "model.onnx", preprocessing=scaler)


def test_probes_that_a_transformer_refuses(tmp_path):
    X, y = load_iris(return_X_y=True)
    scaler = PowerTransformer(method="box-cox").fit(X)
    model = ExplicitEquivalentClassifier(**SMALL).fit(scaler.transform(X), y)
    with pytest.raises(ValueError, match=r"as StandardScaler.*It fails on some rows"):
        model.export_onnx(tmp_path / "model.onnx", preprocessing=scaler)
