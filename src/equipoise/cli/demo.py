"""``equipoise demo``."""

from pathlib import Path
from typing import Annotated

import typer

from equipoise.cli.recon import announce, run_recon
from equipoise.cli.terminal import console, failures


def demo(
    folder: Annotated[Path, typer.Option("-o", "--output", help="folder for the results")] = Path(
        "demo"
    ),
) -> None:
    """Simulate a scan of a real head, reconstruct it, and show the result."""
    with failures():
        from equipoise.formats.replacing import make_folder
        from equipoise.recon.demo import simulate_scan, zero_filled
        from equipoise.recon.experiment import load_experiment
        from equipoise.recon.result_file import save
        from equipoise.report.figures import comparison_figure
        from equipoise.zoo.find import DEFAULT_MODEL
        from equipoise.zoo.model_file import load_model

        make_folder(folder)
        scan = folder / "scan.h5"
        simulate_scan(scan)
        result = run_recon(load_experiment(scan), load_model(), None, None)
        image = folder / "reconstruction.h5"
        save(image, result, str(scan), DEFAULT_MODEL, overwrite=True)
        picture = folder / "demo.png"
        assert result.csm is not None
        maps = result.csm
        title = "T1w head, 8 simulated coils, 4-fold, noise 2 %"
        comparison_figure(picture, result, zero_filled(scan, maps), title)
    announce(result, image, False, scan, DEFAULT_MODEL)
    console.print(f"picture: {picture}", markup=False)
