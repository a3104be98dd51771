"""``equipoise send``: a scan to a server of the ISMRMRD streaming protocol, and its images back."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from equipoise.cli.batch import SOME_FAILED
from equipoise.cli.terminal import console, failures

if TYPE_CHECKING:
    from equipoise.scanner.client import Returned


def send(
    scan: Annotated[Path, typer.Argument(help="A scan of any known format.")],
    host: Annotated[str, typer.Option(help="Address of the server.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of the server.")] = 9002,
    config: Annotated[
        str, typer.Option(help="What is made: recon, sense, nullrecon, +certificate, +noisemap.")
    ] = "recon",
    parameter: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="lam, model, acceleration, images, ..."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="File (.h5, .nii.gz, .dcm, .mrd, .cfl, .npy, .png, .gif) [SCAN_sent.h5].",
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.1, max=1e6, help="Longest wait, in seconds.")
    ] = 300.0,
    overwrite: Annotated[bool, typer.Option(help="Replace an output that exists.")] = False,
) -> None:
    """Send a scan to `equipoise serve` or another server, and write the images that come back."""
    target = output or Path(f"{scan.name.split('.')[0]}_sent.h5")
    with failures():
        from equipoise.formats.writers.target import check_target, input_files
        from equipoise.formats.writers.write import write_image
        from equipoise.scanner.client import send as send_scan

        inputs = input_files(scan)
        check_target(target, overwrite=overwrite, inputs=inputs)
        noise = _beside(target, "_noise")
        if "noisemap" in config:
            check_target(noise, overwrite=overwrite, inputs=inputs)
        found = send_scan(
            scan,
            host,
            port,
            config=config,
            parameters=_as_json(parameter or []),
            timeout=timeout,
            on_text=lambda text: console.print(text, style="dim", markup=False),
        )
        content = {"image": found.image, "header": found.header}
        attributes = {"scan": str(scan), **_summary(found)}
        write_image(target, {**content, "attributes": attributes}, overwrite=overwrite)
        console.print(f"written: {target}", markup=False, soft_wrap=True)
        if found.noise is not None:
            content["image"] = found.noise
            write_image(noise, {**content, "attributes": attributes}, overwrite=overwrite)
            console.print(f"written: {noise}", markup=False, soft_wrap=True)
    # Some images were not made, and a script must notice.
    if found.failures:
        raise typer.Exit(SOME_FAILED)


def _beside(target: Path, word: str) -> Path:
    """The name of a file that belongs to the target: a word before all suffixes."""
    stem, *suffixes = target.name.split(".")
    return target.with_name(".".join([stem + word, *suffixes]))


def _as_json(parameters: list[str]) -> str | None:
    """OpenRecon's text of the parameters; None without any."""
    if not parameters:
        return None
    pairs = [one.partition("=") for one in parameters]
    wrong = [name for name, equals, _ in pairs if not equals]
    if wrong:
        raise typer.BadParameter(f"--parameter {wrong[0]}: expected NAME=VALUE")
    return json.dumps({"parameters": {name: value for name, _, value in pairs}})


def _summary(found: "Returned") -> dict[str, Any]:
    """The attributes of all images in one: those that are equal, and the largest bound."""
    names = {
        "EquipoiseModel": "model",
        "EquipoiseModelChecksum": "model_checksum",
        "EquipoiseVersion": "equipoise_version",
        "EquipoiseOutcome": "outcome",
        "EquipoiseInRange": "in_range",
    }
    made: dict[str, Any] = {}
    for theirs, ours in names.items():
        values = list(dict.fromkeys(str(one[theirs]) for one in found.attributes if theirs in one))
        if values:
            made[ours] = ", ".join(values)
    bounds = [one.get("EquipoiseDistanceBound") for one in found.attributes]
    if all(bound is not None for bound in bounds):
        made["distance_bound"] = max(float(bound) for bound in bounds if bound is not None)
    certificates = [one["EquipoiseCertificate"] for one in found.attributes
                    if "EquipoiseCertificate" in one]  # fmt: skip
    if certificates:
        made["certificates"] = f"[{','.join(certificates)}]"
    return made
