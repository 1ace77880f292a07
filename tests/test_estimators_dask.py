"""Dask arrays: the same results as in memory, on real workers, and clear errors."""

import os
import pickle
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import joblib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, KFold

from sklearn_deq import (
    DEQKernelRidgeClassifierCV,
    DEQKernelRidgeCV,
    DEQKernelTransformer,
)
from sklearn_deq.estimators import _dask, _features

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")

N = 600
FAST = {"n_components": 20, "search_samples": 100, "random_state": 0}
MODELS = [
    DEQKernelRidgeCV(recurrent_variance=0.2, **FAST),
    DEQKernelRidgeCV(
        kernel=["ck", "ntk"],
        recurrent_variance=0.2,
        average=True,
        approximation="random_features",
        dtype="float32",
        **FAST,
    ),
    DEQKernelRidgeClassifierCV(
        recurrent_variance=0.2, class_weight="balanced", scale="standard", **FAST
    ),
]
IDS = ["regressor", "average", "classifier"]


@pytest.fixture
def table(rng):
    """X, numbers, labels of three classes, and weights, some of them zero."""
    X = rng.standard_normal((N, 4))
    y = np.sin(X[:, 0]) + X[:, 1] ** 2
    labels = np.array(["a", "b", "c"])[np.digitize(y, [0.5, 1.5])]
    return X, y, labels, rng.integers(0, 3, N).astype(float)


@pytest.fixture(autouse=True)
def threads():
    """No processes, unless a test has a cluster."""
    with dask.config.set(scheduler="threads"):
        yield


def _targets(model, y, labels):
    return labels if isinstance(model, DEQKernelRidgeClassifierCV) else y


def _chunks(*arrays, rows=(250, 100, 250)):
    return [da.from_array(a, chunks=(rows, *a.shape[1:])) for a in arrays]


@pytest.mark.parametrize(
    ("model", "weighted"), [*zip(MODELS, (False, True, True), strict=True)], ids=IDS
)
def test_the_fit_is_that_in_memory(table, model, weighted):
    X, y, labels, weight = table
    y = _targets(model, y, labels)
    inside = clone(model).fit(X, y, weight if weighted else None)
    lazy, lazy_y, lazy_weight = _chunks(X, y, weight)
    outside = clone(model).fit(lazy, lazy_y, lazy_weight if weighted else None)
    assert_allclose(outside.coef_, inside.coef_, rtol=1e-6, atol=1e-8)
    assert outside.best_params_ == inside.best_params_
    for method in ("predict", "decision_function", "predict_proba"):
        if hasattr(model, method):
            found, expected = getattr(outside, method)(lazy), getattr(inside, method)(X)
            assert isinstance(found, da.Array)
            assert found.chunks[0] == lazy.chunks[0]
            assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
            computed = found.compute()
            assert computed.dtype == expected.dtype
            if expected.dtype.kind == "f":
                assert_allclose(computed, expected, rtol=1e-5, atol=1e-5)
            else:
                assert np.mean(computed == expected) > 0.99


@pytest.mark.parametrize("model", MODELS, ids=IDS)
def test_dask_knows_the_size_of_what_is_moved(table, monkeypatch, model):
    """It moved chunks of X to sums that it took for 56 bytes."""
    from dask.sizeof import sizeof

    X, y, labels, _ = table
    moved = []
    of_block, add = _dask._block_total, _dask._add

    def kept(function):
        def keeping(*args):
            moved.extend([args[0], function(*args)])
            return moved[-1]

        return keeping

    monkeypatch.setattr(_dask, "_block_total", kept(of_block))
    monkeypatch.setattr(_dask, "_add", kept(add))
    with dask.config.set(scheduler="synchronous"):
        model = clone(model).set_params(n_components=200, search_samples=300)
        model.fit(*_chunks(X, _targets(model, y, labels)))
    assert len(moved) == 2 * (3 + 2)
    for each in moved:
        if isinstance(each, _features.FeatureSums) or model.approximation == "nystroem":
            # Beside arrays there are names and settings, some kB of them.
            assert_allclose(sizeof(each), len(pickle.dumps(each)), rtol=0.1, atol=1e4)
        else:
            # The table of an activation, of a size of its own, is not counted.
            weights = [w for f in each[0].maps for w in f.transformer.weights_]
            assert_allclose(sizeof(each), sum(w.nbytes for w in weights), atol=1e4)
    sums = moved[-1]
    arrays = sum(a.nbytes for each in sums.members for a in vars(each).values())
    assert_allclose(sizeof(sums), arrays, rtol=0.01)


