"""``equipoise certify`` and ``equipoise calibrate``: how far an image can be trusted."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from equipoise.cli.options import (
    Acceleration,
    Lam,
    Maps,
    MaskFile,
    Model,
    Rtol,
    Seed,
    check_scan_options,
    parse_lam,
)
from equipoise.cli.report import check_report_target, command_line
from equipoise.cli.terminal import console, failures

if TYPE_CHECKING:
    from equipoise.certificate.certify import Certificate, CertifiedSlice


SHOWN = (
    "distance_bound",
    "perturbation_bound",
    "noise_bound",
    "paper_bound",
    "contraction",
)


def certify(
    scan: Annotated[Path, typer.Argument(help="A scan of any known format.")],
    model: Model = "mol-ridge-universal",
    csm: Maps = None,
    mask: MaskFile = None,
    acceleration: Acceleration = None,
    seed: Seed = None,
    lam: Lam = None,
    rtol: Rtol = None,
    noise: Annotated[
        float | None,
        typer.Option(
            min=0, help="Standard deviation of the noise in units of the scan [estimated]."
        ),
    ] = None,
    noise_map: Annotated[
        bool, typer.Option("--noise-map", help="Compute the noise of every pixel.")
    ] = False,
    probes: Annotated[int, typer.Option(min=2, help="Number of probes of the noise map.")] = 128,
    worst_case: Annotated[
        float | None, typer.Option(help="Attack the data with ||d|| = EPS ||b||.", metavar="EPS")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Number of ascent steps of the attack.")] = 10,
    starts: Annotated[int, typer.Option(min=1, help="Number of random starts of the attack.")] = 2,
    probe_seed: Annotated[int, typer.Option(min=0, help="Seed of probes and attacks.")] = 0,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Folder for the results [SCAN_certificate]."),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write the results as a .html page.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace results that exist.")] = False,
) -> None:
    """Certify how far the image of each slice can be trusted, and on which evidence."""
    weight = parse_lam(lam)
    check_scan_options(mask, acceleration, seed, rtol)
    if worst_case is not None and not 0 < worst_case < 1:
        raise typer.BadParameter(f"--worst-case is {worst_case}: it must lie between 0 and 1")
    folder = output or Path(f"{scan.name.split('.')[0]}_certificate")
    with failures():
        from dataclasses import replace

        import torch

        from equipoise.certificate.certify import certify_slice
        from equipoise.formats.replacing import make_folder
        from equipoise.formats.writers.target import check_files, input_files
        from equipoise.recon.experiment import load_experiment
        from equipoise.recon.problems import slice_problem
        from equipoise.zoo.find import chosen_model
        from equipoise.zoo.model_file import load_model

        model = chosen_model(model, real=False)
        inputs = input_files(scan, csm, mask, model if Path(model).is_file() else None)
        # Before the work: a refusal after minutes of solving would lose the results.
        check_files([folder / name for name in WRITTEN], overwrite=overwrite, inputs=inputs)
        check_report_target(report, overwrite, inputs)
        network = load_model(model)
        experiment = load_experiment(
            scan, csm=csm, mask=mask, acceleration=acceleration, seed=seed or 0
        )
        acquisition = experiment.acquisition
        make_folder(folder)
        found: list[CertifiedSlice] = []
        try:
            for index in range(len(acquisition.kspace)):
                with console.status(f"slice {index} of {len(acquisition.kspace)}"):
                    problem = slice_problem(acquisition, index)
                    # The option is in units of the scan, and the problem is divided by its unit.
                    if noise is not None:
                        level = torch.full_like(problem.noise_level, noise / problem.unit)
                        problem = replace(problem, noise_level=level)
                    certified = certify_slice(
                        problem,
                        network,
                        index=index,
                        lam=weight,
                        options=None if rtol is None else replace(network.options, rtol=rtol),
                        noise_probes=probes if noise_map else None,
                        epsilon=worst_case,
                        attack_steps=steps,
                        attack_starts=starts,
                        seed=probe_seed,
                    )
                _print(certified.certificate)
                found.append(certified)
        # If a slice fails, the certificates of the slices before it are kept.
        finally:
            if found:
                content = _write(folder, found, str(scan), model)
        if report is not None:
            from equipoise.report.content import of_certificates
            from equipoise.report.page import write_report

            write_report(report, of_certificates(found, experiment, model, command_line()))
    console.print(f"written: {folder}", markup=False)
    if as_json:
        print(content)


CERTIFICATE, MAPS, PICTURE = "certificate.json", "maps.h5", "certificate.png"
WRITTEN = (CERTIFICATE, MAPS, PICTURE)


def _print(c: "Certificate") -> None:
    """Print the certificate of a slice in a form that takes a minute to read."""
    console.print(f"slice {c.index}: {c.outcome}, {c.model}, {_weights(c)}", style="bold")
    if c.choice.basis == "prediction":
        console.print(
            f"  lam was chosen from the data: {c.choice.reason} ({c.choice.evaluations} network "
            "evaluations); bounds on a change of the data hold for this lam held fixed"
        )
    for name in SHOWN:
        statement = c.statements[name]
        value = "-" if statement.value is None else f"{statement.value:.3g}"
        label = name.replace("_", " ")
        console.print(f"  {label:19} {value:>9}  {statement.evidence}: {statement.meaning}")
    if c.lipschitz_lower is not None and c.m_local is not None and c.lipschitz_upper is not None:
        console.print(
            f"  H: lipschitz_lower {c.lipschitz_lower:.3f} (measured), lipschitz_upper "
            f"{c.lipschitz_upper:.3g} (proved), m_local {min(c.m_local):.3f} (measured)"
        )
    # Printed again in colour, because it is easily missed among the statements.
    if c.m_evidence == "refuted":
        console.print("  m is REFUTED at this image: nothing is promised", style="bold yellow")
    if c.noise_response is not None:
        console.print(
            f"  noise of this scan moves the image by {c.noise_response.mean:.2%} ± "
            f"{c.noise_response.error:.1g} of its norm (measured, {c.noise_response.probes} probes "
            "of the linearised response)"
        )
    if c.noise is not None:
        console.print(
            f"  noise map: median {c.noise.median:.3g} ± {c.noise.median_error:.1g} (measured, "
            f"{c.noise.probes} probes, standard deviation of the complex image)"
        )
    if c.measured_amplification is not None:
        console.print(
            f"  attack: moves the image by {c.measured_amplification:.3g} times the norm of the "
            f"attack (measured); random noise of that norm by {c.random_amplification:.3g} times"
        )
    if c.in_range is None:
        console.print("  in range: not known (no calibration, or --lam or --rtol was given)")
    elif c.deviations is not None:
        size, worst = max((d or 0.0, key) for key, d in c.deviations.items())
        verdict = "like" if c.in_range else "UNLIKE"
        console.print(
            f"  the scan is {verdict} those of the validation (false alarms: "
            f"{c.false_alarm_rate:.0%}); largest deviation: {worst}, {size:.1f} spreads",
            style="" if c.in_range else "bold yellow",
        )


def _weights(c: "Certificate") -> str:
    threshold = "" if c.threshold is None else f", thresholds {c.threshold:.3g}"
    return f"lam {c.lam:.3g} ({c.lam_source}){threshold}"


def _write(folder: Path, found: "list[CertifiedSlice]", scan: str, model: str) -> str:
    """Write ``certificate.json``, ``maps.h5`` and ``certificate.png``; return the JSON."""
    from equipoise.report.certificate_file import certificate_json, write_maps
    from equipoise.report.figures import certificate_figure

    content = certificate_json([f.certificate for f in found], scan, model)
    write_maps(folder / MAPS, found)
    certificate_figure(folder / PICTURE, found[0])
    from equipoise.formats.replacing import replacing

    with replacing(folder / CERTIFICATE) as temporary:
        temporary.write_text(content)
    return content


def calibrate(
    model: Annotated[Path, typer.Argument(help="The model file to calibrate.")],
    data: Annotated[list[Path], typer.Option(help="File or folder of validation images.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Model file to write, .safetensors.")
    ],
    coils: Annotated[
        Path | None, typer.Option(help="Measured coil maps, if training used them.")
    ] = None,
    rate: Annotated[
        float, typer.Option(min=0, max=1, help="Rate of false alarms on scans like these.")
    ] = 0.05,
    scans: Annotated[int, typer.Option(min=4, help="Number of simulated scans.")] = 120,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the simulation.")] = 0,
    overwrite: Annotated[bool, typer.Option(help="Replace a model that exists.")] = False,
) -> None:
    """Measure what is usual on validation data, so that `in_range` can be computed."""
    with failures():
        from equipoise.formats.writers.target import MODELS, check_target, input_files
        from equipoise.training.calibrate import calibrate_model, simulation_of
        from equipoise.training.sources.images import load_images
        from equipoise.zoo.model_file import load_model, provenance, save_model

        inputs = input_files(model, coils, *data)
        check_target(output, overwrite=overwrite, suffixes=MODELS, inputs=inputs)
        network, origin = load_model(model), provenance(model)
        source = simulation_of(origin, coils)
        with console.status(f"{scans} simulated scans"):
            network.calibration = calibrate_model(
                network, load_images(data), source, scans=scans, rate=rate, seed=seed
            )
        origin["calibration"] = {"data": [p.name for p in data], "scans": scans, "seed": seed}
        save_model(output, network, origin)
    console.print(f"written: {output}", markup=False)
