"""The derivative of an equilibrium with respect to its data, as an operator with transpose (16)."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from equipoise.equilibrium.equation import MonotoneEquation
from equipoise.equilibrium.fixed_point import SolverOptions, solve_fixed_point
from equipoise.equilibrium.tf32 import without_tf32
from equipoise.methods.mol import MOL
from equipoise.networks.jacobian import BY_AUTOGRAD, Jacobian, linearised_by_autograd
from equipoise.networks.ridge_planes import planes_at_once
from equipoise.networks.tiles import Cut, cuts
from equipoise.outcome import Solution
from equipoise.physics.linop import LinearOperator
from equipoise.shapes import Data, Image
from equipoise.vectors import per_sample

RTOL = 1e-2
"""Certified accuracy of a response where nothing else is asked for."""

LAST_STEP = SolverOptions(rule="step", rtol=0.02)
"""Ends a response where a step is shorter than 2 % of it. Responses of trained networks converge by
a factor of about 2 a step, so that about 2 % are missing: below the Monte-Carlo error of a noise
map, at a third of the evaluations that a certified 1 % takes."""

FIRST_LOOSER = 2
"""Factor of the last step of the response of a first pass."""

ALL = slice(None)
"""Every position along x."""

CG_RTOL = 0.1
"""Of the inner solves: at an accuracy of per cents more exact ones cost more than they save."""


class LinearResponse:
    """``K = lam (lam A^H A + (1 + shift) I - J_H)^-1 A^H`` at an image, in real coordinates.

    To first order, with lam, the intensity scale, the thresholds and the coil maps held at those of
    the solution. Of a method of two passes K is that of both: the response of the first image to
    the data moves H in the second pass (23), and so does that of a still image.

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
        Where tiles are asked for, those of the model if not given.
    until
        Rule and tolerance of the linear solves instead of ``rtol``, see :data:`LAST_STEP`.

    Attributes
    ----------
    accuracy
        Largest bound (11) of the relative error of a linear solve so far.
    missing
        Largest relative error so far, estimated from the last steps as a geometric series.
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
        until: SolverOptions | None = None,
    ):
        until = SolverOptions(rtol=rtol) if until is None else until
        rules = replace(until, max_iter=model.options.max_iter)
        self.operator = operator
        self.pass_ = _Pass(model, operator, solution, batch, rules, options)
        self._still: Any = getattr(model, "still_image", lambda _: None)(operator)
        self._pull = 0.0 if self._still is None else model.m
        self._first: _Pass | None = None
        first = solution.first
        if first is not None:
            guide: Any = model
            # What its response leaves out is a part of what moves the second image.
            factor = FIRST_LOOSER if rules.rule == "step" else 1
            looser = replace(rules, rtol=factor * rules.rtol)
            self._first = _Pass(guide.guide, operator, first, batch, looser, options)
            self._guide = guide
            # At one image: its graph is large, and a batch would hold it as many times.
            seen = _of_first(guide, operator, solution, options)
            handed = guide.handed(self._first.point[:1], first.adjoint_image)
            self._through = Jacobian(seen, handed)

    @property
    def accuracy(self) -> float:
        """See the class."""
        return max(one.accuracy for one in self._passes)

    @property
    def missing(self) -> float:
        """See the class."""
        return max(one.missing for one in self._passes)

    @property
    def evaluations(self) -> int:
        """Products with Jacobians so far, each counted as an evaluation of one image."""
        through = 0 if self._first is None else self._through.evaluations
        return through + sum(one.jacobian.evaluations for one in self._passes)

    @property
    def _passes(self) -> tuple["_Pass", ...]:
        return (self.pass_,) if self._first is None else (self._first, self.pass_)

    def __call__(self, data: Data) -> Image:
        """``K n``: how the image moves with the data, (batch, ...)."""
        seen = self.operator.adjoint(data)
        constant, moved = self.pass_.weighted(seen), None
        if self._first is not None:
            moved = self._first.forward(self._first.weighted(seen))
            handed = self._guide.handed(moved, seen)
            constant = constant + _each(self._through.forward, handed)
        if self._still is not None:
            constant = constant + self._pull * self._still.of(data)
        # The second image moves nearly as the first one does.
        return self.pass_.forward(constant, moved).to(data.dtype)

    def transposed(self, image: Image) -> Data:
        """``K^T v``, the gradient for the data of ``Re <v, x*>``."""
        p = self.pass_.transposed(image)
        seen = self.pass_.weighted(p)
        if self._first is not None:
            of_image, of_data = self._guide.taken(_each(self._through.transposed, p))
            seen = seen + self._first.weighted(self._first.transposed(of_image))
            if of_data is not None:
                seen = seen + of_data
        found = self.operator.forward(seen)
        if self._still is not None:
            found = found + self._pull * self._still.transposed(p)
        return found.to(image.dtype)


