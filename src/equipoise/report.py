"""Tables for the terminal and pictures for the eye."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from pydantic import TypeAdapter
from rich.table import Table

from equipoise import __version__
from equipoise.certification import Certificate, CertifiedSlice
from equipoise.formats.write import replacing
from equipoise.reconstruction import Reconstruction

MANY_SLICES = 12


def slice_table(result: Reconstruction) -> Table:
    """One row a slice (the first few of a large volume), and the mean where there is a target."""
    compared = result.target is not None
    table = Table(box=None, pad_edge=False)
    headings = ["slice", "outcome", "iterations", "evaluations", "lam", "bound", "seconds"]
    for heading in headings + (["PSNR", "SSIM", "SENSE PSNR", "SENSE SSIM"] if compared else []):
        table.add_column(heading, justify="left" if heading == "outcome" else "right")
    for s in result.slices[:MANY_SLICES]:
        row = [str(s.index), s.outcome, str(s.iterations), str(s.network_evaluations)]
        row += [f"{s.lam:.3g}", f"{s.distance_bound:.1e}", f"{s.seconds:.1f}"]
        if compared:
            row += [f"{s.psnr:.2f}", f"{s.ssim:.4f}", f"{s.sense_psnr:.2f}", f"{s.sense_ssim:.4f}"]
        table.add_row(*row)
    if len(result.slices) > MANY_SLICES:
        table.add_row(f"... {len(result.slices)}")
    if compared and len(result.slices) > 1:
        names = ("psnr", "ssim", "sense_psnr", "sense_ssim")
        means = [np.mean([getattr(s, name) for s in result.slices]) for name in names]
        table.add_row("mean", *[""] * 6, *[f"{m:.{2 + 2 * (i % 2)}f}" for i, m in enumerate(means)])
    return table


def short_certificate(result: Reconstruction) -> str | None:
    """One sentence on the worst slice and what it rests on; None without an equilibrium."""
    bounds = [s.perturbation_bound for s in result.slices]
    if any(bound is None for bound in bounds):
        return None
    first = result.slices[0]
    noise = max(s.noise_bound or 0.0 for s in result.slices)
    text = (
        f"certificate (m = {first.m:.3g}, {first.m_evidence}): at most "
        f"{max(s.distance_bound for s in result.slices):.1e} from the equilibrium; a change d of "
        f"the data moves the image by at most {max(b for b in bounds if b is not None):.3g} ||d|| "
        f"at this lam, scale and these maps, the noise of this scan by at most {noise:.0%} of it"
    )
    unlike = [str(s.index) for s in result.slices if s.in_range is False]
    if unlike:
        text += f"; UNLIKE the validation scans: slice {', '.join(unlike)}"
    elif first.in_range is not None:
        text += "; in the range of the validation scans"
    return text


def comparison_figure(
    path: Path, result: Reconstruction, zero_filled: np.ndarray, title: str, index: int = 0
) -> None:
    """Target, zero-filled, SENSE and MOL, their errors on one scale, the mask, the convergence.

    Parameters
    ----------
    path
        A ``.png``, ``.pdf`` or ``.svg``.
    result
        A reconstruction with a target.
    zero_filled
        ``A^H b`` of the slice, (y, x).
    title
        Heading of the figure.
    index
        The slice.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    assert result.target is not None
    assert result.sense is not None
    target = result.target[index].abs().numpy()
    s = result.slices[index]
    columns = {
        "target": target,
        "zero-filled": np.abs(zero_filled),
        f"SENSE, best lam\n{s.sense_psnr:.2f} dB, SSIM {s.sense_ssim:.3f}": result.sense[index]
        .abs()
        .numpy(),
        f"MOL\n{s.psnr:.2f} dB, SSIM {s.ssim:.3f}": result.image[index].abs().numpy(),
    }
    figure, axes = plt.subplots(2, 5, figsize=(15, 6.6), layout="constrained")
    largest = float(target.max())
    error_scale = 0.15 * largest
    for axis, (name, image) in zip(axes[0], columns.items()):
        axis.imshow(image, cmap="gray", vmin=0, vmax=0.9 * largest)
        axis.set_title(name, fontsize=10)
    for axis, image in zip(axes[1], columns.values()):
        shown = axis.imshow(np.abs(image - target), cmap="magma", vmin=0, vmax=error_scale)
    figure.colorbar(shown, ax=axes[1, 3], label="|error|, one scale for all")
    mask = result.mask[index if len(result.mask) > 1 else 0].numpy()
    axes[0, 4].imshow(mask, cmap="gray")
    axes[0, 4].set_title(f"mask, {mask.size / mask.sum():.2f}-fold", fontsize=10)
    for axis in (*axes[0], *axes[1, :4]):
        axis.set_axis_off()
    axes[1, 0].set_title("error images", fontsize=10)
    residuals, bounds = result.history[index].numpy().T
    axes[1, 4].semilogy(bounds, "o-", markersize=3, label="bound on ||x - x*|| / ||x||")
    axes[1, 4].semilogy(residuals, "s--", markersize=3, label="residual ||r|| / ||x||")
    axes[1, 4].set(xlabel="iteration")
    axes[1, 4].legend(fontsize=8)
    axes[1, 4].grid(alpha=0.3)
    figure.suptitle(title)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format=path.suffix[1:])
    plt.close(figure)


