"""The promises about one image, in words and numbers, and the evidence for each of them."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from equipoise.equilibrium.bounds import delivered_slack

Evidence = Literal["proved", "measured", "vacuous", "not available"]


@dataclass(frozen=True)
class Statement:
    """One promise about one image.

    Attributes
    ----------
    value
        The number; None if nothing can be promised.
    formula
        How the number is computed, with the number of the statement in the documentation.
    evidence
        ``proved``: it holds for all inputs; every hypothesis was proved for the weights and for A
        when the certificate was made. ``measured``: it holds if the monotonicity measured at this
        image holds wherever the proof needs it, if A is what its user says, or if the noise level
        is the estimated one. ``vacuous``: it is true but above 100 % of the image, so it promises
        nothing. ``not available``: nothing is promised.
    meaning
        The promise in words.
    slack
        The number that turns a statement about two exact equilibria into one about two delivered
        images: the sum of their distance bounds over the norm of this image (24). None if there is
        nothing to add, or if the other image has no known tolerance.
    """

    value: float | None
    formula: str
    evidence: Evidence
    meaning: str
    slack: float | None = None


@dataclass(frozen=True)
class Constants:
    """What is known about the method at one image; None if it does not apply or was not measured.

    Attributes
    ----------
    m, m_proved
        The claimed monotonicity constant of F, and whether it is proved.
    m_local
        The smallest constant measured at this image and on the way to it.
    lam
        Data weight.
    contraction, contraction_proved
        Factor of the exact iterated map at alpha = 1 (6), and whether the constants that it needs
        are proved; None if they are not claimed, not known, or refuted.
    diverged
        Whether the iteration ended without an image.
    amplification, first_held
        The most that ``||dx*|| / ||db||`` can be, and the same with the first image held fixed. If
        the first is not given it is (8) with m, and unknown of a frozen F.
    frozen
        Whether F was read off the data by a first pass, so that a change of the data moves F (23).
    norm
        a with ``||A x|| <= a ||x||``; None if nothing is known about it.
    operator_proved
        Whether a and the adjoint follow from the arrays of A.
    rounding_bounded
        Whether the distance bound includes rounding.
    predicted
        Whether lam and the scale of the thresholds were chosen for these data by prediction.
    rtol
        Relative distance to the equilibrium within which every image of this method is delivered;
        None if the iteration stops by another rule.
    """

    m: float | None
    m_proved: bool
    m_local: float | None
    lam: float
    contraction: float | None = None
    contraction_proved: bool = False
    diverged: bool = False
    amplification: float | None = None
    first_held: float | None = None
    frozen: bool = False
    norm: float | None = 1.0
    operator_proved: bool = True
    rounding_bounded: bool = True
    predicted: bool = False
    rtol: float | None = None

    @property
    def evidence(self) -> Evidence:
        """The evidence of the statements that need m."""
        if self.m is None or self.diverged:
            return "not available"
        # A measurement below the claim refutes it, and one counterexample is enough.
        if self.m_local is not None and self.m_local < self.m:
            return "not available"
        if self.m_proved:
            return "proved" if self.operator_proved else "measured"
        return "not available" if self.m_local is None else "measured"

    @property
    def reason(self) -> str:
        """The reason, if nothing is promised."""
        if self.m is None:
            return "The method has no equilibrium, so nothing bounds its error."
        if self.diverged:
            return "The iteration diverged, so nothing can be promised about the image."
        local = "was not measured" if self.m_local is None else f"is {self.m_local:.4g}"
        return (
            f"m = {self.m:.3g} is claimed and m_local at this image {local}: "
            "nothing can be promised here."
        )

    @property
    def unbounded(self) -> str:
        """The reason, if what is promised of an equilibrium is no number."""
        if not self.frozen or self.first_held is None:
            return self.reason
        return (
            "Nothing bounds how the image that F was read off moves with the data, because a "
            "network refined it. With that image held fixed no change d moves the equilibrium by "
            f"more than {self.first_held:.3g} ||d||, which promises nothing of an attack."
        )

    def slack(self, distance: float) -> float | None:
        """``(e + e') / ||x||`` for this image and another one of the same tolerance."""
        if self.frozen or self.rtol is None:
            return None
        return delivered_slack(distance, self.rtol)


HELD = "with lam, the intensity scale and A, coil maps included, held at those of this scan"
"""(8) compares two equilibria of one equation; a pipeline that estimates lam from the data has two
equations."""

PREDICTED = (
    " lam was chosen from these data, by prediction (25): this is a statement about that lam and "
    "those thresholds held fixed, and other data may lead to another choice."
)
"""Added to every statement about a change of the data if the weights were chosen by prediction."""

NO_NORM = (
    "The statement needs ||A||, and nothing is known about it: give the norm of your operator, "
    "norm=... of FunctionOp, or implement norm_bound()."
)


def statements(
    constants: Constants, distance: float, noise_to_image: float
) -> dict[str, Statement]:
    """All bounds for one image.

    Parameters
    ----------
    constants
        What is known about the method and about A.
    distance
        The bound on ``||x - x*|| / ||x||`` that the solver reached with the claimed m.
    noise_to_image
        ``||n|| / ||x||``: the expected norm of the noise in the measured samples, white and equal
        in all coils, over that of the image.
    """
    # Without m the numbers below are not used; infinity keeps the divisions defined.
    m, lam = constants.m or math.inf, constants.lam
    amplification = constants.amplification
    if amplification is None:
        amplification = math.inf if constants.frozen else 0.5 * (lam / m) ** 0.5
    slack = constants.slack(distance)
    found = {
        "distance_bound": _distance(constants, distance),
        "perturbation_bound": _perturbation(constants, amplification, slack),
        "noise_bound": _promise(
            constants,
            amplification * noise_to_image,
            "perturbation_bound times ||n|| / ||x||",
            "Noise of the estimated level, white and equal in all coils, moves the exact "
            f"equilibrium by at most {{:.3g}} of the norm of the image whatever its direction, "
            f"{HELD}. {_more(slack)}",
            basis="measured",
            slack=slack,
            relative=True,
        ),
        "paper_bound": _paper_bound(constants, slack),
        "contraction": _contraction(constants),
    }
    for name in ABOUT_ONE_F if constants.predicted else ():
        if found[name].value is not None:
            found[name] = replace(found[name], meaning=found[name].meaning + PREDICTED)
    if constants.frozen:
        formula = found["paper_bound"].formula
        found["paper_bound"] = Statement(None, formula, "not available", FROZEN)
    return found


ABOUT_ONE_F = ("perturbation_bound", "noise_bound", "paper_bound")
"""Statements about a change of the data at one lam and F."""

FROZEN = (
    "F was read off these data, by a first pass or from the still image of a series, and other "
    "data give another F: the bound of the paper is about one F."
)


def _perturbation(constants: Constants, amplification: float, slack: float | None) -> Statement:
    """(8), or both numbers of (23)."""
    moved = (
        "No change d of the data, noise or attack, moves the exact equilibrium by more than "
        f"{{:.3g}} ||d||, {HELD}."
    )
    if not constants.frozen:
        text = f"{moved} {_delivered(constants, amplification, slack)}"
        return _promise(constants, amplification, "1/2 sqrt(lam / m) (8)", text, slack=slack)
    held = "unknown" if constants.first_held is None else f"{constants.first_held:.3g} ||d||"
    return _promise(
        constants,
        amplification,
        "1/2 sqrt(lam / m) + l / (2 m) sqrt(lam_1 / m_1) (23)",
        f"{moved} With the image that F was read off held fixed it would be {held}, which promises "
        "nothing of an attack: that moves F too. Between two delivered images, add what the "
        "distance bounds of all passes allow.",
    )


def _more(slack: float | None) -> str:
    """What delivered images add to a statement on equilibria."""
    if slack is None:
        return "Delivered images differ by their distance bounds more."
    return f"Delivered images differ by up to {slack:.2e} of the norm of the image more."


def _promise(
    constants: Constants,
    value: float | None,
    formula: str,
    meaning: str,
    *,
    basis: Evidence | None = None,
    slack: float | None = None,
    relative: bool = False,
) -> Statement:
    """A statement; it is vacuous if a bound ``relative`` to the image is above 1."""
    evidence = constants.evidence
    if evidence == "not available" or value is None:
        return Statement(None, formula, "not available", constants.reason)
    # An infinite bound is no promise, and JSON has no number for it.
    if not math.isfinite(value):
        return Statement(None, formula, "not available", constants.unbounded)
    # The zero image would satisfy such a bound, so it says nothing about this one.
    if relative and value > 1:
        text = f"The bound is {value:.0%} of the norm of the image: vacuous, it promises nothing."
        return Statement(None, formula, "vacuous", text)
    return Statement(value, formula, basis or evidence, meaning.format(value), slack)


def _distance(constants: Constants, distance: float) -> Statement:
    formula = "min of (||r|| + rho) / m (7) and sqrt(<r, M^-1 r> / m) + rho / m (7b), over ||x||"
    meaning = "The image is at most {:.2e} of its norm away from the exact equilibrium"
    if constants.rounding_bounded:
        return _promise(
            constants,
            distance,
            formula,
            meaning + ", including the rounding rho of all computations.",
            relative=True,
        )
    return _promise(
        constants,
        distance,
        formula,
        meaning + ", in exact arithmetic; the rounding of the network is not bounded.",
        basis="measured",
        relative=True,
    )


def _delivered(constants: Constants, amplification: float, slack: float | None) -> str:
    """What the statement about two equilibria implies for two delivered images, in words."""
    if slack is None or constants.rtol is None:
        return "Between two delivered images, add the distance bounds of both."
    factor = amplification / (1 - constants.rtol)
    return (
        f"This image and another one delivered with rtol = {constants.rtol:.1e} differ by at most "
        f"{factor:.4g} ||d|| + {slack:.2e} ||x||."
    )


def _paper_bound(constants: Constants, slack: float | None) -> Statement:
    formula = "lam ||A|| / m"
    # The missing norm is the reason only where everything else is known.
    if constants.norm is None and constants.evidence != "not available":
        return Statement(None, formula, "not available", NO_NORM)
    return _promise(
        constants,
        constants.lam * (constants.norm or 0.0) / (constants.m or math.inf),
        formula,
        "The bound of the MOL paper on the movement of the exact equilibrium: {:.3g} ||d||, "
        f"{HELD}. {_more(slack)}",
        slack=slack,
    )


def _contraction(constants: Constants) -> Statement:
    formula = "(1 - m) / (1 + shift), or 1 - 2 m / (2 + lam ||A||^2 + 2 shift) for a gradient step"
    found = _promise(
        constants,
        constants.contraction,
        f"{formula} (6)",
        "Every exact step at alpha = 1 multiplies the distance to the equilibrium by at most "
        "{:.3g}.",
        basis=None if constants.contraction_proved else "measured",
    )
    # Otherwise m holds and only the contraction is missing, so the reason must be about that.
    if constants.evidence == "not available" or constants.contraction is not None:
        return found
    lipschitz = (
        "The Lipschitz constant that a contraction needs is not claimed, or was measured to be "
        "larger at this image."
    )
    return replace(found, meaning=NO_NORM if constants.norm is None else lipschitz)
