"""``equipoise demo``."""

from pathlib import Path
from typing import Annotated

import typer

from equipoise.cli.recon import announce, recon_one
from equipoise.cli.terminal import console, failures

SCAN, IMAGE, PICTURE = "scan.h5", "reconstruction.h5", "demo.png"


def demo(
    folder: Annotated[Path, typer.Option("-o", "--output", help="Folder for the results.")] = Path(
        "demo"
    ),
    overwrite: Annotated[bool, typer.Option(help="Replace results that exist.")] = False,
) -> None:
    """Simulate a scan of a real head, reconstruct it, and show the result."""
    scan, image, picture = (folder / name for name in (SCAN, IMAGE, PICTURE))
    with failures():
        from equipoise.formats.replacing import make_folder
        from equipoise.formats.writers.target import check_files, check_new_folder
        from equipoise.recon.demo import simulate_scan, zero_filled
        from equipoise.recon.settings import ReconSettings
        from equipoise.report.figures import comparison_figure

        check_files((scan, image, picture), overwrite=overwrite)
        check_new_folder(folder)
        make_folder(folder)
        simulate_scan(scan)
        done = recon_one(scan, ReconSettings(), image, overwrite=overwrite)
        assert done.result.csm is not None
        title = "T1w head, 8 simulated coils, 4-fold, noise 2 %"
        comparison_figure(picture, done.result, zero_filled(scan, done.result.csm), title)
    announce(done, as_json=False)
    console.print(f"picture: {picture}", markup=False)
