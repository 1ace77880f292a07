"""What surrounds an estimator: data frames, parallel backends, routing, processes."""

import inspect
import multiprocessing
import pickle

import joblib
import numpy as np
import pytest
import sklearn
from numpy.testing import assert_allclose, assert_array_equal
from packaging.version import Version
from sklearn.base import ClassifierMixin, clone
from sklearn.datasets import load_iris
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from sklearn_deq import (
    DEQClassifier,
    DEQKernel,
    DEQKernelRidgeClassifierCV,
    DEQKernelRidgeCV,
    DEQKernelTransformer,
    DEQRegressor,
    ExplicitEquivalentClassifier,
    ExplicitEquivalentRegressor,
)

NETWORK = {"width": 12, "max_epochs": 2, "random_state": 0}
MODELS = [
    DEQClassifier(**NETWORK),
    DEQRegressor(**NETWORK),
    ExplicitEquivalentClassifier(**NETWORK),
    ExplicitEquivalentRegressor(**NETWORK),
    DEQKernelRidgeClassifierCV(recurrent_variance=0.4, alphas=[0.1]),
    DEQKernelRidgeCV(recurrent_variance=0.4, alphas=[0.1]),
]
TRANSFORMERS = [
    DEQClassifier(**NETWORK),
    ExplicitEquivalentClassifier(**NETWORK),
    DEQKernelTransformer(),
    DEQKernelTransformer(n_components=5, random_state=0),
    DEQKernelTransformer(
        n_components=5, approximation="random_features", random_state=0
    ),
]


def _name(value):
    return type(value).__name__


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    X.flags.writeable = False
    return X, y


def _frame(library, X):
    module = pytest.importorskip(library)
    if library == "polars" and Version(sklearn.__version__) < Version("1.7"):
        pytest.skip("scikit-learn reads the columns of such a polars since 1.7")
    columns = [f"x{i}" for i in range(X.shape[1])]
    return module.DataFrame({name: X[:, i] for i, name in enumerate(columns)})


@pytest.mark.parametrize("library", ["pandas", "polars"])
@pytest.mark.parametrize("model", MODELS, ids=_name)
def test_frames_in(model, library, iris):
    X, y = iris
    frame = _frame(library, X)
    fitted = clone(model).fit(frame, y)
    assert list(fitted.feature_names_in_) == list(frame.columns)
    # Columns of a frame lie apart: sums are rounded in another order.
    assert_allclose(fitted.predict(frame), clone(model).fit(X, y).predict(X), rtol=1e-6)
    with pytest.raises(ValueError, match="feature names should match"):
        fitted.predict(frame[list(frame.columns)[::-1]])


@pytest.mark.parametrize("library", ["pandas", "polars"])
@pytest.mark.parametrize("transformer", TRANSFORMERS, ids=_name)
def test_frames_out(transformer, library, iris):
    X, y = iris
    frame = _frame(library, X)
    out = clone(transformer).fit(X, y).set_output(transform=library).transform(X)
    assert type(out) is type(frame)
    plain = clone(transformer).fit(X, y)
    assert list(out.columns) == list(plain.get_feature_names_out())
    assert_array_equal(out.to_numpy(), plain.transform(X))


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_searches_on_every_backend(backend, iris):
    _search_agrees(backend, iris)


@pytest.mark.slow
def test_searches_on_dask(iris):
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster),
    ):
        _search_agrees("dask", iris)


def _search_agrees(backend, iris):
    """A grid search, and the ridge's own, give the same on any backend."""
    X, y = iris
    pipeline = make_pipeline(StandardScaler(), DEQClassifier(**NETWORK))
    search = GridSearchCV(
        pipeline, {"deqclassifier__recurrent_variance": [0.1, 0.4]}, cv=2
    )
    ridge = DEQKernelRidgeClassifierCV(recurrent_variance=[0.1, 0.4], alphas=[0.1, 1.0])
    alone = clone(search).fit(X, y), clone(ridge).fit(X, y)
    with joblib.parallel_config(backend, n_jobs=2):
        shared = clone(search).fit(X, y), clone(ridge).set_params(n_jobs=2).fit(X, y)
    found, expected = (
        pair[0].cv_results_["mean_test_score"] for pair in (shared, alone)
    )
    # A test sample more or less, should another count of threads move a rounding.
    assert_allclose(found, expected, atol=2 / len(X))
    assert shared[1].best_params_ == alone[1].best_params_
    assert_allclose(shared[1].dual_coef_, alone[1].dual_coef_, rtol=1e-7, atol=1e-9)


def _predict_elsewhere(pickled, X):
    return pickle.loads(pickled).predict(X)


@pytest.mark.parametrize("model", MODELS, ids=_name)
def test_pickles_cross_processes(model, iris):
    X, y = iris
    fitted = clone(model).fit(X, y)
    with joblib.parallel_config("loky", n_jobs=1), multiprocessing.Pool(1) as pool:
        elsewhere = pool.apply(_predict_elsewhere, (pickle.dumps(fitted), X))
    assert_allclose(elsewhere, fitted.predict(X), rtol=1e-12)


@pytest.mark.parametrize("model", [*MODELS, DEQKernelTransformer()], ids=_name)
def test_pictures_of_estimators(model, iris):
    html = make_pipeline(StandardScaler(), model)._repr_html_()
    assert type(model).__name__ in html
    assert "fitted" in clone(model).fit(*iris)._repr_html_()


@pytest.mark.parametrize("model", [*MODELS, *TRANSFORMERS, DEQKernel()], ids=_name)
def test_signatures_show_the_parameters(model):
    # They once were (*args, **params), in help and in documentation.
    parameters = inspect.signature(type(model)).parameters
    assert set(parameters) == set(model.get_params(deep=False))
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters.values())


@pytest.mark.parametrize("model", MODELS, ids=_name)
def test_tags(model):
    tags = model.__sklearn_tags__()
    kind = "classifier" if isinstance(model, ClassifierMixin) else "regressor"
    assert tags.estimator_type == kind
    assert not tags.input_tags.sparse
    assert not tags.input_tags.allow_nan


def test_sample_weights_are_routed(iris):
    X, y = iris
    weight = np.linspace(0.1, 2.0, len(X))
    ridge = DEQKernelRidgeClassifierCV(recurrent_variance=0.4, alphas=[0.1])
    with sklearn.config_context(enable_metadata_routing=True):
        asked = clone(ridge).set_fit_request(sample_weight=True)
        pipeline = make_pipeline(
            StandardScaler().set_fit_request(sample_weight=False), asked
        )
        pipeline.fit(X, y, sample_weight=weight)
        routed = cross_val_predict(
            pipeline, X, y, params={"sample_weight": weight}, cv=2
        )
        unasked = clone(pipeline).set_params(deqkernelridgeclassifiercv=clone(ridge))
        with pytest.raises(ValueError, match="sample_weight"):
            cross_val_predict(unasked, X, y, params={"sample_weight": weight}, cv=2)
    assert routed.shape == y.shape
    direct = clone(ridge).fit(
        StandardScaler().fit_transform(X), y, sample_weight=weight
    )
    assert_allclose(pipeline[-1].dual_coef_, direct.dual_coef_, rtol=1e-9)


def test_grids_reach_into_the_kernel(iris):
    X, y = iris
    grid = {"kernel__recurrent_variance": [0.1, 0.5]}
    for estimator in (
        SVC(kernel=DEQKernel()),
        GaussianProcessClassifier(DEQKernel(), optimizer=None),
    ):
        search = GridSearchCV(estimator, grid, cv=2, n_jobs=2).fit(X[:100], y[:100])
        assert search.best_score_ > 0.9
