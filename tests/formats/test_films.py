"""Films of series and volumes, and the time between the frames of ISMRMRD scans."""

import json
import sys

import numpy as np
import pytest
from PIL import Image, ImageSequence

import layouts
from equipoise.formats import read
from equipoise.formats.header import Header
from equipoise.formats.writers.film import pictures
from equipoise.formats.writers.target import check_target
from equipoise.formats.writers.write import write_image
from equipoise.outcome import BadInputError


def series(frames=4, slices=1, y=6, x=7, frame_ms=43.0):
    """Images whose brightness grows over time, and their header; the slices come first."""
    labels = [{"slice": s, "phase": t} for s in range(slices) for t in range(frames)]
    image = np.zeros((len(labels), y, x), np.complex64)
    for i, label in enumerate(labels):
        image[i, 1:3, 2 + label["slice"] % 2] = 1j * (label["phase"] + 1)
    return image, Header(labels=labels, frame_ms=frame_ms)


def played(path):
    """The frames of a GIF and their times in ms."""
    with Image.open(path) as file:
        found = [
            (np.array(f.convert("L")), f.info["duration"]) for f in ImageSequence.Iterator(file)
        ]
    return [f for f, _ in found], [t for _, t in found]


class TestFilm:
    def test_a_gif_shows_the_magnitudes_at_the_speed_of_the_scan(self, tmp_path):
        image, header = series()
        write_image(tmp_path / "a.gif", {"image": image, "header": header})
        frames, times = played(tmp_path / "a.gif")
        expected = np.rint(np.abs(image) / 4 * 255)
        assert np.array_equal(frames, expected)
        # Hundredths of a second, whose sum is that of the series.
        assert sum(times) == pytest.approx(4 * 43, abs=5)
        assert set(times) <= {40, 50}

    def test_slices_of_a_series_lie_side_by_side(self):
        image, header = series(slices=2)
        frames, time = pictures(image, header)
        assert frames.shape == (4, 6, 14)
        assert time == 43.0
        assert frames[3, 1, 2] == 255 == frames[3, 1, 7 + 3]
        # More slices begin a new row.
        assert pictures(*series(slices=9))[0].shape == (4, 12, 56)

    def test_a_volume_runs_through_its_slices(self, tmp_path):
        image = np.arange(1.0, 6.0)[:, None, None] * np.ones((5, 4, 4))
        header = Header(labels=[{"slice": s} for s in range(5)])
        write_image(tmp_path / "a.gif", {"image": image, "header": header})
        frames, times = played(tmp_path / "a.gif")
        assert [int(f[0, 0]) for f in frames] == [51, 102, 153, 204, 255]
        assert times == [100] * 5

    def test_an_image_of_zeros_or_a_single_one_is_a_film_too(self, tmp_path):
        write_image(tmp_path / "a.gif", {"image": np.zeros((1, 4, 4))})
        assert [f.max() for f in played(tmp_path / "a.gif")[0]] == [0]

    def test_it_replaces_nothing_and_says_what_it_was_made_from(self, tmp_path):
        image, header = series()
        content = {"image": image, "header": header, "attributes": {"fingerprint": "f" * 64}}
        write_image(tmp_path / "a.gif", content)
        assert json.loads((tmp_path / "a.gif.json").read_text())["fingerprint"] == "f" * 64
        with pytest.raises(BadInputError, match=r"a\.gif exists"):
            write_image(tmp_path / "a.gif", content)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a.gif", "a.gif.json"]

    @pytest.mark.parametrize(
        ("suffix", "module", "extra"),
        [
            (".mp4", "imageio_ffmpeg", "film"),
            (".dcm", "pydicom", "dicom"),
            (".mrd", "ismrmrd", "mrd"),
        ],
    )
    def test_a_format_without_its_library_is_refused_before_the_work_begins(
        self, suffix, module, extra, tmp_path, monkeypatch
    ):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(BadInputError, match=rf"pip install 'equipoise\[{extra}\]'"):
            check_target(tmp_path / f"a{suffix}", overwrite=False)

    def test_an_mp4_has_all_frames_and_the_time_of_the_series(self, tmp_path):
        ffmpeg = pytest.importorskip("imageio_ffmpeg")
        image, header = series(frames=5, y=33, x=47)
        write_image(tmp_path / "a.mp4", {"image": image, "header": header})
        count, seconds = ffmpeg.count_frames_and_secs(str(tmp_path / "a.mp4"))
        assert count == 5
        assert seconds == pytest.approx(5 * 0.043, abs=0.02)


def write_cine(path, xml_times="", stamps=None, frames=3, lines=8, segment=4):
    """Phases of a heartbeat, measured in segments of some lines of each."""
    n = lines
    spaces = ((n, n, 1), (200.0, 200.0, 8.0))
    limits = {"kspace_encoding_step_1": (n - 1, n // 2), "phase": (frames - 1, 0)}
    xml = layouts.header_xml(spaces, spaces, limits, vendor="GE")
    xml = xml if isinstance(xml, str) else xml.decode()
    xml = xml.replace("</ismrmrdHeader>", f"{xml_times}</ismrmrdHeader>")
    rng, made = np.random.default_rng(0), []
    for beat in range(lines // segment):
        for phase in range(frames):
            for line in range(beat * segment, (beat + 1) * segment):
                samples = rng.standard_normal((2, n)) + 1j * rng.standard_normal((2, n))
                own = {} if stamps is None else stamps(beat, phase, line)
                made.append(layouts.readout(samples, line, phase=phase, **own))
    layouts.write_acquisitions(path, xml, made)
    return read(path)


def times(repetition):
    return f"<sequenceParameters><TR>{repetition}</TR></sequenceParameters>"


class TestFrameTime:
    def test_it_is_that_of_the_time_stamps(self, tmp_path):
        def stamps(beat, phase, line):
            return {"acquisition_time_stamp": 40_000 + 400 * beat + 17 * phase + line % 4}

        scan = write_cine(tmp_path / "a.mrd", times(500.0), stamps)
        assert scan.header.frame_ms == pytest.approx(17 * 2.5)
        assert any("42.5 ms apart: time stamps" in note for note in scan.notes)
        write_image(tmp_path / "a.nii", {"image": np.ones((3, 8, 8)), "header": scan.header})
        import nibabel

        assert nibabel.load(tmp_path / "a.nii").header["pixdim"][4] == pytest.approx(0.0425)

    def test_without_stamps_it_is_the_repetition_time_of_the_lines_of_a_segment(self, tmp_path):
        scan = write_cine(tmp_path / "a.mrd", times(5.0))
        assert scan.header.frame_ms == pytest.approx(20.0)
        assert any("TR 5 ms times 4 readouts" in note for note in scan.notes)

    def test_nothing_is_said_where_nothing_is_known(self, tmp_path):
        assert write_cine(tmp_path / "a.mrd").header.frame_ms is None
        # Stamps that run backwards, and a TR that no heartbeat has room for.
        scan = write_cine(
            tmp_path / "b.mrd",
            times(800.0),
            lambda beat, phase, line: {"acquisition_time_stamp": 40_000 - 17 * phase},
        )
        assert scan.header.frame_ms is None
        assert any("the time between frames is not known" in note for note in scan.notes)
