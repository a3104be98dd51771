"""Figures of reconstructions and certificates."""

from pathlib import Path

import numpy as np
from torch import Tensor

from equipoise.certificate.record import CertifiedSlice
from equipoise.formats.replacing import replacing
from equipoise.methods.method import PLANE
from equipoise.recon.reconstruct import Reconstruction


def comparison_figure(
    path: Path, result: Reconstruction, zero_filled: np.ndarray, title: str, index: int = 0
) -> None:
    """Draw target, zero-filled, SENSE and MOL, their errors on one scale, mask and convergence.

    Parameters
    ----------
    path
        A file with the suffix ``.png``, ``.pdf`` or ``.svg``.
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

    # A compute node has no display, and pyplot picks its backend when it is imported.
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


def certificate_figure(path: Path, found: CertifiedSlice) -> None:
    """Draw the image, its noise map, and the change by the attack, each with its own scale.

    Of a series or a volume the image in the middle is drawn.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    image = _plane(found.image[0]).abs().numpy()
    panels = {"image": (image, "gray")}
    if found.noise is not None:
        panels["noise, standard deviation"] = (_plane(found.noise.std).numpy(), "viridis")
    # The attack is computed in normalised units, the image is in those of the scan.
    if found.attack is not None:
        moved = _plane((found.attack.image * found.unit - found.image)[0]).abs().numpy()
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


def _plane(image: Tensor) -> Tensor:
    """An image (y, x), or one of the images of (time or z, y, x)."""
    return image if image.ndim == len(PLANE) else image[len(image) // 2]
