"""``--report``: the page of the results of ``recon`` and ``certify``."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from equipoise.formats.writers.target import Inputs
    from equipoise.recon.reconstruct_file import FileReconstruction


def check_report_target(
    report: Path | None, overwrite: bool, inputs: "Inputs | None" = None
) -> None:
    """Refuse a page that cannot be written, before the work begins."""
    if report is None:
        return
    from equipoise.formats.writers.target import check_target

    check_target(report, overwrite=overwrite, suffixes=(".html",), inputs=inputs)


def write_recon_report(path: Path, done: "FileReconstruction") -> None:
    """Write the page of a reconstructed scan."""
    from equipoise.report.content import of_reconstruction
    from equipoise.report.page import write_report

    page = of_reconstruction(
        done.result,
        done.prepared.experiment,
        done.settings.model,
        done.method,
        command_line(),
    )
    write_report(path, page)


def command_line() -> str:
    """The command line, quoted so that it can be typed again."""
    import shlex
    import sys

    return shlex.join(["equipoise", *sys.argv[1:]])