class _Pass:
    """The linearised equation of one pass."""

    def __init__(
        self,
        model: MOL,
        operator: LinearOperator,
        solution: Solution,
        batch: int,
        rules: SolverOptions,
        options: SolverOptions | None,
    ):
        self.model, self.operator, self.rules = model, operator, rules
        self.lam = solution.lam.detach().expand(batch)
        point = in_units_of_the_network(solution)
        self.point = point.expand(batch, *point.shape[1:])
        network = model.network_on(operator.support(), options, solution.network)
        self.jacobian = Jacobian(network, self.point)
        self.accuracy = self.missing = 0.0

    def weighted(self, image: Tensor) -> Tensor:
        """``lam`` times an image."""
        return per_sample(self.lam, image).to(image.real.dtype) * image

    def forward(self, constant: Tensor, near: Tensor | None = None) -> Tensor:
        """``(lam A^H A + (1 + shift) I - J)^-1 c``, from a first iterate near it."""
        return self._solve(self.jacobian.forward, constant, near)

    def transposed(self, constant: Tensor) -> Tensor:
        """The same with ``J^T``."""
        return self._solve(self.jacobian.transposed, constant)

    def _solve(
        self, network: Callable[[Tensor], Tensor], constant: Tensor, near: Tensor | None = None
    ) -> Tensor:
        # J has the precision of the network, and rounding is far below what a response misses.
        single = self.model.network.dtype == torch.float32
        constant = constant.to(torch.complex64 if single else torch.complex128)
        equation = MonotoneEquation(
            operator=self.operator,
            lam=self.lam,
            network=network,
            constant=constant,
            m=self.model.m,
            shift=self.model.shift,
            cg_rtol=CG_RTOL if self.rules.rule == "step" else 0.03,
            single=single,
        )
        start = near
        if start is None:
            start = equation.step(-constant, torch.ones_like(self.lam)).direction
        with without_tf32():
            solution = solve_fixed_point(equation, start, self.rules)
        self.accuracy = max(self.accuracy, float(solution.distance_bound.max()))
        self.missing = max(self.missing, _missing(solution, self.rules))
        return solution.value


def _each(apply: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """A map of one image, of each image."""
    return torch.cat([apply(image[None]) for image in images])


def in_units_of_the_network(solution: Solution) -> Tensor:
    """The image of a solution, divided by its intensity scale."""
    assert solution.scale is not None
    value = solution.value.detach()
    return value / per_sample(solution.scale, value).to(value.real.dtype)


def _of_first(
    model: Any, operator: LinearOperator, solution: Solution, options: SolverOptions | None
) -> Callable[[Tensor], Tensor]:
    """``y -> H(x*; y)``: how the second pass sees what the first one hands on."""
    point, network_of = in_units_of_the_network(solution), model.of_first(solution)
    support = operator.support()

    def seen(handed: Tensor, x: slice = ALL) -> Tensor:
        own = None if support is None else support[..., x]
        part = operator if x == ALL else operator.planes(x)
        network = model.network_on(own, options, network_of(handed, part))
        found: Tensor = network(point[..., x].expand(len(handed), *point.shape[1:-1], -1))
        return found

    planes = getattr(model, "neighbours", None)
    # Where A mixes planes, a function that needs A cannot be cut.
    if planes is None or (model.consistent and operator.planes(ALL) is None):
        return seen
    return _BySlabs(seen, planes)


class _BySlabs:
    """``y -> H(x*; y)`` of a volume, whose products take some planes along x at a time.

    The graph of each slab is made again for every product, because that of a volume is many times
    as large as the volume in a solve.

    Parameters
    ----------
    seen
        The function of a slab and of its place.
    neighbours
        Planes at each side of a slab from which its outermost planes follow.
    """

    cost = BY_AUTOGRAD

    def __init__(self, seen: Callable[..., Tensor], neighbours: int):
        self._seen, self._neighbours = seen, neighbours

    def __call__(self, handed: Tensor) -> Tensor:
        return self._seen(handed)

    def linearised(self, image: Tensor) -> Callable[[Tensor], Image]:
        """The Jacobian at an image as ``d -> J d``."""

        def of_a_slab(slab: Cut, change: Tensor) -> Tensor:
            seen = partial(self._seen, x=slab.outer)
            product = linearised_by_autograd(seen, image[..., slab.outer])
            return product(change[..., slab.outer])[..., slab.inner]

        slabs = self._slabs(image)
        return lambda change: torch.cat([of_a_slab(slab, change) for slab in slabs], -1)

    @torch.enable_grad()
    def transposed(self, image: Tensor, change: Image) -> Tensor:
        """``J^T v``, the sum over slabs, which overlap."""
        total = torch.zeros_like(image)
        for slab in self._slabs(image):
            point = image[..., slab.outer].detach().clone().requires_grad_()
            value = self._seen(point, slab.outer)[..., slab.inner]
            begin = slab.outer.start
            own = change[..., begin + slab.inner.start : begin + slab.inner.stop]
            (product,) = torch.autograd.grad(value, point, own)
            total[..., slab.outer] += product
        return total

    def _slabs(self, image: Tensor) -> list[Cut]:
        some = planes_at_once(image.shape[-3] * image.shape[-2])
        return cuts(image.shape[-1], some, self._neighbours)


def _missing(solution: Solution, rules: SolverOptions) -> float:
    """What is left of a geometric series of which the relative residuals are known."""
    residuals = torch.stack(solution.history)[:, 0]
    if rules.rule == "certified" or len(residuals) < 2:
        return float(solution.distance_bound.max())
    rate = (residuals[-1] / residuals[-2].clamp(min=torch.finfo(torch.float64).tiny)).max()
    ratio = min(float(rate), SLOWEST)
    return rules.rtol * ratio / (1 - ratio)


SLOWEST = 0.9
"""A rate above this is not that of a series that is about to end."""
