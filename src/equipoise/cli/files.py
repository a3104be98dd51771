"""``equipoise info`` and ``equipoise convert``: the content of a file, and its other formats."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from equipoise.cli.batch import SOME_FAILED
from equipoise.cli.terminal import console, failures, say


def info(
    file: Annotated[Path, typer.Argument(help="A scan of any known format.")],
    trajectory: Annotated[
        Path | None, typer.Option(help="Trajectory of BART k-space: .cfl (3, sample, readout).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what a scan holds: shapes, sampling, noise, orientation, and what was assumed."""
    with failures():
        from equipoise.formats import read
        from equipoise.formats.describe import describe, plane_of_samples
        from equipoise.formats.drawing import draw_mask

        acquisition = read(file, trajectory_file=trajectory)
        found = describe(acquisition)
    if as_json:
        print(json.dumps(found, allow_nan=False))
        return
    for name, text in _lines(found):
        say(f"{name:19} {text}")
    say("", *draw_mask(plane_of_samples(acquisition)))


def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A scan, or an .h5 of images.")],
    target: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help="The output: .h5, .nii.gz, .dcm (a folder), .mrd, .cfl, .npy, .png, .gif or .mp4.",
        ),
    ],
    kspace: Annotated[
        bool, typer.Option("--kspace", help="Write the k-space as .h5 (fastMRI), .npz or .cfl.")
    ] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace an output that exists.")] = False,
) -> None:
    """Write the images (or k-space) of a file in another format, with position and orientation.

    The image of a scan is combined from its samples, without a model.
    """
    with failures():
        from equipoise.formats import read
        from equipoise.formats.images import read_images
        from equipoise.formats.writers.kspace import (
            KSPACE_WRITERS,
            trajectory_beside,
            write_kspace,
        )
        from equipoise.formats.writers.target import check_target, input_files
        from equipoise.formats.writers.write import check_further, write_image, written_files

        known = KSPACE_WRITERS if kspace else None
        inputs = input_files(source)
        check_target(target, overwrite=overwrite, suffixes=known, inputs=inputs)
        if kspace:
            acquisition = read(source)
            beside = trajectory_beside(target, acquisition)
            # The trajectory is a second file, which could replace one that exists.
            if beside is not None:
                check_target(beside, overwrite=overwrite, inputs=inputs)
            notes, left_out = write_kspace(target, acquisition), acquisition.header.left_out
            written = [target]
        else:
            content = read_images(source)
            check_further(target, content["header"], overwrite=overwrite, inputs=inputs)
            write_image(target, content, overwrite=overwrite)
            notes, left_out = content["notes"], content["header"].left_out
            written = written_files(target, content["header"])
    for note in notes:
        console.print(f"{source.name}: {note}", style="dim", markup=False)
    for path in written:
        console.print(f"written: {path}", markup=False)
    # The file is written, but it is not the whole scan, and a script must notice.
    if left_out:
        raise typer.Exit(SOME_FAILED)


def _lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    """The lines of ``info``, each a heading and a value."""
    axes = " ".join("zyx"[-found["dimensions"] :])
    labels = ", ".join(f"{n} {name}s" for name, n in found["labels"].items() if n > 1)
    kind = "volumes" if found["dimensions"] == 3 else "images"
    lines = [
        ("file", found["file"]),
        ("format", found["format"]),
        ("encoding", f"{found['dimensions']}D {found['encoding']}"),
        ("samples", " x ".join(f"{n} {a}" for n, a in zip(found["shape"], found["axes"]))),
        (kind, f"{found['images']}" + (f" ({labels})" if labels else "")),
        ("coils", str(found["coils"])),
        (f"matrix {axes}", _by(found["matrix"])),
        (f"image {axes}", _by(found["image_matrix"])),
        *(_sampling(found) if found["trajectory"] is None else _along(found["trajectory"])),
        ("pixel z y x", _pixel(found["pixel_mm"])),
        ("plane", found["plane"] or "not in the file"),
        ("coil maps, target", f"{_yes(found['coil_maps'])}, {_yes(found['target'])}"),
        ("reconstructed", _solved(found)),
        *((name, text) for name, text in found["system"].items()),
        *(("assumed", text) for text in found["assumed"]),
    ]
    if (found["masks"] or 0) > 1:
        lines.append(("assumed", "masks differ between images; the drawing shows the first"))
    if found["ignored"]:
        lines.append(("ignored", ", ".join(found["ignored"])))
    return lines


def _sampling(found: dict[str, Any]) -> list[tuple[str, str]]:
    axes = " ".join("zyx"[-found["dimensions"] :])
    return [
        ("acceleration", f"{found['acceleration']:.2f}"),
        ("calibration region", _by(found["calibration_region"])),
        ("noise level", f"{found['noise_level']:.3g}" + " (whitened)" * found["whitened"]),
        (f"centre {axes}", _centre(found)),
    ]


def _along(trajectory: dict[str, Any]) -> list[tuple[str, str]]:
    frames = trajectory["frames"]
    own = "the same in all frames" if frames == 1 else f"different in each of {frames} frames"
    extent = " x ".join(f"{v:.4g}" for v in trajectory["extent"])
    return [
        ("trajectory", f"{trajectory['name']}, {own}"),
        ("readouts", f"{trajectory['readouts']} of {trajectory['samples']} samples"),
        ("largest coordinate", f"{extent} cycles per field of view"),
        ("points visited", f"{trajectory['matrix_visited']:.0%} of the matrix"),
        ("density", _yes(trajectory["density"])),
    ]


def _solved(found: dict[str, Any]) -> str:
    """How ``recon`` solves the scan."""
    if found["not_solved"]:
        whole = found["trajectory"] is None
        return f"{'not slice by slice' if whole else 'no'}: {found['not_solved']}"
    if found["dimensions"] == 3:
        text = f"as {found['problems']} 2D problems along the readout {found['readout']}"
        whole = found["readout"] == "x"
        return text + (f", or whole with {_model_of('z', 'y', 'x')}" if whole else "")
    text = f"as {found['problems']} 2D problem{'s' * (found['problems'] != 1)}"
    n = found["frames_in_time"]
    if n < 2:
        return text
    model = _model_of("time", "y", "x")
    return f"{text}: each of {n} points in time independently, or together with {model}"


def _model_of(*axes: str) -> str:
    # It imports every method, which takes 0.2 s.
    from equipoise.zoo.find import MODELS_OF

    return MODELS_OF[axes]


def _by(numbers: list[int]) -> str:
    return " x ".join(str(n) for n in numbers)


def _centre(found: dict[str, Any]) -> str:
    offset = [e - c for e, c in zip(found["centre_by_energy"], found["centre"])]
    text = ", ".join(str(n) for n in found["centre"])
    if found["centre_in_file"] is not None:
        text += f" (in the file {', '.join(str(n) for n in found['centre_in_file'])})"
    if not any(offset):
        return text + ", where the energy peaks"
    return text + f"; the energy peaks {', '.join(f'{d:+d}' for d in offset)} samples from it"


def _pixel(spacing: list[float] | None) -> str:
    return "not in the file" if spacing is None else " x ".join(f"{v:.4g}" for v in spacing) + " mm"


def _yes(value: bool) -> str:
    return "yes" if value else "no"
