"""Small random problems in double precision, with everything available as dense matrices."""

import h5py
import numpy as np
import torch
import yaml

from conftest import small_head
from equipoise.equilibrium.fixed_point import SolverOptions
from equipoise.methods.data_weight import FixedWeight
from equipoise.methods.mol import MOL
from equipoise.methods.registry import METHODS
from equipoise.methods.registry import new_method as method_of
from equipoise.networks.cnn import CNN
from equipoise.physics.cartesian import SenseOp
from equipoise.physics.coils.biot_savart import biot_savart_maps
from equipoise.physics.least_squares import conjugate_gradient
from equipoise.physics.sampling.masks import make_mask

DOUBLE = torch.complex128
TIGHT = SolverOptions(rtol=1e-10, max_iter=500, exact=False)
"""To a bound in exact arithmetic; the bound of rounding may be above 1e-10 if lam is large."""


OF_PLANES = [name for name in METHODS if not name.endswith("-3d")]
"""Methods for images (y, x)."""

ONES = torch.ones(2, dtype=torch.float64)


def sense_problem(shape=(10, 8), n_coils=3, batch=2, seed=0, acceleration=2.5):
    """A and b of a batch of small random acquisitions, complex128."""
    csm = biot_savart_maps(shape, n_coils, seed).to(DOUBLE)
    masks = [
        make_mask("variable-density-2d", shape, acceleration, 2, seed + i) for i in range(batch)
    ]
    operator = SenseOp(csm, torch.cat(masks))
    data = random_complex((batch, n_coils, *shape), seed) * operator.mask[:, None]
    return operator, data


def random_complex(shape, seed=0):
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def contractive_cnn(lipschitz=0.8, seed=0, features=6, layers=3, gain=0.0):
    """A CNN whose Lipschitz constant is at most the one given, by its dense layer norms."""
    network = CNN(features, layers, 3, gain=gain, seed=seed).double()
    with torch.no_grad():
        for convolution in network.convolutions:
            convolution.weight *= lipschitz ** (1 / layers) / dense_norm(convolution)
            bias = torch.randn(
                convolution.bias.shape,
                dtype=torch.float64,
                generator=torch.Generator().manual_seed(seed),
            )
            convolution.bias.copy_(0.1 * bias)
    return network


def dense_norm(convolution, shape=(10, 8)):
    """Largest singular value of the zero-padded convolution as a dense matrix."""
    n = convolution.in_channels * shape[0] * shape[1]
    eye = torch.eye(n, dtype=torch.float64).reshape(n, convolution.in_channels, *shape)
    zero_bias = torch.zeros_like(convolution.bias)
    columns = torch.nn.functional.conv2d(eye, convolution.weight, zero_bias, padding=1)
    return float(torch.linalg.matrix_norm(columns.reshape(n, -1), 2).detach())


def model_of(lipschitz=0.8, lam=5.0, seed=0, gain=0.0):
    """A MOL in double precision with Lip(H) <= lipschitz and m = 1 - lipschitz."""
    network = contractive_cnn(lipschitz, seed, gain=gain)
    return MOL(network, FixedWeight(lam), 1 - lipschitz).double()


def dense_normal(operator, shape):
    """A^H A of the first sample as a dense complex matrix."""
    n = shape[0] * shape[1]
    eye = torch.eye(n, dtype=DOUBLE).reshape(n, *shape)
    one = SenseOp(operator.csm[:1], operator.mask[:1])
    return torch.stack([one.normal(e[None])[0].flatten() for e in eye], dim=1)


def new_method(name, *, network=None, lam=5.0, m=0.1, iterations=4, seed=0, skip=0.0):
    """An untrained method with those of the given settings that it has."""
    return method_of(config_of(name, network, lam, m, iterations, skip), seed)


def config_of(name, network=None, lam=5.0, m=0.1, iterations=4, skip=0.0):
    kind = METHODS[name].Config
    settings = {"m": m, "iterations": iterations}
    known = kind.model_fields["network"].annotation.model_fields
    body = {**(network or {}), "m": m, "skip": skip}
    body = {key: value for key, value in body.items() if key in known}
    content = {key: value for key, value in settings.items() if key in kind.model_fields}
    weight = {"value" if "threshold_rule" in kind.model_fields else "lam": lam}
    if name.startswith("mol-guided"):
        content["guide"] = {"network": body}
        content["adaptation"] = {"features": body["features"]}
    if name == "unet":
        body = {"features": network["features"] // 2}
    return kind.model_validate({"network": body, "data_weight": weight, **content})


def solve(model, operator, data, **options):
    with torch.no_grad():
        return model.solve(operator, data, scale=ONES[: len(data)], cg_rtol=1e-3, **options)


def residual(model, operator, data, x, lam=5.0):
    misfit = operator.normal(x) - operator.adjoint(data)
    with torch.no_grad():
        return lam * misfit + x - model.network(x)


def mol_map(model, operator, data, x, alpha, lam=5.0):
    """T of (2), its linear solve to machine precision."""
    weight = torch.full((len(x),), alpha * lam, dtype=torch.float64)
    with torch.no_grad():
        rhs = (1 - alpha) * x + alpha * model.network(x) + alpha * lam * operator.adjoint(data)
    ones = torch.ones_like(weight)
    return conjugate_gradient(operator, rhs, weight, ones, rtol=1e-14, max_iter=500).value


def labelled_images(path, subjects, shape=(32, 32)):
    """A file with one image of each of several subjects: parts of one head."""
    head = small_head((48, 48)).numpy()[0]
    cut = tuple(slice(n) for n in shape)
    with h5py.File(path, "w") as file:
        file["image"] = np.stack([np.roll(head, i, 0)[cut] for i in range(subjects)])
        file["subject"] = [f"s{i}" for i in range(subjects)]
    return path


def run_of_three_axes(tmp_path, file, axis, **changes):
    """The file of a small training of a network for images of three axes."""
    network = {"axis": axis, "filters": 1, "across": 2, "taps": 3}
    content = {
        "name": "tiny",
        "data": {"train": [str(file)], "validation": [str(file)]},
        "model": {"method": "mol-ridge-3d", "network": network},
        "warmup_steps": 0,
        "crop": 16,
        "validation_crop": 16,
        "validation_samples": 1,
        "learning_rate": 1e-3,
        **changes,
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(content))
    return path