def test_targets_may_be_arrays_and_have_columns(table):
    X, y, _, weight = table
    model, lazy = MODELS[0], _chunks(X)[0]
    Y = np.column_stack([y, -y])
    inside = clone(model).fit(X, Y, weight)
    for targets in (Y, da.from_array(Y, chunks=(lazy.chunks[0], 2))):
        outside = clone(model).fit(lazy, targets, weight)
        assert_allclose(outside.coef_, inside.coef_, rtol=1e-6, atol=1e-8)
    found = outside.predict(lazy)
    assert found.chunks == (lazy.chunks[0], (2,))
    assert_allclose(found.compute(), inside.predict(X), rtol=1e-6, atol=1e-8)
    ones = clone(model).fit(lazy, y, 1.0).coef_
    assert_allclose(ones, clone(model).fit(X, y).coef_, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("approximation", ["nystroem", "random_features"])
def test_features_are_those_in_memory(table, approximation):
    X = table[0].astype(np.float32)
    lazy = _chunks(X)[0]
    model = DEQKernelTransformer(
        n_components=20, approximation=approximation, random_state=0, normalize=True
    )
    expected = clone(model).fit_transform(X)
    found = clone(model).fit(lazy).transform(lazy)
    assert isinstance(found, da.Array)
    assert (found.dtype, found.shape) == (np.float32, (N, 20))
    assert_allclose(found.compute(), expected, rtol=1e-4, atol=1e-5)
    # The exact kernel of a model from memory is lazy, too.
    exact = DEQKernelTransformer().fit(X[:50])
    assert_allclose(exact.transform(lazy).compute(), exact.transform(X), rtol=1e-5)
    ridge = DEQKernelRidgeCV(recurrent_variance=0.2).fit(X[:50], table[1][:50])
    assert_allclose(ridge.predict(lazy).compute(), ridge.predict(X), rtol=1e-4)


def test_files_come_in_through_dask(table, tmp_path):
    """As the guide has it: Zarr arrays, and Parquet folders."""
    pytest.importorskip("zarr")
    X, y, _, _ = table
    inside = clone(MODELS[0]).fit(X, y)
    da.from_array(X, chunks=(250, 2)).to_zarr(tmp_path / "X.zarr")
    lazy = da.from_zarr(tmp_path / "X.zarr").rechunk({1: -1})
    _agrees(inside, X, lazy, y)


# dask's use of pandas.
@pytest.mark.filterwarnings("ignore:The inplace keyword")
def test_tables_come_in_through_dask(table, tmp_path):
    pytest.importorskip("pyarrow")
    frames = pytest.importorskip("dask.dataframe")
    pandas = pytest.importorskip("pandas")
    X, y, _, _ = table
    X = np.tile(X, 3)
    columns = list("abcdefghijkl")
    table = pandas.DataFrame(X, columns=columns).assign(target=y)
    frames.from_pandas(table, npartitions=5).to_parquet(tmp_path / "folder")
    frame = frames.read_parquet(tmp_path / "folder")
    lazy = frame[columns].to_dask_array().compute_chunk_sizes()
    targets = frame["target"].to_dask_array().compute_chunk_sizes()
    # Of few columns dask joins some files.
    assert targets.chunks[0] != lazy.chunks[0]
    targets = targets.rechunk({0: lazy.chunks[0]})
    _agrees(clone(MODELS[0]).fit(X, y), X, lazy, targets)


def _agrees(inside, X, lazy, y):
    outside = clone(inside).fit(lazy, y)
    assert_allclose(outside.coef_, inside.coef_, rtol=1e-6, atol=1e-8)
    found, expected = outside.predict(lazy).compute(), inside.predict(X)
    assert_allclose(found, expected, rtol=1e-6, atol=1e-8)


def test_predictions_of_unknown_chunks_and_empty_ones(table):
    X, y, _, _ = table
    model = clone(MODELS[0]).fit(X, y)
    lazy = _chunks(X)[0]
    some = lazy[lazy[:, 0] > 0]
    assert_allclose(model.predict(some).compute(), model.predict(X[X[:, 0] > 0]))
    with pytest.raises(ValueError, match=r"call X\.compute_chunk_sizes\(\) first"):
        model.fit(some, y)
    # A filter may leave nothing of a chunk.
    kept = np.arange(N) >= 250
    rest = lazy[da.from_array(kept, chunks=(lazy.chunks[0],))].compute_chunk_sizes()
    assert rest.chunks[0][0] == 0
    again = clone(model).fit(rest, y[kept])
    expected = clone(model).fit(X[kept], y[kept])
    assert_allclose(again.coef_, expected.coef_, rtol=1e-6, atol=1e-8)
    assert_allclose(again.predict(rest).compute(), expected.predict(X[kept]))


def test_what_does_not_fit_is_explained(table, tmp_path):
    X, y, labels, weight = table
    lazy, lazy_y, lazy_weight = _chunks(X, y, weight)
    model = clone(MODELS[0])

    def refuses(message, *data):
        with pytest.raises(ValueError, match=message):
            clone(model).fit(*data)

    refuses(r"2 chunks of columns.*X\.rechunk\(\{1: -1\}\)", lazy.rechunk({1: 2}), y)
    refuses(r"give y\.rechunk\(\{0: X\.chunks\[0\]\}\)", lazy, lazy_y.rechunk(100))
    two = da.stack([lazy_y, lazy_y], axis=1)
    refuses(r"give y\.rechunk\(\{0: X\.chunks\[0\], 1: -1\}\)", lazy, two)
    refuses(r"y must have the 600 rows of X, got shape \(599,\)", lazy, y[:-1])
    refuses(
        r"sample_weight must have X's chunks", lazy, lazy_y, lazy_weight.rechunk(50)
    )
    refuses("real numbers, got dtype complex128", lazy.astype(complex), y)
    refuses("finite and not negative", lazy, lazy_y, -lazy_weight)
    refuses("y contains NaN", lazy, da.where(lazy_y > 1, np.nan, lazy_y))
    refuses("contains NaN", da.where(lazy > 2, np.nan, lazy), lazy_y)
    refuses("y contains None", lazy, np.where(y > 1, None, labels))
    sparse = lazy.map_blocks(csr_array, dtype=lazy.dtype)
    refuses("X has sparse blocks .csr_array.*toarray", sparse, lazy_y)
    refuses("Expected 2D array", lazy_y[lazy_y > 0], y)
    some = lazy_y[lazy_y > 0]
    refuses(r"y has chunks of unknown size: call y\.compute_chunk_sizes", lazy, some)
    refuses("y has chunks of unknown size", lazy, some[:, None])
    refuses("sample_weight has chunks of unknown size", lazy, lazy_y, some)
    refuses("y must have real numbers, got dtype complex128", lazy, lazy_y * 1j)
    refuses("y must have numbers: could not convert.*'[abc]'.*Classifier", lazy, labels)
    refuses("requires y to be passed", lazy, None)
    model.set_params(checkpoint=tmp_path / "sums.npz")
    refuses("checkpoint is for arrays on one machine", lazy, y)
    fitted = clone(MODELS[0]).fit(X, y)
    with pytest.raises(ValueError, match="X has 3 features, but DEQKernelRidgeCV"):
        fitted.predict(lazy[:, :3])
    with pytest.raises(ValueError, match=r"X\.rechunk\(\{1: -1\}\)"):
        fitted.predict(lazy.rechunk({1: 1}))
    classifier = DEQKernelRidgeClassifierCV(**FAST)
    with pytest.raises(ValueError, match="at least 2 classes"):
        classifier.fit(lazy, np.full(N, labels[0]))
    with pytest.raises(ValueError, match="zero for all samples"):
        classifier.fit(lazy, labels, np.zeros(N))
    for method in ("predict", "predict_proba", "decision_function"):
        with pytest.raises(NotFittedError):
            getattr(clone(classifier), method)(lazy)
    with pytest.raises(NotFittedError):
        clone(model).predict(lazy)
    with pytest.raises(ValueError, match="y has 2 columns"):
        classifier.fit(lazy, two.rechunk({1: 2}))
    mixed = np.where(np.arange(N) % 2, 1, labels.astype(object))
    with pytest.raises(ValueError, match=r"labels of several types \(int, str\)"):
        classifier.fit(lazy, mixed)


def test_a_column_of_labels_is_taken_for_labels(table):
    X, _, labels, _ = table
    lazy, lazy_labels = _chunks(X, labels)
    model = clone(MODELS[2])
    expected = clone(model).fit(lazy, lazy_labels)
    with pytest.warns(DataConversionWarning, match="column-vector y"):
        model.fit(lazy, lazy_labels[:, None])
    assert_array_equal(model.coef_, expected.coef_)


def _not_read(block):
    raise AssertionError("X was read.")


def test_without_features_x_is_not_gathered_if_it_does_not_fit(tmp_path):
    lazy = da.zeros((10**6, 5), chunks=(10**5, 5), dtype=np.float32)
    lazy = lazy.map_blocks(_not_read, dtype=lazy.dtype, meta=np.empty((0, 0), "f4"))
    model = DEQKernelRidgeCV(recurrent_variance=0.2, max_memory=1e9)
    message = (
        r"Gram matrix of shape \(1000000, 1000000\).*X of shape.*n_components=\.\."
    )
    with pytest.raises(MemoryError, match=message):
        model.fit(lazy, np.zeros(10**6))
    mapped = np.memmap(tmp_path / "X", np.int16, "w+", shape=(1000, 5))
    with pytest.raises(MemoryError, match=r"X of shape \(1000, 5\) in float64"):
        model.set_params(max_memory=8e6).fit(mapped, np.zeros(1000))


def _fatal_at_the_second_time(block, folder, block_id=None):
    """The block; but who evaluates the fourth the second time is killed."""
    if block_id[0] != 3:
        return block
    for time in range(9):
        try:
            (Path(folder) / str(time)).touch(exist_ok=False)
        except FileExistsError:
            continue
        break
    if time == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return block


def _dies(block):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def cluster():
    """Two processes of this machine, which dask's client sends its work to."""
    with _cluster(2) as cluster:
        yield cluster


@contextmanager
def _cluster(n_workers, processes=True):
    distributed = pytest.importorskip("distributed")
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 2}),
        distributed.LocalCluster(
            n_workers=n_workers,
            processes=processes,
            protocol="tcp",
            threads_per_worker=1,
            # Any free port: two workers of a test run may have a cluster each.
            dashboard_address=":0",
            host="127.0.0.1",
        ) as cluster,
        distributed.Client(cluster),
        dask.config.set(scheduler="dask.distributed"),
    ):
        yield cluster


