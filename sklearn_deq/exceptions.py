"""Warnings of the package: modules below the estimators warn with these."""

__all__ = ["MatchWarning", "SolverWarning"]


class SolverWarning(UserWarning):
    """A fixed-point solve or a table ended before it reached its tolerance."""


class MatchWarning(UserWarning):
    """The matching equations were solved only up to a residual over tolerance."""
