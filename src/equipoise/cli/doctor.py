"""``equipoise doctor``: whether the package works on this machine, and what is missing."""

import json
from math import isfinite
from typing import Annotated, Any

import typer

from equipoise.cli.terminal import say

EXTRAS = {
    "mrd": ("ismrmrd", "ISMRMRD images"),
    "dicom": ("pydicom", "DICOM series"),
    "twix": ("mapvbvd", "Siemens raw data"),
    "slurm": ("submitit", "SLURM arrays"),
    "sigpy": ("sigpy", "operators of sigpy"),
    "pylops": ("pylops", "operators of pylops"),
}
CORE = (
    "torch",
    "numpy",
    "h5py",
    "safetensors",
    "nibabel",
    "matplotlib",
    "torchmetrics",
    "pillow",
    "PyWavelets",
    "platformdirs",
    "pydantic",
    "pyyaml",
    "jaxtyping",
    "typer",
    "rich",
)


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show versions, devices and memory, and reconstruct a phantom on each device."""
    found = examine()
    if as_json:
        print(json.dumps(found, allow_nan=False))
    else:
        say(*_lines(found))
    if found["problems"]:
        raise typer.Exit(1)


def examine() -> dict[str, Any]:
    """The results that ``doctor`` prints; ``problems`` lists what keeps the core from working."""
    import platform
    import shutil
    import tempfile

    from equipoise.version import __version__

    versions = {name: _version(name) for name in CORE}
    missing = [name for name, number in versions.items() if number is None]
    problems = [f"{name} is not installed: pip install {name}" for name in missing]
    found: dict[str, Any] = {
        "equipoise": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "versions": versions,
        "extras": {extra: _installed(module) for extra, (module, _) in EXTRAS.items()},
        "disk_free": shutil.disk_usage(tempfile.gettempdir()).free,
        "problems": problems,
    }
    # Without its dependencies the package cannot be imported, and the list says more than the
    # traceback.
    if not problems:
        found |= _devices(problems)
    return found


def _version(name: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _installed(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None


def _devices(problems: list[str]) -> dict[str, Any]:
    import torch

    from equipoise.formats.limits import available_memory
    from equipoise.zoo.find import available_models
    from equipoise.zoo.model_file import damage

    problems += [found for name in available_models() if (found := damage(name))]
    # Every device, because one of several cards may be broken or too old.
    names = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    devices, reference = [], None
    for name in names:
        tried = _tried(name)
        if isinstance(tried, str):
            problems.append(f"{name}: {tried}")
            continue
        image, seconds, outcome = tried
        # The CPU comes first, so every other device is compared with it.
        reference = image if reference is None else reference
        difference = float((image - reference).norm() / reference.norm())
        same = difference <= SAME
        devices.append(
            {
                "device": name,
                "outcome": outcome,
                "seconds": seconds,
                "difference": difference if isfinite(difference) else None,
            }
        )
        if outcome != "converged" or not same:
            problems.append(f"{name}: {outcome}, {difference:.1e} from the image of the CPU")
    return {
        "threads": torch.get_num_threads(),
        "memory_free": available_memory(),
        "devices": devices,
    }


SAME = 2e-3
"""Largest difference of two images that are both certified to 1e-3."""


def _tried(device: str) -> tuple[Any, float, str] | str:
    """The result of :func:`_phantom`, or its error as text."""
    # Drivers fail in many ways, and one broken device must not end the report.
    try:
        return _phantom(device)
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]


def _phantom(device: str) -> tuple[Any, float, str]:
    """A head of 96 x 80, 6 coils, 3-fold: image, seconds, outcome."""
    import time

    import torch

    from equipoise.formats.sample_head import head_slice
    from equipoise.physics.cartesian import SenseOp
    from equipoise.physics.coils.biot_savart import biot_savart_maps
    from equipoise.physics.fourier import image_to_kspace, kspace_to_image
    from equipoise.physics.sampling.masks import make_mask
    from equipoise.recon.device import creating_on
    from equipoise.zoo.model_file import load_model

    kspace = image_to_kspace(head_slice())
    y, x = (slice(n // 2 - w // 2, n // 2 - w // 2 + w) for n, w in zip(kspace.shape[1:], (96, 80)))
    image = kspace_to_image(kspace[:, y, x])
    mask = make_mask("variable-density-2d", (96, 80), 3.0, 16, 0)
    operator = SenseOp(biot_savart_maps((96, 80), 6, 0).to(device), mask.to(device))
    data = operator.forward((image / image.abs().max()).to(device))
    model = load_model().to(device)
    noise = torch.tensor([0.01], dtype=torch.float64, device=device)
    started = time.perf_counter()
    with torch.no_grad(), creating_on(torch.device(device)):
        solution = model.solve(operator, data, noise_level=noise)
    value = solution.value.cpu()
    return value, time.perf_counter() - started, solution.outcome[0].value


def _lines(found: dict[str, Any]) -> list[str]:
    from equipoise.formats.limits import size_text

    lines = [f"equipoise {found['equipoise']}, python {found['python']}, {found['machine']}"]
    lines += [f"  {name} {number}" for name, number in found["versions"].items()]
    if "devices" in found:
        free = found["memory_free"]
        memory = "unknown" if free is None else size_text(free)
        lines.append(
            f"memory free: {memory}; disk free: {size_text(found['disk_free'])}; "
            f"{found['threads']} threads"
        )
        for d in found["devices"]:
            lines.append(
                f"phantom on {d['device']}: {d['outcome']} in {d['seconds']:.2f} s, "
                f"{d['difference'] or 0:.1e} from the image of the CPU"
            )
        if len(found["devices"]) == 1:
            lines.append("there is no CUDA device that torch can use: everything runs on the CPU")
    for extra, there in found["extras"].items():
        what = EXTRAS[extra][1]
        mend = "" if there else f"pip install 'equipoise[{extra}]'"
        lines.append(f"{what}: {'yes' if there else mend}")
    lines += [f"problem: {problem}" for problem in found["problems"]]
    lines.append("everything works" if not found["problems"] else "not everything works")
    return lines
