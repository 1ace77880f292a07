"""Linear models: ridge regression and what follows from it, logistic regression."""

from sklearn_deq.linear._calibration import class_probabilities, fit_temperature
from sklearn_deq.linear._least_squares import fit_ridge
from sklearn_deq.linear._logistic import LogisticFit, fit_logistic
from sklearn_deq.linear._normal_equations import (
    FeatureRidge,
    NormalEquations,
    feature_ridge,
)
from sklearn_deq.linear._nystroem import nystroem_map
from sklearn_deq.linear._ridge import (
    RidgeSpectrum,
    leave_one_out,
    ridge_fit,
    ridge_path,
    ridge_spectrum,
)

__all__ = [
    "FeatureRidge",
    "LogisticFit",
    "NormalEquations",
    "RidgeSpectrum",
    "class_probabilities",
    "feature_ridge",
    "fit_logistic",
    "fit_ridge",
    "fit_temperature",
    "leave_one_out",
    "nystroem_map",
    "ridge_fit",
    "ridge_path",
    "ridge_spectrum",
]
