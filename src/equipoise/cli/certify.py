"""``equipoise certify``: how far an image can be trusted."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from equipoise.cli.options import LARGEST_SEED, Device, ScanOptions, with_scan_options
from equipoise.cli.progress import progress
from equipoise.cli.report import check_report_target, command_line
from equipoise.cli.terminal import console, failures

if TYPE_CHECKING:
    from equipoise.certificate.record import Certificate, CertifiedSlice


SMALLEST_ATTACK = 1e-6
"""Smallest share of the data. One of 1e-9 lost a third of the movement, of 1e-300 all of it."""

SHOWN = (
    "distance_bound",
    "perturbation_bound",
    "noise_bound",
    "paper_bound",
    "contraction",
)


@with_scan_options
def certify(
    scan: Annotated[Path, typer.Argument(help="A scan of any known format.")],
    *,
    how: ScanOptions,
    noise: Annotated[
        float | None,
        typer.Option(
            min=0, help="Standard deviation of the noise in units of the scan [estimated]."
        ),
    ] = None,
    noise_map: Annotated[
        bool, typer.Option("--noise-map", help="Compute the noise of every pixel.")
    ] = False,
    probes: Annotated[
        int | None,
        typer.Option(
            min=2, max=10_000, help="Number of probes of the noise map [16; 2 with --quick]."
        ),
    ] = None,
    worst_case: Annotated[
        float | None, typer.Option(help="Attack the data with ||d|| = EPS ||b||.", metavar="EPS")
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=0, max=10_000, help="Number of ascent steps of the attack [2; 0 with --quick]."
        ),
    ] = None,
    starts: Annotated[
        int,
        typer.Option(
            min=1, max=1000, help="Number of starts of the attack; all but the first are random."
        ),
    ] = 1,
    probe_seed: Annotated[
        int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of probes and attacks.")
    ] = 0,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="A first look in a fifth of the time; lam follows the rule unless --lam is given.",
        ),
    ] = False,
    device: Device = "auto",
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Folder for the results [SCAN_certificate]."),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write the results as a .html page.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace results that exist.")] = False,
) -> None:
    """Certify how far the image of each slice can be trusted, and on which evidence."""
    if worst_case is not None and not SMALLEST_ATTACK <= worst_case < 1:
        raise typer.BadParameter(
            f"--worst-case is {worst_case}: it must be at least {SMALLEST_ATTACK:g}, because "
            "single precision loses smaller changes of the image, and below 1"
        )
    if probes is not None and not noise_map:
        raise typer.BadParameter("--probes belongs to --noise-map")
    folder = output or Path(f"{scan.name.split('.')[0]}_certificate")
    with failures():
        from equipoise.certificate.certify import certify_slice
        from equipoise.certificate.effort import QUICK, Effort
        from equipoise.formats.replacing import make_folder
        from equipoise.formats.writers.target import check_files, check_new_folder, input_files
        from equipoise.methods.method import PLANE
        from equipoise.recon.device import on_device, pick_device
        from equipoise.recon.experiment import load_experiment
        from equipoise.recon.memory import Certified, fit_memory, memory_text
        from equipoise.recon.problems import problems
        from equipoise.recon.stack import kind_of
        from equipoise.zoo.find import chosen_model
        from equipoise.zoo.model_file import load_model

        model = chosen_model(how.model, real=False)
        inputs = input_files(scan, how.csm, how.mask, model if Path(model).is_file() else None)
        # Before the work: a refusal after minutes of solving would lose the results.
        check_files([folder / name for name in WRITTEN], overwrite=overwrite, inputs=inputs)
        check_new_folder(folder)
        check_report_target(report, overwrite, inputs)
        where = pick_device(device)
        network = load_model(model).to(where)
        experiment = load_experiment(
            scan,
            csm=how.csm,
            mask=how.mask,
            acceleration=how.acceleration,
            seed=how.seed,
            axes=network.axes,
        )
        # Weights by prediction alone cost as much as the rest of a quick certificate.
        lam = "rule" if quick and how.lam is None else how.lam
        # As for a reconstruction: a volume must be tiled or refused, not killed by the system.
        certificate: Certified = "plain" if worst_case is None else "attack"
        plan = fit_memory(experiment.acquisition, network, lam, certificate)
        if len(network.axes) > len(PLANE):
            console.print(memory_text(plan.needed), style="dim")
        tile = plan.tile
        if tile is not None:
            note = f"note: memory is short: H is evaluated in tiles of {tile}"
            console.print(note, style="yellow", markup=False)
        rtol = network.options.rtol if how.rtol is None else how.rtol
        usual = how.rtol is None and tile is None
        make_folder(folder)
        results = _Results(folder, str(scan), model)
        settings: dict[str, Any] = {
            "lam": lam,
            "options": None if usual else replace(network.options, rtol=rtol, tile=tile),
            "noise_map": noise_map,
            "noise_probes": probes,
            "epsilon": worst_case,
            "attack_steps": steps,
            "attack_starts": starts,
            "seed": probe_seed,
            "effort": QUICK if quick else Effort(),
        }
        stages = 2 + 2 * (network.m is not None)
        with progress() as bar:
            for problem in problems(experiment.acquisition, network.axes):
                problem = on_device(_at_noise(problem, noise), where)
                of_slice = bar.stages(f"{kind_of(network.axes)} {problem.index}", stages)
                certified = certify_slice(
                    problem,
                    network,
                    index=problem.index,
                    on_stage=results.with_slice,
                    tell=of_slice,
                    **settings,
                )
                results.with_slice(certified)
                bar.finish()
                _print(certified.certificate)
        if report is not None:
            from equipoise.report.content import of_certificates
            from equipoise.report.page import write_report

            found = results.slices
            write_report(report, of_certificates(found, experiment, model, command_line()))
    console.print(f"written: {folder}", markup=False)
    if as_json:
        print(results.content)


def _at_noise(problem: Any, noise: float | None) -> Any:
    """The problem at the noise level that was given in units of the scan, if one was."""
    import torch

    if noise is None:
        return problem
    # The option is in units of the scan, and the problem is divided by its unit.
    level = torch.full_like(problem.noise_level, noise / problem.unit)
    return replace(problem, noise_level=level)


CERTIFICATE, MAPS, PICTURE = "certificate.json", "maps.h5", "certificate.png"
WRITTEN = (CERTIFICATE, MAPS, PICTURE)


class _Results:
    """What is complete, on disk after each stage: whoever ends the program keeps that."""

    def __init__(self, folder: Path, scan: str, model: str) -> None:
        self.folder, self.scan, self.model = folder, scan, model
        self.slices: list[CertifiedSlice] = []
        self.content = ""

    def with_slice(self, found: "CertifiedSlice") -> None:
        """``certificate.json``, ``maps.h5`` and ``certificate.png`` with a slice as it is now."""
        from equipoise.formats.replacing import replacing
        from equipoise.recon.device import CPU, on_device
        from equipoise.report.certificate_file import certificate_json, write_maps
        from equipoise.report.figures import certificate_figure

        found = on_device(found, CPU)
        index = found.certificate.index
        others = [one for one in self.slices if one.certificate.index != index]
        self.slices = [*others, found]
        certificates = [one.certificate for one in self.slices]
        self.content = certificate_json(certificates, self.scan, self.model)
        write_maps(self.folder / MAPS, self.slices)
        # It shows the first slice, which later ones do not change.
        if not others:
            certificate_figure(self.folder / PICTURE, found)
        with replacing(self.folder / CERTIFICATE) as temporary:
            temporary.write_text(self.content)


def _print(c: "Certificate") -> None:
    """Print the certificate of a slice in a form that takes a minute to read."""
    from equipoise.recon.stack import kind_of
    from equipoise.report.tables import bound_text

    console.print(
        f"{kind_of(tuple(c.axes))} {c.index}: {c.outcome}, {c.model}, {_weights(c)}", style="bold"
    )
    if c.choice.basis == "prediction":
        console.print(
            f"  lam was chosen from the data: {c.choice.reason} ({c.choice.evaluations} network "
            "evaluations); bounds on a change of the data hold for this lam held fixed"
        )
    if c.choice.fell_back:
        console.print(f"  lam was not chosen by prediction: {c.choice.reason}")
    for name in SHOWN:
        statement = c.statements[name]
        value = "-" if statement.value is None else f"{statement.value:.3g}"
        label = name.replace("_", " ")
        console.print(f"  {label:19} {value:>9}  {statement.evidence}: {statement.meaning}")
    if c.lipschitz_lower is not None and c.m_local is not None and c.lipschitz_upper is not None:
        console.print(
            f"  H: lipschitz_lower {c.lipschitz_lower:.3f} (measured), lipschitz_upper "
            f"{c.lipschitz_upper:.3g} (proved), m_local {min(c.m_local):.3f} (measured by Lanczos "
            f"steps, an eigenvalue within {max(c.m_local_accuracy or [0.0]):.1g})"
        )
    # Printed again in colour, because it is easily missed among the statements.
    if c.m_evidence == "refuted":
        console.print("  m is REFUTED at this image: nothing is promised", style="bold yellow")
    if c.noise_response is not None:
        console.print(
            f"  noise of this scan moves the image by {c.noise_response.mean:.2%} ± "
            f"{c.noise_response.error:.2%} of its norm (measured, {c.noise_response.probes} probes "
            f"of the linearised response{_through(c)}, about "
            f"{c.noise_response.missing:.0%} of each missing)"
        )
    if c.noise is not None:
        console.print(
            f"  noise map: median {c.noise.median:.3g} ± {c.noise.median_error:.1g} (measured, "
            f"{c.noise.probes} probes, standard deviation of the complex image; about "
            f"{c.noise.missing:.0%} missing from the linear solves)"
        )
    if c.measured_amplification is not None:
        console.print(
            f"  attack: moves the image by {c.measured_amplification:.3g}{_error(c)} times the "
            f"norm of the attack (measured), random noise of that norm by "
            f"{c.random_amplification:.3g} times"
        )
    if c.in_range is None:
        console.print(f"  in range: not known ({_why_unknown(c)})")
    elif c.deviations is not None:
        size, worst = max((d or 0.0, key) for key, d in c.deviations.items())
        verdict = "like" if c.in_range else "UNLIKE"
        console.print(
            f"  the scan is {verdict} those of the validation (false alarms: "
            f"{c.false_alarm_rate:.0%}); largest deviation: {worst}, {size:.1f} spreads",
            style="" if c.in_range else "bold yellow",
        )
    if c.psnr_bound is not None:
        console.print(f"  {bound_text(c.psnr_bound)}", markup=False)
    parts = ", ".join(f"{name} {stage.evaluations}" for name, stage in c.stages.items())
    console.print(f"  network evaluations: {c.evaluations} ({parts})", style="dim")


def _why_unknown(c: "Certificate") -> str:
    if c.deviations is not None and c.choice.setting == "rule":
        return "lam follows the rule, as with --quick, and the calibration is for --lam auto"
    return "no calibration, or --lam or --rtol was given"


def _weights(c: "Certificate") -> str:
    threshold = "" if c.threshold is None else f", thresholds {c.threshold:.3g}"
    return f"lam {c.lam:.3g} ({c.lam_source}){threshold}"


def _through(c: "Certificate") -> str:
    """What else of the data moves the image, if F was read off them."""
    if c.second_pass_bound is None:
        return ""
    return " and of the still image" if "time" in c.axes else " through both passes"


def _error(c: "Certificate") -> str:
    """What the distance bounds of both images leave open."""
    error = None if c.attack is None else c.attack.error
    return "" if error is None else f" (± {error:.2g} by both distance bounds)"
