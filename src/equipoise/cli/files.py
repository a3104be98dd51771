"""``equipoise info`` and ``equipoise convert``: what a file holds, and its other forms."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from equipoise.cli.terminal import console, failures


def info(
    file: Annotated[Path, typer.Argument(help="a scan of any known format")],
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on stdout")] = False,
) -> None:
    """Say what a scan holds: shapes, sampling, noise, orientation, and what was assumed."""
    with failures():
        from equipoise.formats import read
        from equipoise.formats.describe import describe, draw_mask

        acquisition = read(file)
        found = describe(acquisition)
    if as_json:
        print(json.dumps(found, allow_nan=False))
        return
    for name, text in _lines(found):
        print(f"{name:19} {text}")
    print()
    print("\n".join(draw_mask(acquisition.mask[0])))


def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="a scan, or .h5 of images")],
    target: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", help=".h5, .nii.gz, .dcm (a folder), .mrd, .cfl, .npy or .png"
        ),
    ],
    kspace: Annotated[
        bool, typer.Option("--kspace", help="write the k-space: .h5 (fastMRI), .npz or .cfl")
    ] = False,
    overwrite: Annotated[bool, typer.Option(help="replace an output that exists")] = False,
) -> None:
    """Write images (or k-space) of a file in another format, with position and orientation.

    A scan becomes the image of its samples, combined without a model.
    """
    with failures():
        from equipoise.formats import read
        from equipoise.formats.images import read_images
        from equipoise.formats.writers.kspace import KSPACE_WRITERS, write_kspace
        from equipoise.formats.writers.write import check_target, write_image

        check_target(target, overwrite=overwrite, suffixes=KSPACE_WRITERS if kspace else None)
        if kspace:
            acquisition = read(source)
            write_kspace(target, acquisition)
            notes = acquisition.notes
        else:
            content = read_images(source)
            write_image(target, content, overwrite=overwrite)
            notes = content["notes"]
    for note in notes:
        console.print(f"{source.name}: {note}", style="dim", markup=False)
    console.print(f"written: {target}", markup=False)


def _lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    """The text of ``info``, a heading and a value a line."""
    y, x = found["matrix"]
    labels = ", ".join(f"{n} {name}s" for name, n in found["labels"].items() if n > 1)
    lines = [
        ("file", found["file"]),
        ("format", found["format"]),
        ("images", f"{found['images']}" + (f" ({labels})" if labels else "")),
        ("coils", str(found["coils"])),
        ("matrix y x", f"{y} x {x}"),
        ("image y x", "{} x {}".format(*found["image_matrix"])),
        ("acceleration", f"{found['acceleration']:.2f}"),
        ("calibration region", "{} x {}".format(*found["calibration_region"])),
        ("noise level", f"{found['noise_level']:.3g}" + " (whitened)" * found["whitened"]),
        ("centre y x", _centre(found)),
        ("pixel z y x", _pixel(found["pixel_mm"])),
        ("plane", found["plane"] or "not in the file"),
        ("coil maps, target", f"{_yes(found['coil_maps'])}, {_yes(found['target'])}"),
        *((name, text) for name, text in found["system"].items()),
        *(("assumed", text) for text in found["assumed"]),
    ]
    if found["masks"] > 1:
        lines.append(("assumed", "masks differ between images: that of the first is drawn"))
    if found["ignored"]:
        lines.append(("ignored", ", ".join(found["ignored"])))
    return lines


def _centre(found: dict[str, Any]) -> str:
    dy, dx = (e - c for e, c in zip(found["centre_by_energy"], found["centre"]))
    text = "{}, {}".format(*found["centre"])
    if found["centre_in_file"] is not None:
        text += " (in the file {}, {})".format(*found["centre_in_file"])
    if (dy, dx) == (0, 0):
        return text + ", where the energy peaks"
    return text + f"; the energy peaks {dy:+d}, {dx:+d} samples from it"


def _pixel(spacing: list[float] | None) -> str:
    return "not in the file" if spacing is None else " x ".join(f"{v:.4g}" for v in spacing) + " mm"


def _yes(value: bool) -> str:
    return "yes" if value else "no"
