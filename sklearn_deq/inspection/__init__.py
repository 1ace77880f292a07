"""Displays of how a network was trained, and how its equilibria are reached."""

from sklearn_deq.inspection._convergence import ConvergenceDisplay
from sklearn_deq.inspection._training import TrainingDisplay

__all__ = ["ConvergenceDisplay", "TrainingDisplay"]
