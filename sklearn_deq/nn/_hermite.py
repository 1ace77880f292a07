"""Hermite layers on tensors: a look-up and a polynomial for every number.

The cell of a number in the table is a shift of its bits, so that the layer costs a
fraction of the matrix product before it (docs/theory.md, section 5.1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

from sklearn_deq.theory._hermite import HermiteFunction
from sklearn_deq.theory._hermite_mixture import HermiteMixture


class HermiteActivation:
    """A Hermite layer on tensors whose columns are the units, from its tables.

    Parameters
    ----------
    function : HermiteFunction or HermiteMixture
        What to evaluate.

    Attributes
    ----------
    conditioned : bool
        Whether the norm r of the sample matters.
    """

    def __init__(self, function: HermiteFunction | HermiteMixture) -> None:
        self.function = function
        self._groups = [_Group(each) for each in function.groups]

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
        return self._join(_Group.values, x, norms)

    def derivative(
        self, x: torch.Tensor, norms: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Evaluate dσ/dx without a graph; arguments as of the call."""
        with torch.no_grad():
            return self._join(_Group.slopes, x, norms)

    def _join(
        self,
        evaluate: Callable[..., torch.Tensor],
        x: torch.Tensor,
        norms: torch.Tensor | None,
    ) -> torch.Tensor:
        """Something of all units, group by group."""
        rows = self._rows(x, norms)
        columns = self.function.columns(x.shape[1])
        parts = [
            evaluate(group, x[:, units], *rows)
            for group, units in zip(self._groups, columns, strict=True)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _rows(
        self, x: torch.Tensor, norms: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What x is divided by and σ multiplied with, and the weights of the tables.

        Shapes (n, 1), (n, 1) and (n, k), or with 1 in place of n.
        """
        # The same for all groups, but that some need fewer weights.
        most = max(self.function.groups, key=lambda group: group.table.shape[1])
        if norms is None:
            norms = x.new_full((1, 1), most.high)
        size, factor = (
            torch.as_tensor(part, dtype=x.dtype, device=x.device).reshape(-1, 1)
            for part in most.scales(norms)
        )
        if len(most.series) == 1:
            return size, factor, x.new_ones((1, 1))
        # The range of the norms may be narrow: their place in it is not rounded.
        weights = most.weights(norms.double()).to(x.dtype)
        return size, factor, weights.reshape(-1, weights.shape[-1])

    def __reduce__(self) -> tuple[type, tuple[HermiteFunction | HermiteMixture]]:
        """Keep the function alone: tables are made again."""
        return HermiteActivation, (self.function,)


class _Group:
    """Units that have one function of t = x/r, with its tables on devices."""

    def __init__(self, function: HermiteFunction) -> None:
        self.function = function
        self._on_device: dict[
            tuple[torch.dtype, torch.device], tuple[torch.Tensor, torch.Tensor]
        ] = {}

    def values(
        self,
        x: torch.Tensor,
        size: torch.Tensor,
        factor: torch.Tensor,
        weights: torch.Tensor,
    ) -> torch.Tensor:
        """σ(x; r): arguments as `HermiteActivation._rows` gives them."""
        t = x / size
        falling = self._coefficients(t, weights)
        value = torch.addcmul(*next(falling), t)
        for lower, higher in falling:
            value = torch.addcmul(lower, torch.addcmul(higher, value, t), t)
        return value * factor if self.function.homogeneous else value

    def slopes(
        self,
        x: torch.Tensor,
        size: torch.Tensor,
        factor: torch.Tensor,
        weights: torch.Tensor,
    ) -> torch.Tensor:
        """Its derivative in x."""
        t = x / size
        falling = [c for pair in self._coefficients(t, weights) for c in reversed(pair)]
        value = torch.zeros_like(t)
        for k, coefficient in zip(
            range(len(falling) - 1, 0, -1), falling, strict=False
        ):
            value = torch.addcmul(k * coefficient, value, t)
        return value * (factor / size)

    def _coefficients(
        self, t: torch.Tensor, weights: torch.Tensor
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Coefficients of t^2k and t^(2k+1) at every t, the highest k first."""
        cells = self.function.cells
        tables, rows = self._on(t)
        bits = t.detach().float().view(torch.int32)
        place = torch.bitwise_right_shift(bits, cells.shift).add_(cells.n_numbers // 2)
        place = place.view(-1)
        several = len(self.function.series) > 1
        if several:
            # A table for every sample: a small product, as cells are few.
            place = rows.index_select(0, place)
            weights = weights[:, : tables.shape[1]]
            if len(weights) > 1:
                n, size = t.shape[0], tables.shape[-1] // 2
                starts = torch.arange(0, n * size, size, dtype=torch.int32)
                place.view(n, -1).add_(starts.to(t.device)[:, None])
        for table in reversed(tables.unbind(0)):
            if several:
                table = weights @ table
            # As one complex number, so that a look-up fetches both.
            pairs = torch.view_as_complex(table.view(-1, 2)).index_select(0, place)
            both = torch.view_as_real(pairs).view(*t.shape, 2)
            yield both[..., 0], both[..., 1]

    def _on(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tables in the type and on the device of t, remembered.

        For each pair of powers of t the table of the one function, with a pair for the
        cells of all float32, flat; or those of k functions, (k, 2 n_rows), and the rows
        of the cells.
        """
        key = (t.dtype, t.device)
        if key not in self._on_device:
            cells = self.function.cells
            rows = cells.rows(np.arange(cells.n_numbers)).astype(np.int32)
            # From (row, function, power) to (pair of powers, function, row and which).
            tables = np.stack(np.split(self.function.table, (cells.degree + 1) // 2, 2))
            if len(self.function.series) == 1:
                tables = tables[:, rows, 0].reshape(len(tables), -1)
            else:
                tables = tables.swapaxes(1, 2).reshape(*tables.shape[:3:2], -1)
            with torch.inference_mode(False):
                self._on_device[key] = (
                    torch.tensor(tables, dtype=t.dtype, device=t.device),
                    torch.tensor(rows, device=t.device),
                )
        return self._on_device[key]
