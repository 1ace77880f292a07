"""Arrays that are larger than memory: blocks, checkpoints and their errors."""

import pickle
import tracemalloc

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.model_selection import (
    GroupKFold,
    KFold,
    ShuffleSplit,
    cross_val_score,
)
from sklearn.preprocessing import StandardScaler

from sklearn_deq import (
    DEQKernelRidgeClassifierCV,
    DEQKernelRidgeCV,
    DEQKernelTransformer,
)
from sklearn_deq.estimators import _blocks, _checkpoint, _features
from sklearn_deq.estimators._ridge_collection import (
    class_sizes,
    random_rows,
    spread_rows,
)

N = 5000
FAST = {"recurrent_variance": 0.2, "search_samples": 100, "random_state": 0}
APPROXIMATIONS = ["nystroem", "random_features"]


@pytest.fixture(scope="module")
def table():
    """X of float32, numbers, labels of three classes, and weights."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((N, 4)).astype(np.float32) * [1.0, 2.0, 30.0, 1.0]
    X = X.astype(np.float32)
    y = np.sin(X[:, 0]) + X[:, 1] ** 2
    labels = np.array(["a", "b", "c"])[np.digitize(y, [0.5, 3.0])]
    return X, y, labels, rng.uniform(0.0, 2.0, N)


@pytest.fixture
def mapped(table, tmp_path):
    """X in a file, of which no more than blocks may be held."""
    np.save(tmp_path / "X.npy", table[0])
    return np.load(tmp_path / "X.npy", mmap_mode="r")


def _regressor(**params):
    return DEQKernelRidgeCV(**{"n_components": 20} | FAST | params)


@pytest.mark.parametrize("approximation", APPROXIMATIONS)
@pytest.mark.parametrize("weighted", [False, True])
def test_the_fit_is_ridge_on_the_features(table, approximation, weighted):
    X, y, _, weight = table
    weight = weight if weighted else None
    model = _regressor(approximation=approximation, scale="standard", alphas=0.01)
    model.fit(X, y, weight)
    # By hand: the same transformer, scaled columns, and scikit-learn's ridge.
    member = model.members_[0]
    scaling = model.scalings_["standard"]
    Z = (X[:, scaling["columns"]] - scaling["mean"]) / scaling["deviation"]
    Z = member["transformer"].transform(Z.astype(np.float32))
    theirs = Ridge(alpha=0.01).fit(Z.astype(float), y, weight)
    assert_allclose(model.predict(X), theirs.predict(Z), rtol=1e-4, atol=1e-4)
    assert_allclose(model.coef_, theirs.coef_, rtol=1e-5, atol=1e-5)


def test_many_features_are_as_good_as_the_kernel(table):
    X, y, labels, _ = table
    X, y, labels = StandardScaler().fit_transform(X), y[:400], labels[:400]
    for estimator, targets in (
        (DEQKernelRidgeCV, y),
        (DEQKernelRidgeClassifierCV, labels),
    ):
        exact = estimator(recurrent_variance=0.2).fit(X[:400], targets)
        low_rank = estimator(recurrent_variance=0.2, n_components=400, random_state=0)
        low_rank.fit(X[:400], targets)
        assert low_rank.best_params_ == exact.best_params_
        assert_allclose(low_rank._values(X), exact._values(X), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("approximation", "dtype"), [("nystroem", None), ("random_features", "float64")]
)
def test_a_file_is_as_good_as_memory(table, mapped, approximation, dtype):
    X, y, labels, weight = table
    params = {"approximation": approximation, "dtype": dtype, "normalize": True}
    inside, outside = (
        _regressor(**params).fit(data, y, weight) for data in (X, mapped)
    )
    assert_array_equal(outside.predict(mapped), inside.predict(X))
    assert outside.predict(mapped).dtype == (dtype or "float32")
    classifier = DEQKernelRidgeClassifierCV(
        n_components=20, scale="standard", **FAST, approximation=approximation
    )
    inside, outside = (
        clone(classifier).fit(data, labels, weight) for data in (X, mapped)
    )
    assert_array_equal(outside.predict_proba(mapped), inside.predict_proba(X))
    assert inside.score(X, labels) > 0.6
    transformer = DEQKernelTransformer(
        n_components=20, random_state=0, approximation=approximation, dtype=dtype
    )
    assert_array_equal(
        transformer.fit(mapped).transform(mapped), transformer.fit_transform(X)
    )


@pytest.mark.parametrize("model", [_regressor(), DEQKernelTransformer(n_components=20)])
@pytest.mark.parametrize("dtype", ["int16", "float64"])
def test_a_file_is_not_copied(tmp_path, model, dtype):
    """Not to cast, to normalise, to weigh, to predict: blocks of a thirtieth are."""
    X = np.random.default_rng(0).integers(-9, 9, (60_000, 100)).astype(dtype)
    np.save(tmp_path / "X.npy", X)
    size = X[:, :1].size * X.shape[1] * 4
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    y = X[:, 0].astype(float)
    model = clone(model).set_params(dtype="float32", normalize=True)
    model.fit(mapped[:3000], y[:3000])

    def peak():
        tracemalloc.start()
        try:
            model.fit(mapped, y)
            getattr(model, "predict", getattr(model, "transform", None))(mapped)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    # What other threads of the process allocate at the time may count, too.
    # The features of the transformer are a fifth of X.
    assert min(peak(), peak()) < 0.6 * size


def test_blocks_and_the_search_do_not_see_zero_weights(table):
    X, _, labels, _ = table
    weight = (np.arange(N) % 3 > 0).astype(float)
    kept = weight > 0
    model = DEQKernelRidgeClassifierCV(
        n_components=20,
        **FAST | {"search_samples": N},
        class_weight="balanced",
        alphas=0.1,
        cv=2,
    )
    labels = np.where(kept, labels, "never")
    X, labels, weight = X[:900], labels[:900], weight[:900]
    mine = clone(model).fit(X, labels, weight)
    theirs = clone(model).set_params(cv=2).fit(X[weight > 0], labels[weight > 0])
    assert_array_equal(mine.classes_, theirs.classes_)
    assert_allclose(mine.coef_, theirs.coef_, rtol=1e-6, atol=1e-8)


def _stop_after(monkeypatch, blocks):
    """Interrupt the sum of blocks, as Ctrl-C does."""
    calls = iter(range(blocks))
    of = _features.NormalEquations.of

    def limited(*args):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return of(*args)

    monkeypatch.setattr(_features.NormalEquations, "of", limited)
    return of


def _interrupted(monkeypatch, model, blocks, *data):
    with monkeypatch.context() as patch:
        _stop_after(patch, blocks)
        with pytest.raises(KeyboardInterrupt):
            model.fit(*data)


def test_an_interrupted_fit_goes_on(table, tmp_path, monkeypatch):
    X, y, _, weight = table
    monkeypatch.setattr(_checkpoint, "_PAUSE", 0.0)
    path = tmp_path / "sums.npz"
    whole = _regressor(average=True, kernel=["ck", "ntk"]).fit(X, y, weight)
    model = clone(whole).set_params(checkpoint=path)
    n_members = len(whole.members_)
    _interrupted(monkeypatch, model, 2 * n_members, X, y, weight)
    (kept,) = tmp_path.iterdir()
    assert kept.match("sums-????????.npz")
    assert not hasattr(model, "members_")
    with monkeypatch.context() as patch:
        # One block is left of three.
        _stop_after(patch, n_members)
        model.fit(X, y, weight)
    assert_array_equal(model.coef_, whole.coef_)
    assert_array_equal(model.predict(X), whole.predict(X))
    assert not list(tmp_path.iterdir())


def test_sums_of_something_else_are_not_used(table, tmp_path, monkeypatch):
    X, y, labels, weight = table
    model = _regressor(checkpoint=str(tmp_path / "sums"), n_components=5)
    _interrupted(monkeypatch, model, 1, X, y)
    assert len(list(tmp_path.glob("sums-*.npz"))) == 1
    changes = [
        ({}, X[:-1], y[:-1]),
        ({}, X, -y),
        ({}, X, y, weight),
        ({"random_state": 1}, X, y),
        ({"n_components": 6}, X, y),
        ({"activation": "leaky_relu"}, X, y),
    ]
    for params, *data in changes:
        mine = clone(model).set_params(**params).fit(*data)
        theirs = clone(mine).set_params(checkpoint=None).fit(*data)
        assert_array_equal(mine.coef_, theirs.coef_)
    # Rows that are done and not among those of the search: only reading them tells.
    other = X.copy()
    other[:2048] *= 1.5
    sample = np.random.default_rng(0).choice(N, 100, replace=False)
    monkeypatch.setattr(
        "sklearn_deq.estimators._ridge_features.random_rows", lambda *_: np.sort(sample)
    )
    other[sample] = X[sample]
    model.set_params(random_state=2)
    _interrupted(monkeypatch, model, 1, X, y)
    kept = set(tmp_path.iterdir())
    assert len(kept) == 2
    mine = clone(model).fit(other, y)
    assert len(kept & set(tmp_path.iterdir())) == 1
    assert_array_equal(
        mine.coef_, clone(mine).set_params(checkpoint=None).fit(other, y).coef_
    )
    # Weights of classes do not change the sample.
    model = DEQKernelRidgeClassifierCV(
        n_components=5, **FAST, checkpoint=tmp_path / "sums.npz"
    )
    _interrupted(monkeypatch, model, 1, X, labels)
    model.set_params(class_weight={"a": 30.0})
    mine = clone(model).fit(X, labels)
    theirs = clone(model).set_params(checkpoint=None).fit(X, labels)
    assert_array_equal(mine.coef_, theirs.coef_)


def test_folds_have_sums_of_their_own(table, tmp_path, monkeypatch):
    X, y, _, _ = table
    model = _regressor(checkpoint=tmp_path / "sums.npz", n_components=5)
    _interrupted(monkeypatch, model, 1, X[1000:], y[1000:])
    scores = cross_val_score(model, X, y, cv=KFold(5), error_score="raise")
    expected = cross_val_score(model.set_params(checkpoint=None), X, y, cv=KFold(5))
    assert_array_equal(scores, expected)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"gram_0": None}, "gram_0 is missing"),
        ({"digest": None}, "digest is missing"),
        ({"done": np.array(-2048)}, "-2048 of 5000 rows are done"),
        ({"done": np.array(5001)}, "5001 of 5000 rows are done"),
        ({"moment_0": np.ones((4, 1))}, r"moment_0 must be .* shape \(5, 1\)"),
        ({"moment_0": np.ones((5, 1), "f4")}, r"moment_0 must be finite, of float64"),
        ({"gram_0": np.ones((5, 5), int)}, r"gram_0 must be finite, of float64"),
        ({"gram_0": np.full((5, 5), "1.0")}, r"gram_0 must be finite, of float64"),
        ({"weight_0": np.array(np.nan)}, r"weight_0 must be finite, .* shape \(\)"),
        ({"identity": np.array([{}], dtype=object)}, "Object arrays cannot"),
        (None, "is not a file of sums"),
    ],
)
def test_damaged_sums_are_refused(table, tmp_path, monkeypatch, change, reason):
    X, y, _, _ = table
    model = _regressor(checkpoint=tmp_path / "sums.npz", n_components=5)
    _interrupted(monkeypatch, model, 1, X, y)
    (path,) = tmp_path.iterdir()
    if change is None:
        path.write_bytes(path.read_bytes()[:-100])
    else:
        with np.load(path) as file:
            content = dict(file) | change
        np.savez(path, **{k: v for k, v in content.items() if v is not None})
    with pytest.raises(
        ValueError, match=f"is not a file of sums: .*{reason}|{reason}:"
    ):
        model.fit(X, y)


def test_checkpoints_that_are_of_no_use_are_refused(table, tmp_path, monkeypatch):
    X, y, _, _ = table
    path = tmp_path / "sums.npz"
    with pytest.raises(ValueError, match="set n_components, or leave it out"):
        _regressor(checkpoint=path, n_components=None).fit(X, y)
    with pytest.raises(ValueError, match="needs an integer as random_state, got None"):
        _regressor(checkpoint=path, random_state=None).fit(X, y)
    # Before the search.
    monkeypatch.setattr(DEQKernelRidgeCV, "_search", None)
    with pytest.raises(ValueError, match="is in a folder that does not exist"):
        _regressor(checkpoint=tmp_path / "none" / "sums.npz").fit(X, y)
    with pytest.raises(ValueError, match=r"checkpoint='.*' cannot be written: "):
        _regressor(checkpoint=tmp_path / ("s" * 300)).fit(X, y)


def test_sums_that_cannot_be_written_do_not_hide_an_interrupt(
    table, tmp_path, monkeypatch
):
    X, y, _, _ = table
    model = _regressor(checkpoint=tmp_path / "sums.npz", n_components=5)

    def full(*args, **kwargs):
        raise OSError("No space left")

    monkeypatch.setattr(np, "savez", full)
    with monkeypatch.context() as patch:
        _stop_after(patch, 1)
        with pytest.raises(KeyboardInterrupt) as caught:
            model.fit(X, y)
    assert "could not be written: No space left" in caught.value.__notes__[0]
    monkeypatch.setattr(_checkpoint, "_PAUSE", 0.0)
    with pytest.warns(UserWarning, match="could not be written: No space left"):
        model.fit(X, y)


def test_an_error_of_the_data_names_its_rows(table, tmp_path):
    X, y, _, _ = table
    X = X.copy()
    X[3000, 2] = np.nan
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    with pytest.raises(ValueError, match=r"(?s)contains NaN.*rows 2048 to 4096"):
        _regressor(search_samples=20).fit(mapped, y)
    model = _regressor().fit(X[:2000], y[:2000])
    with pytest.raises(ValueError, match=r"(?s)contains NaN.*rows 2048 to 4096"):
        model.predict(mapped)
    with pytest.raises(ValueError, match="X has 3 features, but DEQKernelRidgeCV is"):
        model.predict(mapped[:, :3])
    with pytest.raises(ValueError, match="Expected 2D array"):
        model.fit(mapped[:, 0], y)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        model.fit(mapped, y[:-1])
    with pytest.raises(ValueError, match="X has 1 row, but two"):
        model.fit(mapped[:1], y[:1])
    mapped = np.memmap(tmp_path / "c", np.complex64, "w+", shape=(9, 2))
    with pytest.raises(ValueError, match="real numbers, got dtype complex64"):
        model.fit(mapped, y[:9])


def test_the_budget_counts_sums_and_features(table):
    X, y, _, _ = table
    model = _regressor(n_components=500, max_memory=1e7)
    with pytest.raises(MemoryError, match=r"4 matrices of shape \(500, 500\).*lower n"):
        model.fit(X, y)
    with pytest.raises(MemoryError, match=r"set average=False"):
        DEQKernelRidgeCV(n_components=500, max_memory=1e7).fit(X, y)


def test_splitters_split_the_rows_of_the_search(table):
    X, y, _, _ = table
    groups = np.arange(N) % 7
    model = _regressor(cv=GroupKFold(3)).fit(X, y, groups=groups)
    assert "split2_test_score" in model.cv_results_
    _regressor(cv=ShuffleSplit(2, random_state=0)).fit(X, y)
    with pytest.raises(ValueError, match="cv must be a number or a splitter where"):
        _regressor(cv=list(KFold(3).split(X))).fit(X, y)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        _regressor(cv=GroupKFold(3)).fit(X, y, groups=groups[:-1])


@pytest.mark.parametrize("approximation", APPROXIMATIONS)
def test_copies_come_back_from_files(table, approximation):
    X, _, labels, _ = table
    model = DEQKernelRidgeClassifierCV(
        n_components=20, approximation=approximation, normalize=True, **FAST
    ).fit(X, labels)
    restored = pickle.loads(pickle.dumps(model))
    assert_array_equal(restored.predict_proba(X), model.predict_proba(X))


def test_skops_trusts_features(table):
    io = pytest.importorskip("skops.io")
    X, y, _, _ = table
    model = _regressor(scale="rank").fit(X, y)
    dumped = io.dumps(model)
    unknown = io.get_untrusted_types(data=dumped)
    # Ours alone: nothing of NumPy's that is not an array.
    assert all(name.startswith("sklearn_deq.") for name in unknown)
    assert_array_equal(io.loads(dumped, trusted=unknown).predict(X), model.predict(X))


def test_going_over_to_features_leaves_nothing_behind(table):
    X, y, _, _ = table
    model = DEQKernelRidgeCV(**FAST).fit(X[:200], y[:200])
    model.set_params(n_components=10).fit(X[:200], y[:200])
    assert not hasattr(model, "dual_coef_")
    assert not hasattr(model, "X_fit_")
    model.set_params(n_components=None).fit(X[:200], y[:200])
    assert not hasattr(model, "coef_")


def test_progress_is_shown_on_request(table, capfd):
    X, y, _, _ = table
    _regressor(verbose=1, max_memory=2e9).fit(X, y)
    said = capfd.readouterr().err
    assert "5000/5000" in said
    # 3 blocks of 2,048 rows of 20 features; 3 matrices of 100 rows, and predictions.
    assert "Features of all samples: 1 MB of the budget of 2000 MB." in said
    assert "The search: 0 MB of the budget" in said
    model = DEQKernelRidgeCV(recurrent_variance=0.2, search_samples=20, verbose=1)
    model.fit(X[:400], y[:400])
    said = capfd.readouterr().err
    # 400 x 400 numbers of float32, and of float64 at work.
    assert "The fit to all samples: 2 MB of the budget of" in said
    model.set_params(verbose=0).fit(X[:400], y[:400])
    assert "MB" not in capfd.readouterr().err


def test_random_features_serve_other_dtypes(table):
    """Weights of float32 once met rows of float64."""
    X = table[0]
    model = DEQKernelTransformer(
        n_components=20, approximation="random_features", random_state=0
    ).fit(X)
    assert_allclose(model.transform(X.astype(float)), model.transform(X), atol=1e-5)


def test_blocks_are_those_of_the_constant(table):
    rows = _blocks.Rows(table[0], lambda X: X)
    assert [where.stop for where, _ in rows.blocks()] == [2048, 4096, 5000]


def test_rare_classes_are_searched_and_found(tmp_path):
    """A sample of 2,000 of 40,000 rows, of which 24 are positive, may have none."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40_000, 2)).astype(np.float32)
    rare = rng.choice(len(X), 24, replace=False)
    X[rare] = 0.1 * X[rare] + [6.0, 6.0]
    y = np.zeros(len(X), int)
    y[rare] = 1
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    model = DEQKernelRidgeClassifierCV(n_components=50, **FAST, class_weight="balanced")
    for data in (X, mapped):
        assert_array_equal(clone(model).fit(data, y).predict(data), y)
    # One for each fold, else scikit-learn warns.
    model.set_params(cv=4).fit(X, y)
    model.set_params(cv=None)
    # One of a class cannot be predicted from the others.
    y[rare[1:]] = 0
    with pytest.warns(UserWarning, match=r"Classes of one sample.*\[1\]"):
        model.fit(X, y)


