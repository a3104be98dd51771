"""What is promised of one image, in words and numbers, and what each promise rests on."""

import math
from dataclasses import dataclass, replace
from typing import Literal

Evidence = Literal["proved", "measured", "not available"]


@dataclass(frozen=True)
class Statement:
    """One promise about one image.

    Attributes
    ----------
    value
        The number; None where nothing can be promised.
    formula
        How it is computed, with the number of the statement in the documentation.
    evidence
        ``proved``: holds for all inputs. ``measured``: holds if the monotonicity that was measured
        at this image holds wherever the proof needs it. ``not available``: nothing is promised.
    meaning
        The promise in words.
    """

    value: float | None
    formula: str
    evidence: Evidence
    meaning: str


@dataclass(frozen=True)
class Constants:
    """What is known of the method at one image; None where it does not apply or was not measured.

    Attributes
    ----------
    m, m_proved
        The monotonicity constant of F that is claimed, and whether a proof stands behind it.
    m_local
        The smallest constant measured at this image and on the way to it.
    lam
        Data weight.
    contraction
        Factor of the exact map that is iterated, at alpha = 1 (6); None where the Lipschitz
        constant that it needs is not claimed, or was measured to be larger.
    diverged
        Whether the iteration ended without an image.
    single
        Whether the network runs in single precision.
    frozen
        Whether F was read off the data by a first pass, so that (8) does not cover their change.
    """

    m: float | None
    m_proved: bool
    m_local: float | None
    lam: float
    contraction: float | None = None
    diverged: bool = False
    single: bool = True
    frozen: bool = False

    @property
    def evidence(self) -> Evidence:
        """What the statements that need m rest on."""
        if self.m is None or self.diverged:
            return "not available"
        if self.m_local is not None and self.m_local < self.m:
            return "not available"
        if self.m_proved:
            return "proved"
        return "not available" if self.m_local is None else "measured"

    @property
    def reason(self) -> str:
        """Why nothing is promised, where nothing is."""
        if self.m is None:
            return "The method has no equilibrium, so nothing bounds its error."
        if self.diverged:
            return "The iteration diverged, so nothing can be promised of the image."
        local = "was not measured" if self.m_local is None else f"is {self.m_local:.4g}"
        return (
            f"m = {self.m:.3g} is claimed and m_local at this image {local}: "
            "nothing can be promised here."
        )

    @property
    def floor(self) -> float:
        """The relative distance below which a single-precision network says nothing."""
        return ROUNDING / self.m if self.single and self.m else 0.0


HELD = "with lam, the intensity scale and A, coil maps included, held at those of this scan"
"""(8) compares two equilibria of one equation; a pipeline that reads lam off the data has two."""


def statements(
    constants: Constants, distance: float, noise_to_image: float
) -> dict[str, Statement]:
    """All bounds for one image.

    Parameters
    ----------
    constants
        What is known of the method.
    distance
        The bound on ``||x - x*|| / ||x||`` that the solver reached with the claimed m.
    noise_to_image
        ``||n|| / ||x||``: the expected norm of the noise in the measured samples, white and equal
        in all coils, over that of the image.
    """
    evidence, m, lam = constants.evidence, constants.m or math.inf, constants.lam

    def promise(
        value: float | None, formula: str, meaning: str, basis: Evidence = evidence
    ) -> Statement:
        if evidence == "not available" or value is None or not math.isfinite(value):
            return Statement(None, formula, "not available", constants.reason)
        return Statement(value, formula, basis, meaning.format(value))

    amplification = 0.5 * (lam / m) ** 0.5
    found = {
        "distance_bound": promise(
            distance,
            "min of ||r|| / (m ||x||) (7) and sqrt(<r, M^-1 r> / m) / ||x|| (7b)",
            "The image is at most {:.2e} of its norm away from the exact equilibrium.",
        ),
        "perturbation_bound": promise(
            amplification,
            "1/2 sqrt(lam / m) (8)",
            f"No change of the data, noise or attack, moves the image by more than {{:.3g}} times "
            f"its own norm, {HELD}.",
        ),
        "noise_bound": promise(
            amplification * noise_to_image,
            "1/2 sqrt(lam / m) ||n|| / ||x|| (8)",
            "Noise of the estimated level, white and equal in all coils, moves the image by at "
            f"most {{:.3g}} of its norm whatever its direction, {HELD}.",
            basis="measured",
        ),
        "paper_bound": promise(
            lam / m,
            "lam / m",
            f"The bound of the MOL paper on the same amplification: {{:.3g}}, {HELD}.",
        ),
        "contraction": promise(
            constants.contraction,
            "(1 - m) / (1 + shift), or 1 - 2 m / (2 + lam + 2 shift) for a gradient step (6)",
            "Every exact step at alpha = 1 multiplies the distance to the equilibrium by at most "
            "{:.3g}.",
        ),
    }
    for name in ABOUT_ONE_F if constants.frozen else ():
        found[name] = Statement(None, found[name].formula, "not available", FROZEN)
    reached = found["distance_bound"]
    if reached.value is not None and reached.value < constants.floor:
        found["distance_bound"] = Statement(
            None,
            reached.formula,
            "not available",
            f"The residual says {reached.value:.1e}, below the rounding of a single-precision "
            f"network, {constants.floor:.0e}.",
        )
    if evidence != "not available" and constants.contraction is None:
        found["contraction"] = replace(
            found["contraction"],
            meaning="The Lipschitz constant that a contraction needs is not claimed, or was "
            "measured to be larger at this image.",
        )
    return found


ABOUT_ONE_F = ("perturbation_bound", "noise_bound", "paper_bound")
FROZEN = (
    "F was read off these data by a first pass, and other data give another F: (8) is about one F, "
    "so nothing is promised of a change of the data."
)

ROUNDING = 1e-6
"""Relative error of a network evaluation in single precision, a generous estimate."""
