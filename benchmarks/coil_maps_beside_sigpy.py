"""ESPIRiT maps: error and processor time beside sigpy, and beside BART if it is installed.

    pip install 'equipoise[sigpy]'; apt install bart
    OMP_NUM_THREADS=1 python benchmarks/coil_maps_beside_sigpy.py [--scan FILE | --series FILE]

The error is the null-space projection error ``||(I - S S^H) c|| / ||c||`` over the object, on the
same pixels for all. For simulated coils, c are the true coil images, which no estimate has seen.
For a scan, they are the coil images of all its samples, of which the calibration uses the centre.
For a series (time, y, x), an 8-fold scan is simulated with 8 coils; its mean over time calibrates,
and c is the mean of the true coil images.
"""

import argparse
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from equipoise.formats import read
from equipoise.formats.cfl import cfl_bytes, read_cfl
from equipoise.formats.sample_head import head_slice
from equipoise.physics.coils.biot_savart import biot_savart_maps
from equipoise.physics.coils.espirit import normalize_csm
from equipoise.physics.dynamic import DynamicSenseOp, dynamic_csm, temporal_mean
from equipoise.physics.fourier import image_to_kspace, kspace_to_image
from equipoise.physics.sampling.dynamic import kt_mask
from equipoise.training.sources.cine import load_clips
from equipoise.vectors import norm

CALIBRATION, OBJECT, NOISE, ACCELERATION = 24, 0.1, 0.005, 8.0


def ours(kspace: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Maps of this package, (1, coil, y, x): those of a series, here of one frame."""
    return dynamic_csm(kspace[0, :, None], mask)


def of_sigpy(kspace: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Maps of sigpy with its defaults, without its crop."""
    from sigpy.mri.app import EspiritCalib

    app = EspiritCalib(kspace[0].numpy(), calib_width=CALIBRATION, crop=0, show_pbar=False)
    return torch.from_numpy(np.asarray(app.run()))[None]


def of_bart(kspace: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Maps of ``bart ecalib``, one set, without its crop."""
    with tempfile.TemporaryDirectory() as folder:
        data, maps = Path(folder) / "kspace", Path(folder) / "maps"
        header, values = cfl_bytes(kspace[0].numpy().transpose(2, 1, 0)[:, :, None])
        data.with_suffix(".hdr").write_bytes(header)
        data.with_suffix(".cfl").write_bytes(values)
        command = ["bart", "ecalib", "-m1", "-c0", f"-r{CALIBRATION}", str(data), str(maps)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        found = read_cfl(maps.with_suffix(".cfl"))
    found = found.reshape(*found.shape[:2], found.shape[3]).transpose(2, 1, 0)
    return torch.from_numpy(np.ascontiguousarray(found))[None]


def cpu_seconds() -> float:
    """Of this process and its children."""
    used = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


Case = tuple[str, torch.Tensor, torch.Tensor, torch.Tensor]
"""Name, k-space, its mask, and the coil images that maps should explain."""


def cases(scan: Path | None, series: Path | None) -> list[Case]:
    """What maps are estimated of."""
    if series is not None:
        return [series_case(series)]
    if scan is not None:
        kspace = read(scan).kspace[:1]
        return [(scan.name, kspace, everywhere(kspace), kspace_to_image(kspace))]
    found = []
    for coils in (8, 16):
        image = head_slice()
        csm = biot_savart_maps((image.shape[1], image.shape[2]), coils, seed=0)
        images = csm * image[:, None]
        noise = torch.randn(csm.shape, dtype=torch.complex64) * NOISE * image.abs().max()
        kspace = image_to_kspace(images) + noise
        found.append((f"head, {coils} coils", kspace, everywhere(kspace), images))
    return found


def everywhere(kspace: torch.Tensor) -> torch.Tensor:
    """The mask of a full scan."""
    return torch.ones((1, *kspace.shape[2:]), dtype=torch.bool)


def series_case(path: Path) -> Case:
    """The mean over time of a simulated scan."""
    frames = load_clips([path])[0].image
    csm = biot_savart_maps((frames.shape[1], frames.shape[2]), 8, seed=0)
    mask = kt_mask(frames.shape, ACCELERATION, seed=0)
    kspace = DynamicSenseOp(csm, mask).forward(frames[None])
    noise = torch.randn(kspace.shape, dtype=torch.complex64) * NOISE * frames.abs().max()
    mean, measured = temporal_mean((kspace + noise)[0], mask[0])
    return path.name, mean[None], measured[None], csm * frames.mean(0)


def main() -> None:
    """Print error, processor seconds, and the ratio to sigpy."""
    parser = argparse.ArgumentParser(description=__doc__)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--scan", type=Path)
    which.add_argument("--series", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    methods: dict[str, Callable[..., torch.Tensor]] = {"equipoise": ours, "sigpy": of_sigpy}
    if shutil.which("bart"):
        methods["bart"] = of_bart
    for name, kspace, mask, images in cases(options.scan, options.series):
        support = ours(kspace, mask).abs().sum(1, keepdim=True) > 0
        brightness = images.abs().square().sum(1, keepdim=True).sqrt()
        inside = support & (brightness > OBJECT * brightness.max())
        seconds = {}
        for method, estimate in methods.items():
            estimate(kspace, mask)  # libraries load, kernels compile
            cpu, started = cpu_seconds(), time.perf_counter()
            maps = normalize_csm(estimate(kspace, mask))
            seconds[method] = cpu_seconds() - cpu
            wall = time.perf_counter() - started
            seen = images * inside
            rest = seen - maps * (maps.conj() * seen).sum(1, keepdim=True)
            print(
                f"{name}, {tuple(kspace.shape[2:])}: {method}: error "
                f"{float(norm(rest * inside) / norm(seen)):.4f}, {seconds[method]:.2f} CPU s, "
                f"{wall:.2f} s"
            )
        print(f"  equipoise / sigpy: {seconds['equipoise'] / seconds['sigpy']:.2f} of the CPU time")


if __name__ == "__main__":
    main()