@pytest.mark.slow
@pytest.mark.parametrize("model", [MODELS[0], MODELS[2]], ids=["numbers", "classes"])
def test_a_worker_that_is_killed_changes_nothing(table, tmp_path, cluster, model):
    X, y, labels, weight = table
    y = _targets(model, y, labels)
    inside = clone(model).fit(X, y, weight)
    lazy, lazy_y, lazy_weight = _chunks(X, y, weight, rows=(100,) * 6)
    # The first time it gives rows for the search, the second time it is summed, and
    # the third time it is summed again.
    fatal = lazy.map_blocks(
        _fatal_at_the_second_time,
        folder=str(tmp_path),
        dtype=lazy.dtype,
        meta=np.empty((0, 0)),
    )
    outside = clone(model).fit(fatal, lazy_y, lazy_weight)
    assert len(list(tmp_path.iterdir())) == 3
    assert_allclose(outside.coef_, inside.coef_, rtol=1e-8, atol=1e-8)
    assert_allclose(outside.intercept_, inside.intercept_, rtol=1e-8)
    found = outside.predict(lazy).compute()
    if y.dtype.kind == "f":
        assert_allclose(found, inside.predict(X), rtol=1e-8, atol=1e-8)
    else:
        assert_array_equal(found, inside.predict(X))


