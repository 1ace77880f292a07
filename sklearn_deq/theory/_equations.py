"""The four equations of a match, and the search for networks that solve them.

Docs/theory.md, section 5. The families of networks are in `_families`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from sklearn_deq.theory._equilibrium import EquilibriumMoments, equilibrium_moments
from sklearn_deq.theory._explicit import ExplicitMoments, explicit_moments, propagate
from sklearn_deq.theory._families import ARCHITECTURES, Family, Units
from sklearn_deq.theory._least_squares import least_squares
from sklearn_deq.theory._match_result import MatchResult

# Targets below this share of the largest count as this share of it.
_FLOOR = 1e-6
# Coefficients of χχᵀ and S∘S below this share of the largest are 0: φ is odd.
_ODD = 1e-12
# A residual this small counts as an exact solution.
_EXACT = 1e-12
# Solutions up to so much steeper than the least steep are as good as that; that many
# are looked at, which differ in these digits, at a norm that is so much off tau0.
_TAME, _MOST, _DIGITS, _OFF = 1.1, 12, 4, 1.01
# Coefficients this close, in shares of the kernel, are one.
_TIE = 1e-9
# For a target that is not met: go on while eight steps gain this share.
_POLISH = 1e-3
# Where the search for multipliers starts, unless the target says.
_RATIO = 0.3
_RATIOS = (1e-3, 50.0)

EQUATIONS = {
    "ck": ("alpha1", "alpha2", "alpha3", "tau2"),
    "ntk": ("beta1", "beta2", "beta3", "kappa2"),
    "ntk_recurrent": ("beta1", "beta2", "beta3", "kappa2"),
}


def share_of_kernel(coefficients: np.ndarray, tau0: float) -> np.ndarray:
    """Coefficients (..., 4) in the unit of the kernel.

    Those of S, χχᵀ, S∘S and the diagonal times what these are of: τ0², τ0⁴, τ0⁴ and 1.
    """
    return coefficients * np.array([tau0**2, tau0**4, tau0**4, 1.0])


def floored(shares: np.ndarray) -> np.ndarray:
    """By what errors are divided: the size of a share, if it is not too small."""
    sizes = np.abs(shares)
    return np.maximum(sizes, _FLOOR * sizes.max())


def bend_gap(shares: np.ndarray, ratio: float) -> float:
    """Relative error of both coefficients that makes up for α3 = ratio · α2."""
    sizes = floored(shares)
    gap = ratio * shares[1] - shares[2]
    return float(gap / (ratio * sizes[1] + sizes[2]))


@dataclass(frozen=True)
class Candidate:
    """What may be tried: an architecture, its depth, and whether rates may differ."""

    architecture: str
    depth: int
    multiplied: bool


@dataclass(frozen=True)
class Problem:
    """The equations of one match, and the search for their solution."""

    moments: EquilibriumMoments
    kernel: str
    tol: float
    multipliers: bool
    equal_norms: bool

    @property
    def target(self) -> np.ndarray:
        """The DEQ's four coefficients."""
        return np.array(self.moments.coefficients(self.kernel))

    @property
    def counted(self) -> list[int]:
        """Which of the four are equations."""
        return [0, 2, 3] if self.equal_norms else [0, 1, 2, 3]

    @property
    def bent(self) -> bool:
        """Whether anything but an odd network is called for."""
        target = np.abs(self.shares)
        return bool((target[1:3] > _ODD * target.max()).any())

    @property
    def shares(self) -> np.ndarray:
        """The target in the unit of the kernel, whatever the unit of the data is."""
        return share_of_kernel(self.target, self.moments.tau0)

    def relative(self, achieved: np.ndarray) -> np.ndarray:
        """Errors of coefficients (..., 4), as the residual counts them."""
        target, found = self.shares, share_of_kernel(achieved, self.moments.tau0)
        errors: np.ndarray = (found - target) / floored(target)
        return errors[..., self.counted]

    def candidates(self, names: list[str]) -> list[Candidate]:
        """Shallowest first, with one learning rate before several, simplest first."""
        rates = (False, True) if self.multipliers and self.kernel != "ck" else (False,)
        return [
            Candidate(name, depth, multiplied)
            for depth in (1, 2, 3)
            for multiplied in rates
            for name in names
            if depth in ARCHITECTURES[name].depths
        ]

    def first_converged(self, names: list[str]) -> MatchResult | None:
        """The first candidate that is within tolerance."""
        chosen = self.chosen(names)
        for candidate in self.candidates(names):
            if self.distance(candidate) <= self.tol:
                result = self.solve(candidate, chosen)
                if result.converged:
                    return result
        return None

    def shallowest(self, names: list[str]) -> MatchResult:
        """The first candidate within tolerance, else the one with the best residual."""
        found = self.first_converged(names)
        if found is not None:
            return found
        candidates, chosen = self.candidates(names), "as asked"
        if len(names) > 1:
            chosen = (
                f"best residual of {', '.join(names)}; none is within {self.tol:.0e}"
            )
        # Bounds on the residual say where the best one is not.
        polished: list[MatchResult] = []
        for candidate in sorted(candidates, key=self.distance):
            least = min((result.residual for result in polished), default=np.inf)
            if self.distance(candidate) < least:
                polished.append(self.solve(candidate, chosen, progress=_POLISH))
        best = min(polished, key=lambda result: result.residual)
        if best.converged:
            # It took more steps than the first search has.
            return replace(best, reason=self.chosen(names))
        return replace(best, distance=min(map(self.distance, candidates)))

    def chosen(self, names: list[str]) -> str:
        """Why the first of these that is within tolerance."""
        if len(names) == 1:
            return "as asked"
        reason = f"shallowest architecture whose residual is at most {self.tol:.0e}"
        if self.equal_norms:
            return f"{reason}, norms being equal"
        return (
            f"{reason} in equations for high-dimensional data; made for norms "
            "(norms= of solve_match), architecture='hermite' has the kernel itself"
        )

    def distance(self, candidate: Candidate) -> float:
        """Lower bound of the residual of any network of this kind.

        An error e in every equation lets a share t be anything in t ± e floored(t).
        """
        share = self.shares
        size = floored(share)
        architecture = ARCHITECTURES[candidate.architecture]
        bends = "bend" in architecture.free
        energy = np.array([1.0, 0.0, architecture.layer.least_energy, -1.0])
        gaps = [0.0, energy @ share / (np.abs(energy) @ size)]
        if not bends:
            gaps.extend(np.abs(share[1:3]) / size[1:3])
        elif self.bent and not self.equal_norms:
            # One layer has the coefficients Q/4 and Q/2, for the NTK (2 + 4 λ1/λ2) Q/4.
            ratio = 2.0 if self.kernel == "ck" or candidate.multiplied else 6.0
            gap = bend_gap(share, ratio)
            if candidate.depth == 1:
                gaps.append(gap if candidate.multiplied else abs(gap))
            elif "rise" not in architecture.free and self.kernel == "ck":
                # Without a clip ½ E[(σ²)''] ≥ A, so that α3 ≤ 2 α2.
                gaps.append(-gap)
        return float(max(gaps))

    def solve(
        self, candidate: Candidate, reason: str, progress: float = 0.5
    ) -> MatchResult:
        """A solution of one candidate, else its best approximation."""
        family, ratio = self._family(candidate)
        tau0 = self.moments.tau0

        def errors(x: np.ndarray) -> np.ndarray:
            alpha, tau2, beta, kappa2 = propagate(
                family.moments(x), tau0, family.multipliers(x)
            )
            found = (*alpha[:3], tau2) if self.kernel == "ck" else (*beta, kappa2)
            return self.relative(np.stack(np.broadcast_arrays(*found), axis=-1))

        points, values = least_squares(
            errors, family.starts(ratio), *family.box(), tol=_EXACT, progress=progress
        )
        worst = np.abs(values).max(axis=1)
        if worst.min() <= _EXACT:
            best = self._best(family, points[worst <= _EXACT])
        else:
            best = points[np.argmin(worst)]
        return self._result(candidate, family, best, reason)

    def _best(self, family: Family, points: np.ndarray) -> np.ndarray:
        """Of solutions hardly steeper than the least steep, the closest off tau0.

        What the equations do not see first is how the coefficient of S moves with the
        norm of a sample: solutions that are alike to them differ in it, and so do the
        errors of their kernels where norms vary (docs/theory.md, section 5).
        """
        gain = family.gain(points, self.moments.tau0)
        if self.equal_norms:
            return points[np.argmin(gain)]
        order = np.argsort(gain)
        tame = points[order[gain[order] <= _TAME * gain.min()]]
        _, first = np.unique(tame.round(_DIGITS), axis=0, return_index=True)
        distinct = tame[np.sort(first)[:_MOST]]
        if len(distinct) == 1:
            return distinct[0]
        m, tau0 = self.moments, _OFF * self.moments.tau0
        try:
            beyond = equilibrium_moments(
                m.activation, m.recurrent_variance, m.input_variance, tau0=tau0
            )
        except ValueError:
            # At the edge of stability.
            return distinct[0]
        target = beyond.coefficients(self.kernel)[0]
        found = [self._explicit(family, x, tau0)[1][0] for x in distinct]
        gaps = np.abs(np.array(found) - target) * tau0**2 / np.abs(self.shares).max()
        # The least steep of equals: to homogeneous activations all norms are one.
        return distinct[np.argmax(gaps <= gaps.min() + _TIE)]

    def _explicit(
        self, family: Family, x: np.ndarray, tau0: float
    ) -> tuple[ExplicitMoments, np.ndarray]:
        """The network of a point, centred anew for tau0; its four coefficients."""
        found = explicit_moments(
            [f.activation() for f in family.functions(x, self.moments.tau0)],
            tau0=tau0,
            multipliers=family.rates(x),
        )
        return found, np.array(found.coefficients(self.kernel))

    def _family(self, candidate: Candidate) -> tuple[Family, float]:
        """The unknowns of a candidate, and where to start with multipliers."""
        first, second, third, last = self.target
        ratio = _RATIO if candidate.multiplied else 1.0
        if candidate.depth == 1 and candidate.multiplied and self.bent:
            ratio = float(np.clip(0.25 * third / second - 0.5, *_RATIOS))
        # Training all layers adds to the energy of degree k about k times each.
        extra = 0.0 if self.kernel == "ck" else ratio * candidate.depth
        size = self.moments.tau0**2
        energies = np.array([first, third * size, last / size - first - third * size])
        energies *= size / (1.0 + extra * np.array([1.0, 2.0, 3.0]))
        tilt = math.sqrt(2.0 * second / third) - 1.0 if self.bent else 0.0
        units = Units.of(energies, self.moments.tau0, candidate.depth, tilt)
        architecture = ARCHITECTURES[candidate.architecture]
        family = Family(
            architecture, candidate.depth, self.bent, candidate.multiplied, units
        )
        return family, ratio

    def _result(
        self, candidate: Candidate, family: Family, x: np.ndarray, reason: str
    ) -> MatchResult:
        """Check a solution by the moments of its layers."""
        found, achieved = self._explicit(family, x, self.moments.tau0)
        residual = float(np.abs(self.relative(achieved)).max())
        names = EQUATIONS[self.kernel]
        return MatchResult(
            architecture=candidate.architecture,
            depth=candidate.depth,
            layers=found.layers,
            target={names[k]: float(self.target[k]) for k in self.counted},
            achieved={names[k]: float(achieved[k]) for k in self.counted},
            residual=residual,
            converged=residual <= self.tol,
            reason=reason,
            multipliers=family.rates(x),
        )
