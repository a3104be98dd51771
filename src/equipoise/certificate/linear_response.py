"""The derivative of an equilibrium with respect to its data, as an operator with transpose (16)."""

from collections.abc import Callable

import torch
from torch import Tensor

from equipoise.equilibrium.equation import MonotoneEquation
from equipoise.equilibrium.fixed_point import SolverOptions, solve_fixed_point
from equipoise.equilibrium.tf32 import without_tf32
from equipoise.methods.mol import MOL
from equipoise.networks.jacobian import Jacobian
from equipoise.outcome import Solution
from equipoise.physics.linop import LinearOperator
from equipoise.shapes import Data, Image
from equipoise.vectors import per_sample

RTOL = 1e-2
"""Certified accuracy of each response, far below the Monte-Carlo error of a noise map."""


class LinearResponse:
    """``K = lam (lam A^H A + (1 + shift) I - J_H)^-1 A^H`` at an image, in real coordinates.

    This is the response to first order, with lam, the intensity scale and the coil maps of the
    solution. ``accuracy`` is the largest bound on the relative error of a response so far.

    Parameters
    ----------
    model
        The model.
    operator
        A, of one slice.
    solution
        The equilibrium of one slice, as :meth:`MOL.solve` returned it.
    batch
        Number of directions in a call.
    rtol
        Accuracy of a response, by the bound (11) in exact arithmetic, because the rounding of
        products with the Jacobian is not bounded.
    options
        Options that may request tiles; those of the model if not given.
    """

    def __init__(
        self,
        model: MOL,
        operator: LinearOperator,
        solution: Solution,
        *,
        batch: int = 1,
        rtol: float = RTOL,
        options: SolverOptions | None = None,
    ):
        assert solution.scale is not None
        value = solution.value.detach()
        point = value / per_sample(solution.scale, value).to(value.real.dtype)
        self.model, self.operator, self.batch = model, operator, batch
        self.lam = solution.lam.detach().expand(batch)
        self.options = SolverOptions(rtol=rtol, max_iter=model.options.max_iter)
        network = model.network_on(operator.support(), options, solution.network)
        self.jacobian = Jacobian(network, point.expand(batch, *point.shape[1:]))
        self.accuracy = 0.0

    def __call__(self, data: Data) -> Image:
        """``K n``, the change of the image for a change of the data, (batch, ...)."""
        constant = self._weighted(self.operator.adjoint(data.to(torch.complex128)))
        return self._solve(self.jacobian.forward, constant).to(data.dtype)

    def transposed(self, image: Image) -> Data:
        """``K^T v``, the gradient of ``Re <v, x*>`` with respect to the data."""
        p = self._solve(self.jacobian.transposed, image.to(torch.complex128))
        return self.operator.forward(self._weighted(p)).to(image.dtype)

    def _weighted(self, image: Tensor) -> Tensor:
        return per_sample(self.lam, image) * image

    def _solve(self, network: Callable[[Tensor], Tensor], constant: Tensor) -> Tensor:
        equation = MonotoneEquation(
            operator=self.operator,
            lam=self.lam,
            network=network,
            constant=constant,
            m=self.model.m,
            shift=self.model.shift,
            single=self.model.network.dtype == torch.float32,
        )
        start = equation.step(-constant, torch.ones_like(self.lam)).direction
        with without_tf32():
            solution = solve_fixed_point(equation, start, self.options)
        self.accuracy = max(self.accuracy, float(solution.distance_bound.max()))
        return solution.value