@pytest.mark.slow
def test_a_block_that_kills_every_worker_is_reported(table, cluster):
    X, y, _, _ = table
    lazy, lazy_y = _chunks(X, y)
    fatal = lazy.map_blocks(_dies, dtype=lazy.dtype, meta=np.empty((0, 0)))
    with pytest.raises(RuntimeError, match=r"A block took down.*X\.rechunk\(\{0"):
        clone(MODELS[0]).fit(fatal, lazy_y)


@pytest.mark.parametrize(
    "some",
    [False, pytest.param(True, marks=pytest.mark.slow)],
    ids=["none comes", "all are lost"],
)
def test_without_workers_a_fit_does_not_wait_for_ever(table, some):
    X, y, _, _ = table
    lazy, lazy_y = _chunks(X, y)
    with _cluster(0, processes=False) as cluster:
        if some:
            # Without a nanny nobody starts another.
            command = [sys.executable, "-m", "distributed.cli.dask_worker"]
            options = ["--no-nanny", "--nthreads", "1", "--no-dashboard"]
            worker = subprocess.Popen([*command, cluster.scheduler_address, *options])
            cluster.wait_for_workers(1)
            lazy = lazy.map_blocks(_dies, dtype=lazy.dtype, meta=np.empty((0, 0)))
        # The scheduler that is running does not see it.
        seconds = 2.0 if some else 0.5
        setting = {"distributed.scheduler.no-workers-timeout": seconds}
        message = rf"had no worker for {seconds:g} seconds.*nannies.*no-workers-timeout"
        with (
            dask.config.set(setting),
            pytest.raises(RuntimeError, match=message),
        ):
            clone(MODELS[0]).fit(lazy, lazy_y)
        if some:
            assert worker.wait() == -signal.SIGKILL


