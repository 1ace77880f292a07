"""Hermite layers on tensors: one look-up and one line for every number.

The cell of a number in the table is a shift of its bits, so that the layer costs a
fraction of the matrix product before it (docs/theory.md, section 5.1).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from sklearn_deq.theory._hermite import HermiteFunction
from sklearn_deq.theory._hermite_mixture import HermiteMixture
from sklearn_deq.theory._hermite_table import N_CELLS, SHIFT, table_rows

# Two numbers in one, so that a look-up fetches both.
_PAIRS = {torch.float32: torch.float64, torch.float64: torch.complex128}
# Numbers that are treated at once where no graph is kept.
_CHUNK = 2**18


class HermiteActivation:
    """σ(x; r) of a `HermiteFunction` on tensors, from its table.

    Parameters
    ----------
    function : HermiteFunction
        What to evaluate.

    Attributes
    ----------
    conditioned : bool
        Whether the norm r of the sample matters.
    """

    def __init__(self, function: HermiteFunction) -> None:
        self.function = function
        self._on_device: dict[tuple[torch.dtype, torch.device], list[torch.Tensor]] = {}

    @property
    def conditioned(self) -> bool:
        """Whether the norm of the sample matters."""
        return self.function.conditioned

    def __call__(
        self, x: torch.Tensor, norms: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Evaluate σ; autograd can follow.

        Parameters
        ----------
        x : tensor of shape (n, m)
            Pre-activations.
        norms : tensor of shape (n, 1), default=None
            Norms of the samples, if they matter.

        Returns
        -------
        tensor of shape (n, m)
            The values.
        """
        rows = self._rows(x, norms)
        if torch.is_grad_enabled() and any(part.requires_grad for part in (x, *rows)):
            return self._evaluate(x, *rows)
        # A few rows at a time stay in the cache.
        step = max(1, _CHUNK // max(1, x[:1].numel()))
        parts = (each.expand(len(x), *each.shape[1:]).split(step) for each in rows)
        blocks = zip(x.split(step), *parts, strict=True)
        return torch.cat([self._evaluate(*block) for block in blocks])

    def derivative(
        self, x: torch.Tensor, norms: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Evaluate dσ/dx without a graph; arguments as of the call."""
        with torch.no_grad():
            size, factor, weights = self._rows(x, norms)
            return self._lines_at(x / size, weights)[1] * (factor / size)

    def _rows(
        self, x: torch.Tensor, norms: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What x is divided by and σ multiplied with, and the weights of the tables.

        Shapes (n, 1), (n, 1) and (n, 1, k), or with 1 in place of n.
        """
        if norms is None:
            norms = x.new_full((1, 1), self.function.high)
        size, factor = (
            torch.as_tensor(part, dtype=x.dtype, device=x.device).reshape(-1, 1)
            for part in self.function.scales(norms)
        )
        # The range of the norms may be narrow: their place in it is not rounded.
        return size, factor, self.function.weights(norms.double()).to(x.dtype)

    def _evaluate(
        self,
        x: torch.Tensor,
        size: torch.Tensor,
        factor: torch.Tensor,
        weights: torch.Tensor,
    ) -> torch.Tensor:
        t = x / size
        intercepts, slopes = self._lines_at(t, weights)
        return torch.addcmul(intercepts, slopes, t).mul_(factor)

    def _lines_at(
        self, t: torch.Tensor, weights: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Intercept and slope at every t."""
        bits = t.detach().float().view(torch.int32)
        cells = torch.bitwise_right_shift(bits, SHIFT).add_(N_CELLS // 2).reshape(-1)
        lines = [
            table.index_select(0, cells).view(t.dtype).view(*t.shape, 2)
            for table in self._tables(t)
        ]
        total = lines[0]
        if len(self.function.series) > 1:
            total = total * weights[..., :1]
            for k, line in enumerate(lines[1:], 1):
                total = torch.addcmul(total, weights[..., k, None], line)
        return total[..., 0], total[..., 1]

    def _tables(self, t: torch.Tensor) -> list[torch.Tensor]:
        """Lines of all cells in the type and on the device of t, remembered.

        One tensor (n_cells,) for each function, whose entries are an intercept and a
        slope as one number of twice the size.
        """
        key = (t.dtype, t.device)
        if key not in self._on_device:
            lines = self.function.lines[table_rows(np.arange(N_CELLS))]
            with torch.inference_mode(False):
                self._on_device[key] = [
                    torch.tensor(each, dtype=t.dtype, device=t.device)
                    .view(_PAIRS[t.dtype])
                    .view(-1)
                    for each in lines.swapaxes(0, 1)
                ]
        return self._on_device[key]

    def __getstate__(self) -> dict[str, Any]:
        """Keep the function alone: the table is made again."""
        return {**self.__dict__, "_on_device": {}}


class HermiteMixtureActivation:
    """The functions of a `HermiteMixture` on tensors whose columns are the units.

    Parameters
    ----------
    mixture : HermiteMixture
        What to evaluate.

    Attributes
    ----------
    conditioned : bool
        Whether the norm r of the sample matters: it does.
    """

    conditioned = True

    def __init__(self, mixture: HermiteMixture) -> None:
        self.mixture = mixture
        self._groups = [HermiteActivation(group) for group in mixture.groups]

    def __call__(
        self, x: torch.Tensor, norms: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Evaluate all units; arguments as those of `HermiteActivation`."""
        parts = [group(x[:, units], norms) for group, units in self._units(x)]
        return torch.cat(parts, dim=1)

    def derivative(
        self, x: torch.Tensor, norms: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Evaluate the derivatives in x without a graph; arguments as of the call."""
        parts = [
            group.derivative(x[:, units], norms) for group, units in self._units(x)
        ]
        return torch.cat(parts, dim=1)

    def _units(self, x: torch.Tensor) -> Iterator[tuple[HermiteActivation, slice]]:
        return zip(self._groups, self.mixture.columns(x.shape[1]), strict=True)

    def __reduce__(self) -> tuple[type, tuple[HermiteMixture]]:
        """Keep the mixture alone: its groups are made again."""
        return HermiteMixtureActivation, (self.mixture,)
