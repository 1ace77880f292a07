"""How well an explicit network's kernel agrees with a DEQ's on given data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import eigvalsh

from sklearn_deq.kernels import deq_kernel, explicit_kernel
from sklearn_deq.theory import MatchResult


@dataclass(frozen=True)
class KernelErrors:
    """Relative differences of two kernel matrices.

    Attributes
    ----------
    operator, frobenius, largest : float
        In operator norm, in Frobenius norm, and of the largest entries.
    """

    operator: float
    frobenius: float
    largest: float

    @classmethod
    def between(cls, found: np.ndarray, expected: np.ndarray) -> KernelErrors:
        """Compare a kernel matrix with the one that it should be.

        Parameters
        ----------
        found, expected : ndarray of shape (n, n)
            Symmetric matrices.

        Returns
        -------
        KernelErrors
            The differences, relative to what is expected.
        """
        difference = found - expected
        return cls(
            operator=_operator_norm(difference) / _operator_norm(expected),
            frobenius=float(np.linalg.norm(difference) / np.linalg.norm(expected)),
            largest=float(np.abs(difference).max() / np.abs(expected).max()),
        )

    def __str__(self) -> str:
        """Return the three on one line."""
        return (
            f"operator norm {self.operator:.2e}, Frobenius {self.frobenius:.2e}, "
            f"largest entry {self.largest:.2e}"
        )


def wide_kernels(explicit: Any, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The DEQ's kernel on rows, and a matched network's of infinite width."""
    # Projected once more: rounding of the rows leaves norms that are nearly one.
    settings = {
        "kernel": explicit.kernel,
        "normalize": explicit.normalize,
        "dtype": "float64",
    }
    exact = deq_kernel(
        rows,
        activation=explicit.activation,
        recurrent_variance=explicit.recurrent_variance,
        input_variance=explicit.input_variance,
        bias_variance=explicit.bias_variance,
        tau0=explicit.tau0_,
        center=explicit.center,
        **settings,
    )
    match = explicit.match_
    found = explicit_kernel(
        rows, layers=match.layers, multipliers=match.multipliers, **settings
    )
    return exact, found


def _operator_norm(K: np.ndarray) -> float:
    values = eigvalsh(K, check_finite=False)
    return float(max(abs(values[0]), abs(values[-1])))


@dataclass(frozen=True)
class MatchReport:
    """Certificate of `ExplicitEquivalentClassifier.match_report`.

    Attributes
    ----------
    n_samples : int
        Samples on which the kernels are compared.
    kernel : str
        Which kernel.
    match : MatchResult
        The layers, with every equation's residual.
    infinite : KernelErrors
        Of the infinitely wide network's kernel against the DEQ's.
    finite : KernelErrors or None
        Of the fitted network as it is: of its features, or of its tangents with
        readouts drawn anew for an NTK. None where it is not fitted.
    n_outside : int
        How many of the samples have norms that the layers were not made for.
    trained : bool
        Whether this network's hidden layers have been trained, so that it is not as it
        was drawn, of which alone the DEQ's kernel tells.
    """

    n_samples: int
    kernel: str
    match: MatchResult
    infinite: KernelErrors
    finite: KernelErrors | None
    n_outside: int = 0
    trained: bool = False

    def __str__(self) -> str:
        """Report all that is known."""
        samples = f"{self.n_samples} sample{'s' if self.n_samples > 1 else ''}"
        lines = [
            str(self.match),
            f"  relative errors of the {self.kernel} on {samples}:",
            f"    infinite width   {self.infinite}",
        ]
        if self.finite is not None:
            lines.append(f"    this network     {self.finite}")
        if self.trained:
            lines.append(
                "    (features after training, against the kernel at initialisation)"
            )
        if self.n_outside and self.match.norms is not None:
            low, high = self.match.norms
            have = "has a norm" if self.n_outside == 1 else "have norms"
            lines.append(
                f"  {self.n_outside} of the samples {have} outside of those from "
                f"{low:.3g} to {high:.3g}, for which the layer was made"
            )
        return "\n".join(lines)
