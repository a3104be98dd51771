"""The arguments of ``solve`` as batches of tensors; wrong types are refused by name."""

from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor

from equipoise.arguments import Array, Given, Number, as_batch, as_numbers
from equipoise.outcome import BadInputError, Solution
from equipoise.physics.linop import LinearOperator


class SolveArguments(NamedTuple):
    """The arguments of a solve, with the batch axis; ``single`` if the user left it out."""

    data: Tensor
    noise_level: Tensor | None
    lam: Tensor | None
    scale: Tensor | None
    start: Tensor | None
    single: bool
    threshold: Tensor | None = None

    def returned(self, solution: Solution) -> Solution:
        """The solution for the user, without the batch axis if the data had none."""
        value = Given(solution.value, self.single).like(solution.value)
        return replace(solution, value=value) if self.single else solution


def solve_arguments(
    operator: LinearOperator,
    data: Array,
    noise_level: Number | None = None,
    lam: Number | None = None,
    scale: Number | None = None,
    start: Array | None = None,
    threshold: Number | None = None,
) -> SolveArguments:
    """Check and convert the arguments of :meth:`~equipoise.methods.method.Method.solve`.

    Raises
    ------
    BadInputError
        If an argument has the wrong type or shape, or is negative or not finite.
    """
    if not isinstance(operator, LinearOperator):
        raise BadInputError(
            f"the operator is a {type(operator).__name__}: it must be a LinearOperator, such as "
            "SenseOp(csm, mask) or FunctionOp(forward, adjoint, image_shape)"
        )
    given = operator.given_data(data)
    batch, device = len(given.value), given.value.device

    def number(value: Number | None, name: str) -> Tensor | None:
        return None if value is None else as_numbers(value, batch, name).to(device)

    image = None
    if start is not None:
        shape = (batch, *operator.image_shape[1:])
        image = as_batch(start, shape, "the start image").value.to(device)
    return SolveArguments(
        given.value,
        number(noise_level, "noise_level"),
        number(lam, "lam"),
        number(scale, "scale"),
        image,
        given.single,
        number(threshold, "threshold"),
    )


def in_order(first: Any, second: Any) -> tuple[LinearOperator, Array]:
    """Operator and data, given in either order.

    Raises
    ------
    BadInputError
        If not exactly one of them is an operator.
    """
    operators = [isinstance(one, LinearOperator) for one in (first, second)]
    if sum(operators) != 1:
        names = " and ".join(type(one).__name__ for one in (first, second))
        raise BadInputError(
            f"model(...) was given {names}: give one LinearOperator and one array of data, in "
            "either order"
        )
    return (first, second) if operators[0] else (second, first)
