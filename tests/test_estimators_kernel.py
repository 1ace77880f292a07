"""The kernel transformer, alone and inside pipelines and searches."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from sklearn_deq import DEQKernelTransformer
from sklearn_deq.kernels import deq_kernel


@pytest.fixture
def iris():
    """Raw iris."""
    return load_iris(return_X_y=True)


@pytest.mark.parametrize("kernel", ["ck", "ntk", "ntk_recurrent"])
@pytest.mark.parametrize("normalize", [False, True])
def test_training_matrix(iris, kernel, normalize):
    X = StandardScaler().fit_transform(iris[0])
    model = DEQKernelTransformer(kernel=kernel, normalize=normalize)
    K = model.fit_transform(X)
    assert_array_equal(K, K.T)
    assert np.linalg.eigvalsh(K).min() > -1e-10 * K.trace()
    # Near ρ = 1 a few ulps of ρ move the derivative's dual of a kink by 1e-8.
    atol = 1e-10 if kernel == "ck" else 1e-7
    assert_allclose(model.transform(X), K, rtol=1e-9, atol=atol)
    rows = X / np.sqrt(np.mean(X**2, axis=1, keepdims=True)) if normalize else X
    tau0 = np.sqrt(np.mean(rows**2))
    assert_allclose(model.tau0_, tau0)
    assert_allclose(K, deq_kernel(rows, kernel=kernel, tau0=tau0), rtol=1e-9, atol=atol)


def test_new_samples(iris):
    X = StandardScaler().fit_transform(iris[0])
    model = DEQKernelTransformer(tau0=1.0).fit(X[:100])
    K = model.transform(X[100:])
    assert K.shape == (50, 100)
    assert_allclose(K, deq_kernel(X, tau0=1.0)[100:, :100], rtol=1e-9, atol=1e-10)
    assert len(model.get_feature_names_out()) == 100


def test_search_over_pipelines(iris):
    X, y = iris
    search = GridSearchCV(
        make_pipeline(
            StandardScaler(), DEQKernelTransformer(), SVC(kernel="precomputed")
        ),
        {"deqkerneltransformer__recurrent_variance": [0.1, 0.5], "svc__C": [1, 10]},
        cv=3,
    ).fit(X, y)
    assert search.best_score_ > 0.93


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype(iris, dtype):
    X = StandardScaler().fit_transform(iris[0])
    assert DEQKernelTransformer(dtype=dtype).fit_transform(X).dtype == dtype
    assert DEQKernelTransformer().fit_transform(X.astype(dtype)).dtype == dtype


def test_memory_budget(iris):
    with pytest.raises(MemoryError):
        DEQKernelTransformer(max_memory=1e3).fit_transform(iris[0])


def test_warnings_of_transform_name_the_line_of_the_user(iris):
    X, _ = iris
    model = DEQKernelTransformer(n_components=8, approximation="random_features")
    model.set_params(tau0=0.3, random_state=0).fit(X)
    with pytest.warns(UserWarning, match="norms") as caught:
        model.transform(100.0 * X)
    assert {each.filename for each in caught} == {__file__}
