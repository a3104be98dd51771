"""``equipoise serve``: the server of the ISMRMRD streaming protocol."""

import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from equipoise.cli.options import Device, Lam, parse_lam
from equipoise.cli.terminal import cleaned, console, failures

if TYPE_CHECKING:
    from equipoise.scanner.configuration import Pixels

GIGABYTE = 10**9


def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 is every network.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 is any free one.")] = 9002,
    model: Annotated[str, typer.Option(help="Model, method or model file.")] = (
        "mol-guided-universal"
    ),
    lam: Lam = None,
    images: Annotated[
        str, typer.Option(metavar="complex|magnitude|int16", help="Pixels of the images.")
    ] = "complex",
    device: Device = "auto",
    max_sessions: Annotated[
        int, typer.Option(min=1, max=1000, help="Sessions at the same time.")
    ] = 4,
    max_memory: Annotated[
        float | None,
        typer.Option(max=1e6, help="Memory of all sessions in GB [half of what is free]."),
    ] = None,
    timeout: Annotated[
        float, typer.Option(max=1e6, help="Longest wait for a message, in seconds.")
    ] = 300.0,
    longest: Annotated[float, typer.Option(max=1e6, help="Longest session, in seconds.")] = 14400.0,
    save_dir: Annotated[
        Path | None, typer.Option(help="Folder for the readouts of each session.")
    ] = None,
    openrecon_label: Annotated[
        Path | None,
        typer.Option(
            help="Write the label of an OpenRecon container with these settings, and end."
        ),
    ] = None,
    log_json: Annotated[bool, typer.Option("--log-json", help="Log JSON objects.")] = False,
) -> None:
    """Reconstruct scans that a scanner sends (ISMRMRD streaming protocol)."""
    with failures():
        from equipoise.recon.device import pick_device
        from equipoise.scanner.configuration import PIXELS, Configuration
        from equipoise.scanner.server import Server, ServeSettings
        from equipoise.zoo.find import chosen_model

        if images not in PIXELS:
            raise typer.BadParameter(f"--images is {images!r}: expected {', '.join(PIXELS)}")
        memory = None if max_memory is None else int(max_memory * GIGABYTE)
        settings = ServeSettings(host, port, max_sessions, memory, timeout, longest, save_dir)
        usual = Configuration(
            chosen_model(model, real=False), lam=parse_lam(lam), images=cast("Pixels", images)
        )
        if openrecon_label is not None:
            from equipoise.scanner.models import Models
            from equipoise.scanner.openrecon import label_of, write_label

            # A label that names a model without use would fail only at the scanner.
            Models(usual.model, pick_device("cpu")).get(usual.model)
            write_label(openrecon_label, label_of(usual, port, gpu=device.startswith("cuda")))
            console.print(f"written: {openrecon_label}", markup=False, soft_wrap=True)
            return
        server = Server(settings, usual, pick_device(device))
        log_to_console(log_json)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: server.stop())
        server.run()
    if server.busy:
        # A thread in the middle of a solve would delay the end of the interpreter.
        sys.stderr.flush()
        os._exit(0)


def log_to_console(as_json: bool) -> None:
    """Write the log of the server to standard error, one line for each record."""
    from equipoise.scanner.server import JsonLines

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if as_json else _Lines("%(asctime)s %(message)s"))
    log = logging.getLogger("equipoise.scanner")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


class _Lines(logging.Formatter):
    """Lines of text without control characters, because clients choose part of them."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        return cleaned(super().format(record))
