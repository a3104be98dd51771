"""Every public signature is checked at run time: shapes and dtypes by jaxtyping and beartype."""

import os
import tempfile
from functools import cache
from pathlib import Path

# Threads that meet after every operation on a small tensor wait for each other longer than they
# work, and for a processor that others keep busy. Processes that a test starts inherit this.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # where more threads are asked for

from jaxtyping import install_import_hook

PACKAGE = Path(__file__).parents[1] / "src" / "equipoise"
# These run thousands of times in a solve. Checking them too doubles the time of the tests, and
# what reaches them was checked by their callers.
INNERMOST = {"vectors", "physics.least_squares"}
names = {".".join(p.relative_to(PACKAGE).with_suffix("").parts) for p in PACKAGE.rglob("*.py")}
checked = [f"equipoise.{n}" for n in names - INNERMOST if not n.endswith("__init__")]
hook = install_import_hook(checked, "typecheck.checker")

os.environ["EQUIPOISE_CACHE"] = tempfile.mkdtemp(prefix="equipoise-tests-")

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
import typer.testing  # noqa: E402

from equipoise.formats.sample_head import head_slice  # noqa: E402
from equipoise.physics.coils.biot_savart import biot_savart_maps  # noqa: E402
from equipoise.physics.fourier import image_to_kspace, kspace_to_image  # noqa: E402

# The runner of typer builds all commands from their signatures anew for each command line.
typer.testing._get_command = cache(typer.testing._get_command)


def small_head(shape=(72, 64)):
    """The demo head at low resolution, (1, y, x)."""
    kspace = image_to_kspace(head_slice())
    y, x = (slice(128 - n // 2, 128 - n // 2 + n) for n in shape)
    image = kspace_to_image(kspace[:, y, x])
    return image / image.abs().max()


@pytest.fixture(scope="session")
def scan_arrays():
    """A fully sampled 6-coil scan with little noise: kspace (1, c, y, x), csm, image."""
    image = small_head()
    csm = biot_savart_maps(tuple(image.shape[1:]), 6, seed=1)
    generator = torch.Generator().manual_seed(0)
    noise = 0.003 * torch.randn(csm.shape, dtype=torch.complex64, generator=generator)
    kspace = image_to_kspace(csm * image[:, None]) + noise
    return {"kspace": kspace.numpy(), "csm": csm.numpy(), "image": image.numpy()}


@pytest.fixture
def full_scan(tmp_path, scan_arrays):
    """The scan as a fastMRI file."""
    import h5py

    path = tmp_path / "scan.h5"
    with h5py.File(path, "w") as file:
        file["kspace"] = scan_arrays["kspace"]
    return path


@pytest.fixture
def rng():
    return np.random.default_rng(0)
