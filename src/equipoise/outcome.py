"""How a solve ended, and how the package fails."""

import warnings
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from equipoise.readable import counted, size, span


class EquipoiseError(Exception):
    """A failure that the user can act on: what was wrong, what was measured, what to do."""


class BadInputError(EquipoiseError, ValueError):
    """The input cannot be reconstructed as it is."""


class ConvergenceWarning(UserWarning):
    """A solve ended before it was as accurate as requested; its image is returned all the same."""


class InputWarning(UserWarning):
    """An input is used although it may not be what it seems to be."""


class Outcome(str, Enum):
    """The named end of an iterative solve."""

    CONVERGED = "converged"
    MAX_ITERATIONS = "max_iterations"
    STAGNATED = "stagnated"
    DIVERGED = "diverged"
    FEED_FORWARD = "feed_forward"

    @property
    def advice(self) -> str:
        """What happened, the likely causes, and what to change."""
        return _ADVICE[self]


_ADVICE = {
    Outcome.CONVERGED: "the requested accuracy was reached",
    Outcome.MAX_ITERATIONS: (
        "the iteration limit was reached first. Likely causes: (a) rtol is tighter than max_iter "
        "allows: raise rtol or max_iter; (b) lam is so large that the inner solve is too loose: "
        "lower lam, or leave it to auto or rule"
    ),
    Outcome.STAGNATED: (
        "the distance bound stopped going down. Likely causes: (a) rtol is below the rounding "
        "floor, which rises with lam: raise rtol, lower lam or leave it to auto or rule; (b) the "
        "network is not monotone at this image: see lipschitz_lower in `equipoise certify`"
    ),
    Outcome.DIVERGED: (
        "the iterates grew without limit. Likely causes: (a) the network is not monotone; "
        "(b) alpha is above 2 / (2 - m): lower alpha; (c) the k-space scale differs from training"
    ),
    Outcome.FEED_FORWARD: (
        "the method has a fixed number of steps and no equilibrium, so nothing bounds its error: "
        "use a MOL model where a bound is needed"
    ),
}


@dataclass
class BackwardRecord:
    """Receives the solution of a backward pass; it holds no graph, so no reference cycle arises."""

    solution: "Solution | None" = None


@dataclass(repr=False)
class Solution:
    """The result of an equilibrium solve, per sample of the batch.

    Attributes
    ----------
    value
        The solution, same shape as the unknown.
    outcome
        How each sample ended.
    iterations
        Fixed-point iterations of each sample.
    network_evaluations
        Evaluations of H (or of its transposed Jacobian in a backward solve) of each sample.
    cg_iterations
        Inner conjugate-gradient iterations, summed over the solve.
    relative_residual
        ``||r(x)|| / ||x||`` where r was last evaluated: at the returned value or, under the step
        rule, at the iterate before it.
    distance_bound
        Upper bound on ``||x - x*|| / ||x||``, true if F is m-strongly monotone. If ``rounding`` is
        None, it holds in exact arithmetic only.
    rounding
        The part of ``distance_bound`` that accounts for rounding (24): in the last evaluation of
        the network, in the residual, and in the returned image. None if it is not bounded.
    lam, m
        The data weight and the monotonicity constant that were used. m is None if the method is
        not monotone; the bound is then infinite.
    history
        Relative residual and distance bound at each iteration, (2, batch) each.
    record
        Receives the solution of the adjoint equation, see :attr:`backward`.
    scale
        The intensity scale; the network sees the image divided by it.
    network
        H as it was used, if it depends on the scan; None if it is that of the model.
    threshold
        The scale of the thresholds that was used; None if the network has none.
    objective, objective_gap
        Of a method that minimises: P(x), and a bound on ``(P(x) - min P) / P(x)`` by a duality gap,
        which holds in exact arithmetic. None of all others.
    first
        The solution of the first pass that H was read off, at the intensity scale 1; None where
        there was none.
    adjoint_image
        Of a first pass, ``A^H b``, if H follows from it too; else None.
    """

    value: Tensor
    outcome: list[Outcome]
    iterations: Tensor
    network_evaluations: Tensor
    cg_iterations: int
    relative_residual: Tensor
    distance_bound: Tensor
    lam: Tensor
    m: float | None
    history: list[Tensor] = field(default_factory=list)
    record: "BackwardRecord" = field(default_factory=lambda: BackwardRecord())
    scale: Tensor | None = None
    rounding: Tensor | None = None
    network: Any = field(default=None, repr=False)
    threshold: Tensor | None = None
    objective: Tensor | None = None
    objective_gap: Tensor | None = None
    first: "Solution | None" = field(default=None, repr=False)
    adjoint_image: Tensor | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        """How the solve ended and which bound holds, in two lines."""
        ends = ", ".join(dict.fromkeys(o.value for o in self.outcome))
        evaluations = counted(int(self.network_evaluations.max()), "network evaluation")
        bound, m = float(self.distance_bound.max()), self.m
        promise = "no bound" if m is None else f"distance bound {bound:.1e}, m {m:.3g}"
        return (
            f"Solution {size(self.value)}: {ends} after {evaluations}\n"
            f"  lam {span(self.lam.detach())}, {promise}"
        )

    @property
    def held(self) -> dict[str, Tensor]:
        """What ``solve`` is given to solve the same equation for other data."""
        known = {"lam": self.lam, "scale": self.scale, "threshold": self.threshold}
        return {name: value.detach() for name, value in known.items() if value is not None}

    @property
    def backward(self) -> "Solution | None":
        """The solution of the adjoint equation, once ``backward()`` of autograd has run."""
        return self.record.solution

    @property
    def converged(self) -> bool:
        """True if every sample converged."""
        return all(outcome is Outcome.CONVERGED for outcome in self.outcome)

    def warn_unless_converged(self, what: str, stacklevel: int = 2) -> None:
        """Give one :class:`ConvergenceWarning` if a sample ended before the requested accuracy.

        Parameters
        ----------
        what
            What was solved, such as ``slice 3``; the message names the first sample that failed.
        stacklevel
            Of :func:`warnings.warn`, seen from the caller.
        """
        # A method with a fixed number of steps cannot miss an accuracy: it never promised one.
        done = (Outcome.CONVERGED, Outcome.FEED_FORWARD)
        bad = [i for i, outcome in enumerate(self.outcome) if outcome not in done]
        if bad:
            outcome, bound = self.outcome[bad[0]], float(self.distance_bound[bad[0]])
            sample = f", sample {bad[0]}," if len(self.outcome) > 1 else ""
            warnings.warn(
                f"{what}{sample} did not converge ({outcome.value}, bound {bound:.1e}): "
                f"{outcome.advice}",
                ConvergenceWarning,
                stacklevel=stacklevel + 1,
            )

    def history_of(self, sample: int) -> Tensor:
        """Relative residual and distance bound of one sample by iteration, (iterations + 1, 2)."""
        return torch.stack(self.history)[: int(self.iterations[sample]) + 1, :, sample]