def _rows_by_fit(model, X, y):
    return clone(model).fit(*_chunks(X, y)).coef_


@pytest.mark.slow
@pytest.mark.parametrize("lazy", [False, True])
def test_searches_of_scikit_learn_run_on_the_cluster(table, cluster, caplog, lazy):
    X, y, labels, _ = table
    # Dask arrays are kept by the workers first, as the guide has it.
    data = dask.persist(*_chunks(X, y)) if lazy else (X, labels)
    model = clone(MODELS[0 if lazy else 2])
    grid = {"n_components": [10, 20], "recurrent_variance": [0.1, 0.4]}
    search = GridSearchCV(model, grid, cv=KFold(2), scoring=_score, n_jobs=2)
    with joblib.parallel_config("dask"):
        found = clone(search).fit(*data)
    expected = clone(search).set_params(n_jobs=1).fit(X, y if lazy else labels)
    assert found.best_params_ == expected.best_params_
    name = "mean_test_score"
    assert_allclose(found.cv_results_[name], expected.cv_results_[name], rtol=1e-6)
    assert "run_spec" not in caplog.text


def _score(model, X, y):
    predicted = model.predict(X)
    if y.dtype.kind == "f":
        return -float(((predicted - y) ** 2).mean())
    return float((predicted == y).mean())


@pytest.mark.parametrize(
    ("classes", "weighted", "reads"),
    [(False, False, (2, 2)), (False, True, (2, 2)), (True, True, (2, 3))],
)
def test_how_often_data_are_read(table, classes, weighted, reads):
    """X for the rows of the search, and for the sums; labels once before."""
    X, y, labels, weight = table
    read = {}

    def count(block, name):
        read[name] += 1
        return block

    data = [
        lazy.map_blocks(count, name, dtype=lazy.dtype, meta=np.empty((0,) * lazy.ndim))
        for lazy, name in zip(_chunks(X, labels if classes else y), "Xy", strict=True)
    ]
    read |= {"X": 0, "y": 0}
    model = clone(MODELS[2 if classes else 0])
    model.fit(*data, weight if weighted else None)
    assert tuple(read[name] / 3 for name in "Xy") == reads


def test_a_fit_leaves_tasks_as_they_are():
    """Optimised ones were others by name: schedulers warned, or missed some."""
    X = da.random.default_rng(0).standard_normal((N, 4), chunks=(100, 4))
    y = X[:, 0]
    tasks = {name: {str(task)} for name, task in y.__dask_graph__().items()}

    def keep(graph):
        for name, task in graph.items():
            tasks.setdefault(name, set()).add(str(task))

    with dask.callbacks.Callback(start=keep):
        clone(MODELS[0]).fit(X, y, X[:, 1] ** 2)
    assert len(tasks) > 30
    assert {name: each for name, each in tasks.items() if len(each) > 1} == {}


def test_a_fit_within_a_task_leaves_the_thread_to_its_chunks(table):
    """There is one thread."""
    X, y, _, _ = table
    with _cluster(1, processes=False):
        outside = dask.delayed(_fitted)(MODELS[0], X, y).compute()
    assert_allclose(outside.coef_, _fitted(MODELS[0], X, y).coef_, rtol=1e-6, atol=1e-8)


def _fitted(model, X, y):
    return clone(model).fit(*_chunks(X, y))


@pytest.mark.parametrize("model", [MODELS[0], MODELS[2]], ids=["numbers", "classes"])
def test_progress_is_shown_on_request(table, capfd, model):
    _progress(table, model, capfd)


def test_progress_of_a_cluster_is_shown_on_request(table, capfd):
    with _cluster(1, processes=False):
        _progress(table, MODELS[0], capfd)


def _progress(table, model, capfd):
    X, y, labels, _ = table
    data = _chunks(X, _targets(model, y, labels))
    clone(model).set_params(verbose=1).fit(*data)
    assert "3/3" in capfd.readouterr().err
    clone(model).fit(*data)
    assert "chunks" not in capfd.readouterr().err
