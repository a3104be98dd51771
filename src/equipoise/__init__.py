"""MRI reconstruction at an equilibrium: monotone operator learning with certificates."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "Acquisition": "equipoise.formats",
    "BadInputError": "equipoise.outcome",
    "BlurDownsampleOp": "equipoise.physics.superres",
    "CNN": "equipoise.equilibrium.network",
    "Certificate": "equipoise.certification",
    "DataWeight": "equipoise.equilibrium.data_weight",
    "EquipoiseError": "equipoise.outcome",
    "FixedWeight": "equipoise.equilibrium.data_weight",
    "FunctionOp": "equipoise.physics.generic",
    "LinearOperator": "equipoise.physics.linop",
    "MOL": "equipoise.equilibrium.mol",
    "Outcome": "equipoise.outcome",
    "Problem": "equipoise.problem",
    "SenseOp": "equipoise.physics.sense",
    "Solution": "equipoise.outcome",
    "SolverOptions": "equipoise.equilibrium.fixed_point",
    "adjoint_error": "equipoise.physics.linop",
    "certificate_schema": "equipoise.report",
    "certify_slice": "equipoise.certification",
    "enlarge": "equipoise.superresolution",
    "espirit": "equipoise.physics.csm",
    "estimate_csm": "equipoise.physics.csm",
    "import_authors_checkpoint": "equipoise.methods.weights",
    "lipschitz_lower": "equipoise.robustness.lipschitz",
    "load_model": "equipoise.methods.weights",
    "make_mask": "equipoise.physics.sampling",
    "noise_level": "equipoise.physics.noise_level",
    "operator_norm": "equipoise.physics.linop",
    "read": "equipoise.formats",
    "reconstruct": "equipoise.reconstruction",
    "save_model": "equipoise.methods.weights",
    "slice_problem": "equipoise.reconstruction",
    "undersample": "equipoise.retrospective",
    "write_certificate_report": "equipoise.html_report",
}
__all__ = ["__version__", *_PUBLIC]

if TYPE_CHECKING:
    from equipoise.certification import Certificate, certify_slice
    from equipoise.equilibrium.data_weight import DataWeight, FixedWeight
    from equipoise.equilibrium.fixed_point import SolverOptions
    from equipoise.equilibrium.mol import MOL
    from equipoise.equilibrium.network import CNN
    from equipoise.formats import Acquisition, read
    from equipoise.html_report import write_certificate_report
    from equipoise.methods.weights import import_authors_checkpoint, load_model, save_model
    from equipoise.outcome import BadInputError, EquipoiseError, Outcome, Solution
    from equipoise.physics.csm import espirit, estimate_csm
    from equipoise.physics.generic import FunctionOp
    from equipoise.physics.linop import LinearOperator, adjoint_error, operator_norm
    from equipoise.physics.noise_level import noise_level
    from equipoise.physics.sampling import make_mask
    from equipoise.physics.sense import SenseOp
    from equipoise.physics.superres import BlurDownsampleOp
    from equipoise.problem import Problem
    from equipoise.reconstruction import reconstruct, slice_problem
    from equipoise.report import certificate_schema
    from equipoise.retrospective import undersample
    from equipoise.robustness.lipschitz import lipschitz_lower
    from equipoise.superresolution import enlarge


def __getattr__(name: str) -> Any:
    """Import public names when they are used: the command line stays instant."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