@pytest.mark.parametrize("classes", [False, True])
def test_samples_have_two_of_every_class(classes):
    counts = np.array([5000, 1, 3, 2000, 900])
    for size in (3, 9, 100, 2000, 7904):
        sizes = class_sizes(counts, size)
        assert sizes.sum() == max(size, 9)
        assert (sizes <= counts).all()
        assert (sizes >= np.minimum(counts, 2)).all()
        assert np.abs(sizes - np.maximum(2, counts * size / 7904))[[0, 3, 4]].max() < 10
    codes = np.random.default_rng(0).permutation(np.repeat(np.arange(5), counts))
    chosen = spread_rows(codes, 100, classes=True) if classes else None
    if chosen is None:
        chosen = random_rows(np.append(codes, [-1] * 99).astype(np.int8), 100, 0)
    assert (np.diff(chosen) > 0).all()
    assert_array_equal(np.bincount(codes[chosen]), class_sizes(counts, 100))


def test_rows_of_zero_weight_are_not_in_the_sample(table):
    """400 of 40,000 rows had weight: the search had a few of them, or none."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40_000, 3))
    y = np.sin(X[:, 0])
    kept = rng.permutation(len(X)) < 400
    whole = _regressor().fit(X, y, kept.astype(float))
    dropped = _regressor().fit(X[kept], y[kept])
    assert whole.alpha_ == dropped.alpha_
    assert_allclose(whole.coef_, dropped.coef_, rtol=1e-6, atol=1e-8)
    with pytest.warns(UserWarning, match="401 is more than the 400 different samples"):
        whole.set_params(n_components=401).fit(X, y, kept.astype(float))
    assert whole.coef_.shape == (400,)


def test_sums_of_another_activation_are_not_used(table, tmp_path, monkeypatch):
    """Without recurrence, moments of several activations are the same."""
    X, y, _, _ = table
    monkeypatch.setattr(_checkpoint, "_PAUSE", 0.0)
    path = tmp_path / "sums.npz"
    common = {"n_components": 5, "recurrent_variance": 0.0, "checkpoint": path}
    _interrupted(monkeypatch, _regressor(activation="identity", **common), 1, X, y)
    model = _regressor(activation="sin", **common).fit(X, y)
    assert_array_equal(
        model.coef_, clone(model).set_params(checkpoint=None).fit(X, y).coef_
    )