@dataclass(frozen=True)
class CertificateReport:
    """The object that ``equipoise certify --json`` prints."""

    version: str
    scan: str
    model: str
    slices: list[Certificate]


def certificate_json(certificates: list[Certificate], scan: str, model: str) -> str:
    """A :class:`CertificateReport`; :func:`certificate_schema` describes it."""
    report = CertificateReport(__version__, scan, model, certificates)
    return json.dumps(_finite(asdict(report)), indent=1, allow_nan=False)


def _finite(value: Any) -> Any:
    """JSON has no infinity and no NaN: they become null."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def certificate_schema() -> dict[str, Any]:
    """The JSON schema of a :class:`CertificateReport` (draft 2020-12)."""
    return TypeAdapter(CertificateReport).json_schema(mode="serialization")


def write_maps(path: Path, slices: list[CertifiedSlice]) -> None:
    """``image`` (slices, y, x) and, where asked for, ``noise_std``, ``noise_error``, ``attack``.

    ``attack`` is the perturbation of the k-space, (slices, coil, y, x). All in units of the scan.
    """
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        file["image"] = np.concatenate([s.image.numpy() for s in slices])
        maps = [s.noise for s in slices if s.noise is not None]
        if maps:
            file["noise_std"] = np.stack([m.std.numpy() for m in maps])
            file["noise_error"] = np.stack([m.error.numpy() for m in maps])
        attacks = [s.attack.perturbation * s.unit for s in slices if s.attack is not None]
        if attacks:
            file["attack"] = np.concatenate([a.numpy() for a in attacks])


def certificate_figure(path: Path, found: CertifiedSlice) -> None:
    """The image, its noise map, and what the attack did, each with its scale."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    image = found.image[0].abs().numpy()
    panels = {"image": (image, "gray")}
    if found.noise is not None:
        panels["noise, standard deviation"] = (found.noise.std.numpy(), "viridis")
    if found.attack is not None:
        moved = (found.attack.image * found.unit - found.image)[0].abs().numpy()
        panels["moved by the attack"] = (moved, "magma")
    figure, axes = plt.subplots(
        1, len(panels), figsize=(4.2 * len(panels), 3.8), layout="constrained", squeeze=False
    )
    for axis, (name, (shown, colours)) in zip(axes[0], panels.items()):
        figure.colorbar(axis.imshow(shown, cmap=colours), ax=axis, shrink=0.8)
        axis.set_title(name, fontsize=10)
        axis.set_axis_off()
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    plt.close(figure)
