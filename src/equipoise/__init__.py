"""MRI reconstruction at an equilibrium: monotone operator learning with certificates."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from equipoise.threads import prepare_torch
from equipoise.version import __version__

prepare_torch()

_PUBLIC = {
    "Acquisition": "equipoise.formats",
    "BadInputError": "equipoise.outcome",
    "BlurDownsampleOp": "equipoise.physics.superres",
    "CNN": "equipoise.networks.cnn",
    "ConvergenceWarning": "equipoise.outcome",
    "Certificate": "equipoise.certificate.record",
    "DataWeight": "equipoise.methods.data_weight",
    "DynamicSenseOp": "equipoise.physics.dynamic",
    "EquipoiseError": "equipoise.outcome",
    "FixedWeight": "equipoise.methods.data_weight",
    "FunctionOp": "equipoise.physics.generic",
    "LinearOperator": "equipoise.physics.linop",
    "MOL": "equipoise.methods.mol",
    "Network": "equipoise.networks.network",
    "Outcome": "equipoise.outcome",
    "Problem": "equipoise.physics.problem",
    "ReconSettings": "equipoise.recon.settings",
    "Sample": "equipoise.training.sources.source",
    "SenseOp": "equipoise.physics.cartesian",
    "Simulation": "equipoise.training.sources.simulated",
    "Solution": "equipoise.outcome",
    "SolverOptions": "equipoise.equilibrium.fixed_point",
    "Source": "equipoise.training.sources.source",
    "TrainConfig": "equipoise.training.config",
    "TwoChannels": "equipoise.networks.own",
    "adjoint_error": "equipoise.physics.linop",
    "as_slices": "equipoise.formats",
    "certificate_schema": "equipoise.report.certificate_file",
    "certify_slice": "equipoise.certificate.certify",
    "dynamic_csm": "equipoise.physics.dynamic",
    "enlarge": "equipoise.recon.enlarge",
    "espirit": "equipoise.physics.coils.espirit",
    "estimate_csm": "equipoise.physics.coils.espirit",
    "from_deepinv": "equipoise.physics.adapters",
    "from_numpy": "equipoise.physics.adapters",
    "from_pylops": "equipoise.physics.adapters",
    "from_sigpy": "equipoise.physics.adapters",
    "import_authors_checkpoint": "equipoise.zoo.authors",
    "kt_mask": "equipoise.physics.sampling.dynamic",
    "lipschitz_lower": "equipoise.networks.measured",
    "load_config": "equipoise.training.config",
    "load_model": "equipoise.zoo.model_file",
    "choose_weights": "equipoise.methods.prediction",
    "make_mask": "equipoise.physics.sampling.masks",
    "nmse": "equipoise.metrics",
    "noise_level": "equipoise.physics.noise_level",
    "normalize_csm": "equipoise.physics.coils.espirit",
    "operator_norm": "equipoise.physics.linop",
    "problems": "equipoise.recon.problems",
    "psnr": "equipoise.metrics",
    "read": "equipoise.formats",
    "reconstruct": "equipoise.recon.reconstruct",
    "reconstruct_file": "equipoise.recon.reconstruct_file",
    "save_model": "equipoise.zoo.model_file",
    "slice_problem": "equipoise.recon.problems",
    "ssim": "equipoise.metrics",
    "to_deepinv": "equipoise.physics.adapters",
    "to_pylops": "equipoise.physics.adapters",
    "to_sigpy": "equipoise.physics.adapters",
    "train": "equipoise.training.train",
    "undersample": "equipoise.recon.experiment",
    "volume_mask": "equipoise.physics.sampling.dynamic",
    "write_certificate_report": "equipoise.report.content",
}
__all__ = ["__version__", *_PUBLIC]

if TYPE_CHECKING:
    from equipoise.certificate.certify import certify_slice
    from equipoise.certificate.record import Certificate
    from equipoise.equilibrium.fixed_point import SolverOptions
    from equipoise.formats import Acquisition, as_slices, read
    from equipoise.methods.data_weight import DataWeight, FixedWeight
    from equipoise.methods.mol import MOL
    from equipoise.methods.prediction import choose_weights
    from equipoise.metrics import nmse, psnr, ssim
    from equipoise.networks.cnn import CNN
    from equipoise.networks.measured import lipschitz_lower
    from equipoise.networks.network import Network
    from equipoise.networks.own import TwoChannels
    from equipoise.outcome import (
        BadInputError,
        ConvergenceWarning,
        EquipoiseError,
        Outcome,
        Solution,
    )
    from equipoise.physics.adapters import (
        from_deepinv,
        from_numpy,
        from_pylops,
        from_sigpy,
        to_deepinv,
        to_pylops,
        to_sigpy,
    )
    from equipoise.physics.cartesian import SenseOp
    from equipoise.physics.coils.espirit import espirit, estimate_csm, normalize_csm
    from equipoise.physics.dynamic import DynamicSenseOp, dynamic_csm
    from equipoise.physics.generic import FunctionOp
    from equipoise.physics.linop import LinearOperator, adjoint_error, operator_norm
    from equipoise.physics.noise_level import noise_level
    from equipoise.physics.problem import Problem
    from equipoise.physics.sampling.dynamic import kt_mask, volume_mask
    from equipoise.physics.sampling.masks import make_mask
    from equipoise.physics.superres import BlurDownsampleOp
    from equipoise.recon.enlarge import enlarge
    from equipoise.recon.experiment import undersample
    from equipoise.recon.problems import problems, slice_problem
    from equipoise.recon.reconstruct import reconstruct
    from equipoise.recon.reconstruct_file import reconstruct_file
    from equipoise.recon.settings import ReconSettings
    from equipoise.report.certificate_file import certificate_schema
    from equipoise.report.content import write_certificate_report
    from equipoise.training.config import TrainConfig, load_config
    from equipoise.training.sources.simulated import Simulation
    from equipoise.training.sources.source import Sample, Source
    from equipoise.training.train import train
    from equipoise.zoo.authors import import_authors_checkpoint
    from equipoise.zoo.model_file import load_model, save_model


def __getattr__(name: str) -> Any:
    """Import public names only when they are used, so that the command line starts quickly."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
