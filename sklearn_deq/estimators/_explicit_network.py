"""What the explicit equivalents share: the match, its certificate, and ONNX files."""

from __future__ import annotations

from numbers import Integral
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from sklearn.base import clone
from sklearn.utils import check_random_state, check_scalar
from sklearn.utils.validation import check_is_fitted, validate_data

from sklearn_deq._compat import StrOptions
from sklearn_deq._warnings import warn
from sklearn_deq.estimators._base import KERNEL_CONSTRAINTS
from sklearn_deq.estimators._match_report import (
    KernelErrors,
    MatchReport,
    wide_kernels,
)
from sklearn_deq.estimators._network import NetworkEstimator
from sklearn_deq.estimators._norms import outside_norms, warn_outside
from sklearn_deq.estimators._onnx import build_network, save
from sklearn_deq.estimators._training import in_blocks
from sklearn_deq.exceptions import MatchWarning
from sklearn_deq.kernels._samples import as_tensor
from sklearn_deq.nn import ExplicitNetwork
from sklearn_deq.theory import (
    ARCHITECTURES,
    EquilibriumMoments,
    MatchResult,
    solve_match,
)
from sklearn_deq.theory._matching import off_size


class ExplicitNetworkEstimator(NetworkEstimator):
    """Network estimator whose body is the explicit equivalent of a DEQ."""

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **NetworkEstimator._parameter_constraints,
        **KERNEL_CONSTRAINTS,
        "architecture": [StrOptions({"auto", "hermite", *ARCHITECTURES})],
    }
    _body_class = ExplicitNetwork

    def _body_settings(
        self, n_features: int, moments: EquilibriumMoments, dtype: np.dtype
    ) -> dict[str, Any]:
        self.match_ = self._match(moments)
        return {
            "n_features": n_features,
            "widths": self.width,
            "layers": self.match_.layers,
            "trainable": "readout" if self.trainable == "readout" else "all",
            "multipliers": self.match_.multipliers,
        }

    def _forget_norms(self, moments: EquilibriumMoments) -> None:
        if self.architecture == "auto" and moments.equations_hold:
            self._norms = self._norms if self.normalize else None

    def _check_input(self, X: Any) -> np.ndarray:
        X = super()._check_input(X)
        warn_outside(
            self.match_,
            X,
            "an architecture that solves equations, such as architecture='leaky_relu'",
        )
        return X

    def _match(self, moments: EquilibriumMoments) -> MatchResult:
        """Match for data of the norms that were measured with the moments."""
        match = solve_match(
            moments,
            kernel=self.kernel,
            architecture=self.architecture,
            norms=self._norms,
            trainable="readout" if self.trainable == "readout" else "all",
        )
        if match.architecture != "hermite":
            self._check_size(moments.tau0)
        return match

    def _check_size(self, tau0: float) -> None:
        """Warn where equations are solved for data of another size."""
        if self._norms is not None and off_size(tau0, *self._norms):
            # Which `solve_match` has warned of.
            return
        if off_size(tau0, self._size, self._size):
            warn(
                f"The four equations are solved for data of size tau0={tau0:.3g}, but "
                f"√(mean |x|²/p) of these rows is {self._size:.3g}: the network's "
                "kernel on them may be far from the DEQ's, whatever the residual. "
                "Scale the rows to tau0, or set tau0=None to match a DEQ for data of "
                "their size, or architecture='hermite', which is made for their norms.",
                MatchWarning,
            )

    def match_report(
        self, X: Any, *, max_samples: int = 2000, random_state: Any = 0
    ) -> MatchReport:
        """Compare the network's kernel with the DEQ's on data.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples, as the estimator would see them.
        max_samples : int, default=2000
            Of more samples a random subset of this size is taken.
        random_state : int, RandomState or None, default=0
            Of the subset.

        Returns
        -------
        MatchReport
            Relative errors of the infinitely wide network's kernel in operator norm,
            Frobenius norm and largest entry; those of this network once it is fitted,
            trained as it is (for an NTK with readouts drawn anew); and every equation's
            residual. It prints well.

        Notes
        -----
        Works before `fit` as well: the matching is then solved for the size of X. After
        `fit` it tells of the DEQ that was fitted, whatever `set_params` has set since.
        """
        check_scalar(max_samples, "max_samples", Integral, min_val=1)
        with self._solver_warnings_as_sklearn():
            model, X = self._matched_on(X)
            if len(X) > max_samples:
                rng = check_random_state(random_state)
                X = X[rng.permutation(len(X))[:max_samples]]
            rows = model._prepare_input(X)
            exact, found = wide_kernels(model, rows)
        finite = None
        if hasattr(self, "match_"):
            finite = KernelErrors.between(model._finite_kernel(X), exact)
        return MatchReport(
            n_samples=len(X),
            kernel=model.kernel,
            match=model.match_,
            infinite=KernelErrors.between(found, exact),
            finite=finite,
            n_outside=len(outside_norms(model.match_, rows)),
            trained=finite is not None and model.trainable != "readout",
        )

    def _matched_on(self, X: Any) -> tuple[ExplicitNetworkEstimator, np.ndarray]:
        """As it was fitted, or a clone matched for X if it is not; and X as floats."""
        unfitted = not hasattr(self, "match_")
        model = clone(self) if unfitted else self._as_fitted()
        X = validate_data(model, X, reset=unfitted, dtype=[np.float64, np.float32])
        if unfitted:
            moments = model._solve_equilibrium(model._prepare_input(X))
            model.match_ = model._match(moments)
        return model, X

    def _finite_kernel(self, X: np.ndarray) -> np.ndarray:
        """Kernel of this network on X, of the kind that was matched."""
        rows = self._as_trained(self._prepare_input(X))
        if self.kernel == "ck" or self.trainable == "readout":
            features = in_blocks(self._body, rows).astype(np.float64)
            return features @ features.T
        x = as_tensor(rows).to(self._body.weights[0].device)
        return self._body.tangent_kernel(x).cpu().numpy()

    def export_onnx(self, path: str | Path, preprocessing: Any = None) -> None:
        """Write the fitted network to an ONNX file, in float32.

        Parameters
        ----------
        path : str or Path
            The file.
        preprocessing : fitted transformer, default=None
            What comes before the network and goes into the graph: a StandardScaler, or
            a Pipeline of transformers that scale and shift each feature by itself.

        Raises
        ------
        ImportError
            Without onnx: ``pip install "sklearn-deq[onnx]"``.
        ValueError
            If the preprocessing is something else, or class labels are neither text
            nor numbers nor truth values.

        Notes
        -----
        The input is "X" of shape (n, n_features). A classifier's output is
        "probabilities" (n, n_classes), in the order of ``classes_``, which the model's
        properties hold as JSON; a regressor's is "predictions" (n, n_targets).

        The preprocessing takes differences from the mean first, which are exact. What
        remains is the rounding of "X" itself to float32. Where that is over 1e-5 of a
        scaled feature (a mean of more than about 200 standard deviations, such as a
        time stamp's), a UserWarning says so, and the file's predictions differ from the
        estimator's: subtract a constant near the mean in float64, both before the
        scaler is fitted and before the file is run.

        A Hermite layer in the file is that of the end of its range of norms
        (``match_.norms``) for samples outside of it, of which no runtime warns.
        """
        try:
            import onnx  # noqa: F401
        except ImportError as error:
            raise ImportError(
                'export_onnx needs onnx: pip install "sklearn-deq[onnx]".'
            ) from error
        check_is_fitted(self)
        if not isinstance(path, (str, PathLike)):
            raise ValueError(f"path must be a str or a Path, got {path!r}.")
        graph, outputs = build_network(
            self.n_features_in_,
            self.match_.layers,
            [weight.detach().cpu().numpy() for weight in self._body.matrices()],
            self._readout(),
            preprocessing=preprocessing,
            normalize=self._made_with["normalize"],
        )
        save(graph, path, self.n_features_in_, **self._write_outputs(graph, outputs))

    def _write_outputs(self, graph: Any, outputs: str) -> dict[str, Any]:
        """Finish an ONNX graph, and give what `_onnx.save` is to be told."""
        raise AttributeError("An explicit estimator defines _write_outputs.")
