"""Linear models: ridge regression and what follows from it, logistic regression."""

from sklearn_deq.linear._calibration import (
    calibrated,
    class_log_probabilities,
    class_probabilities,
    fit_calibration,
    fit_temperature,
)
from sklearn_deq.linear._least_squares import fit_ridge
from sklearn_deq.linear._logistic import LogisticFit, fit_logistic
from sklearn_deq.linear._normal_equations import (
    SUMS,
    NormalEquations,
    solve_normal_equations,
)
from sklearn_deq.linear._nystroem import nystroem_map
from sklearn_deq.linear._ridge import (
    RidgeSpectrum,
    leave_one_out,
    ridge_fit,
    ridge_path,
    ridge_spectrum,
)
from sklearn_deq.linear._scaling import SCALINGS, apply_scaling, fit_scaling
from sklearn_deq.linear._selection import as_good_as, prediction_losses

__all__ = [
    "SCALINGS",
    "SUMS",
    "LogisticFit",
    "NormalEquations",
    "RidgeSpectrum",
    "apply_scaling",
    "as_good_as",
    "calibrated",
    "class_log_probabilities",
    "class_probabilities",
    "fit_calibration",
    "fit_logistic",
    "fit_ridge",
    "fit_scaling",
    "fit_temperature",
    "leave_one_out",
    "nystroem_map",
    "prediction_losses",
    "ridge_fit",
    "ridge_path",
    "ridge_spectrum",
    "solve_normal_equations",
]
