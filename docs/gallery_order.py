"""Order of the gallery: from the first three lines to what a researcher looks up."""

from __future__ import annotations

_ORDER = (
    "quick_start",
    "kernel_ridge",
    "gaussian_process",
    "grid_search",
    "match_onnx",
    "hermite",
    "nystroem",
    "calibration",
    "accuracy_width",
    "spectra",
    "error_against_dimension",
    "kernel_functions",
    "minimal_depth",
    "solvers",
)


class ByReader:
    """Key of an example's file for sphinx-gallery; one not listed is an error."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __call__(self, name: str) -> int:
        return _ORDER.index(name.removeprefix("plot_").removesuffix(".py"))
