"""Displays: trainings, equilibria, and how a DEQ and its equivalent compare."""

from sklearn_deq.inspection._accuracy import AccuracyWidthDisplay
from sklearn_deq.inspection._convergence import ConvergenceDisplay
from sklearn_deq.inspection._match import KernelMatchDisplay
from sklearn_deq.inspection._spectrum import SpectrumDisplay
from sklearn_deq.inspection._training import TrainingDisplay

__all__ = [
    "AccuracyWidthDisplay",
    "ConvergenceDisplay",
    "KernelMatchDisplay",
    "SpectrumDisplay",
    "TrainingDisplay",
]
