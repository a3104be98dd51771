"""``equipoise experiment``: the tables and figures of the paper."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from equipoise.cli.compared import SCANS_ORDER, chosen_methods, chosen_superres
from equipoise.cli.options import LARGEST_SEED, Device
from equipoise.cli.progress import progress
from equipoise.cli.terminal import console, failures

if TYPE_CHECKING:
    import torch

app = typer.Typer(help="Reproduce a table or figure of the paper.", no_args_is_help=True)

Data = Annotated[
    list[Path] | None,
    typer.Option(
        help="Scan or image file, or a folder of them; may be repeated [the sample head]."
    ),
]
Names = Annotated[
    str | None,
    typer.Option(
        help="Comma-separated methods, or model files as NAME=FILE [sense and all of the package].",
        metavar="LIST",
    ),
]
Acceleration = Annotated[float, typer.Option(min=1, help="Acceleration of the drawn masks.")]
Seeds = Annotated[int, typer.Option(min=1, max=1000, help="Number of masks for each slice.")]
Lams = Annotated[
    str | None,
    typer.Option(
        help="How lam is chosen: rule, auto, or both as rule,auto [as recon does it].",
        metavar="LIST",
    ),
]
Folder = Annotated[Path, typer.Option("-o", "--output", help="Folder for the results.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Overwrite = Annotated[bool, typer.Option(help="Replace results that exist.")]


@app.command()
def table1(
    data: Data = None,
    methods: Names = None,
    acceleration: Acceleration = 4.0,
    seeds: Seeds = 4,
    device: Device = "auto",
    output: Folder = Path("table1"),
    as_json: AsJson = False,
    overwrite: Overwrite = False,
) -> None:
    """Table I and Fig. 1: PSNR, SSIM and time of every method on the same data."""
    with failures():
        from equipoise.experiments import table1 as experiment
        from equipoise.experiments.cases import cases, number_of_cases
        from equipoise.recon.device import on_device, pick_device

        check_results(output, experiment.FILES, overwrite, data, methods)
        where = pick_device(device)
        chosen = chosen_methods(methods).to(where)
        found = cases(data or [], acceleration, seeds)
        acquisitions = (on_device(case, where) for case in found)
        with progress() as bar:
            say = bar.saying("table1", number_of_cases(data or [], seeds))
            comparison = experiment.compare(chosen.loaded, acquisitions, say)
        settings = settings_of(data, acceleration, seeds, where)
        result = experiment.write_table(output, comparison, settings, chosen.seen(data))
        console.document((output / "table1.md").read_text())
    finish(output, result, as_json)


@app.command()
def masks(
    data: Data = None,
    methods: Names = None,
    seeds: Seeds = 1,
    lam: Lams = None,
    device: Device = "auto",
    output: Folder = Path("masks"),
    as_json: AsJson = False,
    overwrite: Overwrite = False,
) -> None:
    """PSNR of every method over kinds of masks and accelerations."""
    with failures():
        from equipoise.experiments import masks as experiment
        from equipoise.experiments.cases import number_of_cases
        from equipoise.experiments.table1 import compare
        from equipoise.recon.device import on_device, pick_device

        check_results(output, experiment.FILES, overwrite, data, methods)
        where = pick_device(device)
        lams, chosen = _lams(lam), chosen_methods(methods, SCANS_ORDER).to(where)
        found = experiment.mask_cases(data or [], seeds)
        acquisitions = (on_device(case, where) for case in found)
        with progress() as bar:
            say = bar.saying("masks", len(experiment.GRID) * number_of_cases(data or [], seeds))
            rows = compare(chosen.loaded, acquisitions, say, lams).rows
        settings = {**settings_of(data, experiment.GRID, seeds, where), "lam": lams}
        result = experiment.write_masks(output, rows, settings, chosen.seen(data))
        console.document((output / "masks.md").read_text())
    finish(output, result, as_json)


@app.command()
def scans(
    data: Annotated[
        list[Path], typer.Option(help="fully sampled scan, or folder; repeat for more")
    ],
    methods: Names = None,
    seeds: Seeds = 1,
    lam: Lams = None,
    device: Device = "auto",
    output: Folder = Path("scans"),
    as_json: AsJson = False,
    overwrite: Overwrite = False,
) -> None:
    """Real fully sampled scans, four kinds of masks: every method beside tuned wavelets and TV."""
    with failures():
        from equipoise.experiments import scans as experiment
        from equipoise.experiments.cases import expanded
        from equipoise.experiments.table1 import compare
        from equipoise.recon.device import on_device, pick_device

        check_results(output, experiment.FILES, overwrite, data, methods)
        where = pick_device(device)
        lams, chosen = _lams(lam), chosen_methods(methods, SCANS_ORDER).to(where)
        found = experiment.scan_cases(data, seeds)
        acquisitions = (on_device(case, where) for case in found)
        with progress() as bar:
            say = bar.saying("scans", len(expanded(data)) * len(experiment.MASKS) * seeds)
            rows = compare(chosen.loaded, acquisitions, say, lams).rows
        settings = {**settings_of(data, experiment.MASKS, seeds, where), "simulated_noise": None}
        settings["lam"] = lams
        result = experiment.write_scans(output, rows, settings, chosen.seen(data))
        console.document((output / "scans.md").read_text())
    finish(output, result, as_json)


@app.command()
def robustness(
    data: Data = None,
    methods: Names = None,
    acceleration: Acceleration = 4.0,
    seeds: Seeds = 1,
    steps: Annotated[
        int, typer.Option(min=1, max=10_000, help="Number of ascent steps of each attack.")
    ] = 8,
    starts: Annotated[
        int, typer.Option(min=1, max=1000, help="Number of random starts of each attack.")
    ] = 2,
    epsilon: Annotated[
        list[float] | None,
        typer.Option(help="||d|| / ||b|| of an attack; may be repeated [0.01 0.02 0.05 0.1]."),
    ] = None,
    device: Device = "auto",
    output: Folder = Path("robustness"),
    as_json: AsJson = False,
    overwrite: Overwrite = False,
) -> None:
    """PSNR of every method against noise and against a worst-case perturbation."""
    wrong = [size for size in epsilon or () if not 0 < size < 1]
    if wrong:
        raise typer.BadParameter(f"--epsilon is {wrong[0]:g}: it must lie between 0 and 1")
    with failures():
        from equipoise.experiments import robustness as experiment
        from equipoise.experiments.cases import cases, number_of_cases
        from equipoise.recon.device import on_device, pick_device

        check_results(output, experiment.FILES, overwrite, data, methods)
        where = pick_device(device)
        chosen = chosen_methods(methods).to(where)
        found = cases(data or [], acceleration, seeds)
        count = len(chosen.loaded) * number_of_cases(data or [], seeds)
        with progress() as bar:
            rows = experiment.study(
                chosen.loaded,
                (on_device(case, where) for case in found),
                steps=steps,
                starts=starts,
                epsilons=epsilon or experiment.EPSILONS,
                say=bar.saying("robustness", count),
            )
        settings = {
            **settings_of(data, acceleration, seeds, where),
            "steps": steps,
            "starts": starts,
        }
        result = experiment.write_study(output, rows, settings, chosen.seen(data))
        console.document((output / "robustness.md").read_text())
    finish(output, result, as_json)


@app.command()
def memory(
    size: Annotated[int, typer.Option(min=16, max=4096, help="Side of the image in pixels.")] = 128,
    coils: Annotated[int, typer.Option(min=1, max=256, help="Number of coils.")] = 8,
    output: Folder = Path("memory"),
    as_json: AsJson = False,
    overwrite: Overwrite = False,
) -> None:
    """Peak memory and time of a training step against the number of iterations."""
    with failures():
        from equipoise.experiments import memory as experiment

        check_results(output, experiment.FILES, overwrite)
        count = len(experiment.METHODS) * len(experiment.ITERATIONS)
        with progress() as bar:
            rows = experiment.study(size=size, n_coils=coils, say=bar.saying("memory", count))
        result = experiment.write_study(output, rows, {"size": size, "coils": coils})
        console.document((output / "memory.md").read_text())
    finish(output, result, as_json)


@app.command()
def superres(
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Photograph, or a folder of them [one of the plotting library]."),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated methods, or model files as NAME=FILE [bicubic, tikhonov and all "
            "of the package].",
            metavar="LIST",
        ),
    ] = None,
    factor: Annotated[
        int,
        typer.Option(min=2, max=16, help="Ratio of the pixel sizes; the models are trained for 3."),
    ] = 3,
    noise: Annotated[
        float, typer.Option(min=0, help="Standard deviation of the added noise; white is 1.")
    ] = 0.01,
    device: Device = "auto",
    output: Folder = Path("superres"),
    as_json: AsJson = False,
    overwrite: Overwrite = False,
) -> None:
    """Super-resolution: PSNR, SSIM, time and Fig. 2 of every method on photographs."""
    with failures():
        from equipoise.experiments import superres as experiment
        from equipoise.recon.device import pick_device
        from equipoise.recon.enlarge import DEFAULT_MODEL, blur_of
        from equipoise.training.sources.photographs import SuperResolution

        check_results(output, experiment.FILES, overwrite, data, methods)
        where = pick_device(device)
        chosen = chosen_superres(methods).to(where)
        blur = replace(blur_of(DEFAULT_MODEL), factor=factor)
        source = SuperResolution(**asdict(blur))
        photographs = experiment.photographs(data or [], factor)
        with progress() as bar:
            say = bar.saying("superres", len(experiment.photograph_files(data or [])))
            found = experiment.study(
                chosen.loaded, photographs, source, noise=noise, device=where, say=say
            )
        settings = {
            **_machine(where),
            "data": [path.name for path in data or []] or ["grace_hopper.jpg of matplotlib"],
            "factor": factor,
            "kernel": source.kernel,
            "border": source.border,
            "noise": noise,
            "margin": found.margin,
        }
        result = experiment.write_study(output, found, settings, chosen.seen(data))
        console.document((output / "superres.md").read_text())
    finish(output, result, as_json)


@app.command()
def detection(
    model: Annotated[
        str, typer.Option(help="Name or file of a calibrated model.")
    ] = "mol-lr-brain-4x",
    data: Annotated[
        list[Path] | None, typer.Option(help="Images like those of the calibration.")
    ] = None,
    others: Annotated[
        list[Path] | None, typer.Option(help="Images unlike those of the calibration.")
    ] = None,
    coils: Annotated[
        Path | None, typer.Option(help="Measured coil maps, as in the calibration.")
    ] = None,
    scans: Annotated[
        int, typer.Option(min=1, max=100_000, help="Number of scans of each kind.")
    ] = 20,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of the simulation.")] = 0,
    device: Device = "auto",
    output: Folder = Path("detection"),
    as_json: AsJson = False,
    overwrite: Overwrite = False,
) -> None:
    """Features and `in_range` of scans with artefacts, wrong maps, attacks and other images."""
    with failures():
        from equipoise.experiments import detection as experiment
        from equipoise.formats.sample_head import head_slice
        from equipoise.recon.device import pick_device
        from equipoise.training.calibrate import simulation_of
        from equipoise.training.sources.images import load_images
        from equipoise.zoo.model_file import load_model, provenance

        read = [*(data or []), *(others or []), *([] if coils is None else [coils])]
        check_results(output, experiment.FILES, overwrite, read, model)
        where = pick_device(device)
        source = simulation_of(provenance(model), coils)
        with progress() as bar:
            rows = experiment.study(
                load_model(model).to(where),
                load_images(data) if data else [head_slice()[0]],
                load_images(others) if others else [],
                source,
                scans=scans,
                seed=seed,
                say=bar.saying("detection", experiment.number_of_scans(scans, bool(others))),
            )
        settings = {
            **settings_of(data, source.acceleration, seed, where),
            "model": model,
            "others": [path.name for path in others or []],
        }
        result = experiment.write_study(output, rows, settings)
        console.document((output / "detection.md").read_text())
    finish(output, result, as_json)


def check_results(
    folder: Path,
    files: Sequence[str],
    overwrite: bool,
    data: list[Path] | None = None,
    models: str | None = None,
) -> None:
    """Refuse, before the work begins, to replace a result that exists or a file that is read."""
    from equipoise.formats.writers.target import check_files, check_new_folder, input_files

    named = [entry.strip().rpartition("=")[2] for entry in (models or "").split(",")]
    inputs = input_files(*(data or []), *(name for name in named if Path(name).is_file()))
    check_files([folder / name for name in files], overwrite=overwrite, inputs=inputs)
    check_new_folder(folder)


def _lams(text: str | None) -> list[str] | None:
    """The ways in which lam is chosen; None for the usual one of each method."""
    from equipoise.outcome import BadInputError

    if text is None:
        return None
    found = [word.strip() for word in text.split(",")]
    if len(set(found)) < len(found) or not set(found) <= {"rule", "auto"}:
        raise BadInputError(f"--lam is {text!r}: it must be rule, auto, or rule,auto")
    return found


def settings_of(
    data: list[Path] | None, acceleration: Any, seeds: int, device: "torch.device"
) -> dict[str, Any]:
    """What the numbers of an experiment depend on."""
    from equipoise.experiments.cases import NOISE

    return {
        **_machine(device),
        "data": [path.name for path in data or []] or ["head of matplotlib"],
        "acceleration": acceleration,
        "seeds": seeds,
        "simulated_noise": list(NOISE),
    }


def _machine(device: "torch.device") -> dict[str, Any]:
    import platform

    import torch

    from equipoise.version import __version__

    return {
        "version": __version__,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }


def finish(folder: Path, result: dict[str, Any], as_json: bool) -> None:
    """Say where the results are, and print them as JSON if asked for."""
    console.print(f"written: {folder}", markup=False)
    if as_json:
        print(json.dumps(result, allow_nan=False))
