"""The HTML report: complete, self-contained, and working in a real browser."""

import html
import json
import math
import re
import shutil
import subprocess

import numpy as np
import pytest
from typer.testing import CliRunner

from equipoise.cli.app import app
from equipoise.report.page import Report, ReportSlice, render, write_report

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
LARGEST = 5_000_000


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def many_slices(count, height=256, width=None):
    """Noisy images, which compress badly."""
    rng = np.random.default_rng(0)
    shape = (height, width or height)
    y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    head = (y**2 + x**2 < 0.7) * (1 + 0.3 * np.sin(20 * x * y))
    slices = []
    for index in range(count):
        noisy = head + 0.03 * rng.standard_normal((3, *shape))
        slices.append(
            ReportSlice(
                index=index,
                image=noisy[0],
                sense=noisy[1],
                sense_label="SENSE",
                csm=np.stack([np.exp(-((y - a) ** 2) - x**2) for a in np.linspace(-1, 1, 8)]),
                mask=rng.random(shape) > 0.75,
                history=np.logspace([0, 1], [-5, -3], 9),
                facts=[("outcome", "converged"), ("m", "0.02 (measured)"), ("note", f"<{index}>")],
                target=noisy[2],
                noise=np.abs(noisy[0]),
            )
        )
    measured = "8 receiver coils, 4-fold undersampled"
    return Report("scan.h5", "a-model", "mol-lr", "equipoise recon", measured, slices, maps="given")


def test_curves_stay_inside_their_frame():
    report = many_slices(1, 16)
    report.slices[0].history = np.logspace([-2, np.log10(0.5)], [-5, -3], 9)
    heights = re.findall(r'points="([^"]*)"', render(report))
    values = [float(pair.split(",")[1]) for points in heights for pair in points.split()]
    assert len(values) == 18
    assert all(0 <= value <= 240 for value in values)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, many_slices(3, 64))
    return path


def browse(*arguments):
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=900, check=True).stdout


@pytest.mark.parametrize("shape", [(256, 256), (640, 368)])
def test_twenty_slices_stay_small_and_load_nothing(shape):
    text = render(many_slices(20, *shape))
    assert len(text.encode()) < LARGEST
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', text)
    assert len(sources) == 20 * 8
    assert all(source.startswith("data:image/webp;base64,") for source in sources)
    assert not re.search(r"https?://", text)
    assert "&lt;19&gt;" in text  # what a file says is text and no markup


def test_recon_writes_one(full_scan, tmp_path):
    page = tmp_path / "r.html"
    options = ("--acceleration", 3, "--lam", "auto", "-o", tmp_path / "i.h5", "--report", page)
    done = run("recon", full_scan, *options, "--json")
    assert done.exit_code == 0, done.output
    text = html.unescape(page.read_text())
    for wanted in ("scan.h5", "PSNR, SSIM", "error of SENSE", "ESPIRiT", "Pramanik", "torch"):
        assert wanted in text, wanted
    assert "best predict those that are left out" in text
    # Residual and bound by iteration, and prediction errors: a line for each ratio of thresholds to
    # lam, that of lam and thresholds that move alike, and those of lam alone.
    trials = json.loads(done.stdout)["slices"][0]["choice"]["trials"]
    ratios = {round(math.log(t["weights"]["threshold"] / t["weights"]["lam"]), 4) for t in trials}
    assert len(trials) > len(ratios) > 1
    assert text.count("<polyline") == 2 + len(ratios)
    assert "at the chosen ratio of thresholds to lam" in text
    again = run("recon", full_scan, *options)
    assert again.exit_code == 1
    assert run("recon", full_scan, "-o", tmp_path / "j.h5", "--report", "r.txt").exit_code == 1


def test_certify_writes_one_with_its_statements(full_scan, tmp_path):
    page = tmp_path / "r.html"
    options = ("--acceleration", 3, "--noise-map", "--probes", 4, "-o", tmp_path / "c")
    done = run("certify", full_scan, *options, "--report", page)
    assert done.exit_code == 0, done.output
    text = html.unescape(page.read_text())
    for wanted in (
        "perturbation bound",
        "noise, standard deviation",
        "measured",
        "Certificate",
        "error of SENSE",
        "retrospectively",
        "seconds",
    ):
        assert wanted in text, wanted
    assert "SENSE at the same lam" in text


def test_many_scans_have_a_page_each_in_a_folder(full_scan, tmp_path):
    other = tmp_path / "other.h5"
    other.write_bytes(full_scan.read_bytes())
    how = ("--acceleration", 3, "--lam", "rule")
    command = ("recon", full_scan, other, *how, "-o", tmp_path / "d", "--report")
    assert run(*command, "r.html").exit_code == 2
    done = run(*command, tmp_path / "pages")
    assert done.exit_code == 0, done.output
    for name in ("scan", "other"):
        text = html.unescape((tmp_path / "pages" / f"{name}.html").read_text())
        assert f"{name}.h5" in text


@pytest.mark.skipif(not BROWSER, reason="no Chromium: apt install chromium")
class TestInABrowser:
    def test_the_slider_shows_one_slice(self, page):
        for position in (0, 2):
            text = browse("--dump-dom", f"file://{page}#slice={position}")
            shown = re.findall(r'<section class="slice" data-position="(\d)">', text)
            assert shown == [str(position)]
            assert f'<output id="number">{position + 1}</output>' in text

    def test_windowing_sets_the_filter(self, page):
        text = browse("--dump-dom", f"file://{page}")
        assert text.count('slope="1"') == 3
        assert text.count('intercept="0"') == 3

    def test_it_draws_and_prints_every_slice(self, page, tmp_path):
        picture, paper = tmp_path / "page.png", tmp_path / "page.pdf"
        browse(f"--screenshot={picture}", "--window-size=1200,900", f"file://{page}")
        from matplotlib.image import imread

        pixels = imread(picture)
        assert pixels.shape[:2] == (900, 1200)
        assert pixels[..., :3].std() > 0.05
        browse(f"--print-to-pdf={paper}", f"file://{page}")
        assert paper.read_bytes().count(b"/Subtype /Image") > 3 * 5
