"""A live server: its images are those of ``recon``, and nothing that a client does ends it."""

import json
import socket
import struct
from concurrent.futures import ThreadPoolExecutor

import h5py
import ismrmrd
import malformed
import numpy as np
import pytest
import traffic
from ismrmrd.serialization import ConfigFile, ProtocolDeserializer, ProtocolSerializer
from typer.testing import CliRunner

import layouts
from equipoise import ReconSettings, reconstruct_file
from equipoise.cli.app import app
from equipoise.formats.header import cut
from equipoise.outcome import BadInputError, InputWarning
from equipoise.scanner.client import send
from equipoise.scanner.saving import BLOCK
from equipoise.scanner.server import FINISHING, REFUSING

EQUAL = 1e-6
"""Largest difference, relative to the largest pixel."""


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """One server for the tests that do not end it."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "saved").mkdir()
    limits = ("--timeout", 20, "--max-memory", 0.4, "--save-dir", folder / "saved")
    found = traffic.Served(folder, *limits)
    found.saved = folder / "saved"
    yield found
    found.stop()


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def by_file(path, served, **settings):
    return reconstruct_file(path, ReconSettings(str(served.model), **settings))


def assert_equal(found, expected):
    expected = np.asarray(expected)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= EQUAL * np.abs(expected).max()


def noise_readouts(n_coils, count=4):
    rng = np.random.default_rng(5)
    for _ in range(count):
        values = rng.standard_normal((2, n_coils, 64)) * np.arange(1, n_coils + 1)[:, None]
        yield layouts.readout(0.01 * (values[0] + 1j * values[1]), 0, flags=[19])


def write_series(path, *, calibration=None):
    """Noise scan, two repetitions of two slices with every second line, and calibration lines."""
    kspace = layouts.multicoil(traffic.SHAPE, 2, 3, 0.01)[2]
    y, x = traffic.SHAPE
    spaces = ((x, y, 1), (2.0 * x, 2.0 * y, 4.0)), ((x, y, 1), (2.0 * x, 2.0 * y, 4.0))
    limits = {"kspace_encoding_step_1": (y - 1, y // 2)}
    xml = layouts.header_xml(*spaces, limits, mode=calibration)
    made = [*noise_readouts(3)]
    middle = range(y // 2 - 6, y // 2 + 6)
    for s in range(2) if calibration == "separate" else ():
        made += [layouts.readout(kspace[s, :, j], j, slice=s, flags=[20]) for j in middle]
    for repetition in range(2):
        for s in range(2):
            # Without calibration lines the frames alternate, and hold the centre together.
            start = 0 if calibration else repetition
            lines = sorted({*range(start, y, 2), *(middle if calibration == "embedded" else ())})
            for j in lines:
                flags = [8] if j == lines[-1] else []
                place = {"position": (1.0, 2.0, 5.0 * s), **layouts.OBLIQUE}
                more = {"slice": s, "repetition": repetition, **place}
                made.append(
                    layouts.readout(kspace[s, :, j] * (1 + repetition), j, flags=flags, **more)
                )
    layouts.write_acquisitions(path, xml, made)


class TestImages:
    def test_an_oblique_stack_comes_back_as_recon_makes_it(self, served, tmp_path):
        path = tmp_path / "scan.mrd"
        layouts.write_mrd(path, layouts.multicoil(noise=0.01)[2])
        expected = by_file(path, served)
        found = send(path, "127.0.0.1", served.port)
        assert_equal(found.image, expected.result.image)
        theirs, ours = expected.result.header.geometry, found.header.geometry
        np.testing.assert_allclose(ours.centres, theirs.centres, atol=1e-4)
        np.testing.assert_allclose(ours.spacing, theirs.spacing, rtol=1e-5)
        np.testing.assert_allclose(ours.directions(0), theirs.directions(0), atol=1e-6)
        assert found.header.labels == expected.result.header.labels
        assert found.failures == []
        for one, result in zip(found.attributes, expected.result.slices):
            assert one["EquipoiseOutcome"] == result.outcome == "converged"
            assert float(one["EquipoiseDistanceBound"]) == pytest.approx(
                result.distance_bound, 1e-4
            )
            assert one["EquipoiseInRange"] == "unknown"
            assert len(one["EquipoiseModelChecksum"]) == 64
            assert one["ImageProcessingHistory"] == ["EQUIPOISE", str(served.model)]

    @pytest.mark.parametrize("calibration", ["embedded", "separate", None])
    def test_a_series_with_a_noise_scan_comes_back_as_recon_makes_it(
        self, calibration, served, tmp_path
    ):
        path = tmp_path / "scan.mrd"
        write_series(path, calibration=calibration)
        expected = by_file(path, served).result
        found = send(path, "127.0.0.1", served.port)
        assert expected.header.noise_covariance is not None
        assert len(found.image) == 4
        assert_equal(found.image, expected.image)
        assert found.header.labels == expected.header.labels

    @pytest.mark.parametrize("layout", ["fastMRI", "BART", "Siemens twix"])
    def test_scans_of_other_formats_are_sent_too(self, layout, served, tmp_path):
        name, write = layouts.LAYOUTS[layout]
        path = tmp_path / name
        write(path, layouts.multicoil(noise=0.01)[2])
        expected = by_file(path, served).result
        found = send(path, "127.0.0.1", served.port)
        assert_equal(found.image, cut(expected.image.numpy(), expected.header.crop))

    def test_a_volume_comes_back_as_one_image(self, served, tmp_path):
        nz, (y, x) = 6, (20, 16)
        kspace = layouts.multicoil((y, x), 1, 3)[2][0]
        profile = np.hanning(nz + 2)[1:-1]
        space = ((x, y, nz), (2.0 * x, 2.0 * y, 3.0 * nz))
        limits = {
            "kspace_encoding_step_1": (y - 1, y // 2),
            "kspace_encoding_step_2": (nz - 1, nz // 2),
        }
        path = tmp_path / "scan.mrd"
        layouts.write_acquisitions(
            path,
            layouts.header_xml(space, space, limits),
            [
                layouts.readout(
                    profile[z] * kspace[:, j], j, kspace_encode_step_2=z, **layouts.OBLIQUE,
                    position=(1, 2, 3), flags=[8] if j == y - 1 else [],
                )
                for z in range(nz)
                for j in range(y)
            ],
        )  # fmt: skip
        expected = by_file(path, served).result.image  # one slice for each sample of the readout
        found = send(path, "127.0.0.1", served.port)
        assert_equal(found.image, expected.permute(1, 2, 0))
        middle = found.header.geometry.centres[nz // 2]
        np.testing.assert_allclose(middle, (1, 2, 3), atol=1e-5)

    def test_a_simulated_acceleration_is_that_of_recon(self, served, tmp_path):
        path = tmp_path / "scan.mrd"
        layouts.write_mrd(path, layouts.multicoil((32, 24), 1)[2])
        expected = by_file(path, served, acceleration=2.0, lam=3.0).result
        parameters = json.dumps({"parameters": {"acceleration": "2", "lam": 3}})
        found = send(path, "127.0.0.1", served.port, parameters=parameters)
        assert_equal(found.image, expected.image)

    def test_certificate_and_noise_map_come_with_the_image(self, served, tmp_path):
        path = tmp_path / "scan.mrd"
        layouts.write_mrd(path, layouts.multicoil((24, 20), 1, noise=0.02)[2])
        config = "recon+certificate+noisemap"
        found = send(path, "127.0.0.1", served.port, config=config)
        assert_equal(found.image, by_file(path, served).result.image)
        (certificate,) = json.loads(found.attributes[0]["EquipoiseCertificate"])
        assert certificate["slices"][0]["outcome"] == "converged"
        assert certificate["slices"][0]["m_evidence"] in ("proved", "measured")
        assert found.noise.shape == found.image.shape
        assert 0 < np.median(found.noise) < np.abs(found.image).max()

    def test_integers_have_one_slope_and_window_for_the_series(self, served, tmp_path):
        path = tmp_path / "scan.mrd"
        layouts.write_mrd(path, layouts.multicoil((24, 20), 2, noise=0.01)[2])
        xml, lines = stored(path)
        images, _ = traffic.talk(served.port, traffic.traffic(xml, lines, "recon+int16"))
        assert {one.data.dtype for one in images} == {np.dtype(np.int16)}
        assert len({one.meta["RescaleSlope"] for one in images}) == 1
        assert len({one.meta["WindowWidth"] for one in images}) == 1
        slope = float(images[0].meta["RescaleSlope"])
        expected = np.abs(by_file(path, served).result.image.numpy())
        for one, wanted in zip(images, expected):
            assert np.abs(one.data[0, 0] * slope - wanted).max() <= slope

    def test_sense_is_the_least_squares_image(self, served):
        xml, lines = traffic.scan()
        (image,), _ = traffic.talk(served.port, traffic.traffic(xml, lines, "sense"))
        assert image.meta["EquipoiseOutcome"] == "linear"
        assert "EquipoiseDistanceBound" not in image.meta
        truth = np.abs(layouts.phantom(traffic.SHAPE, 1)[0])
        assert np.corrcoef(np.abs(image.data[0, 0]).ravel(), truth.ravel())[0, 1] > 0.98

    def test_nullrecon_reads_the_scan_and_sends_no_image(self, served):
        xml, lines = traffic.scan()
        assert traffic.talk(served.port, traffic.traffic(xml, lines, "nullrecon")) == ([], [])


def stored(path):
    with ismrmrd.Dataset(str(path), "dataset", mode="r") as dataset:
        count = dataset.number_of_acquisitions()
        return dataset.read_xml_header(), [dataset.read_acquisition(i) for i in range(count)]


def test_the_client_of_the_library_gets_the_same_image(served, tmp_path):
    path = tmp_path / "scan.mrd"
    layouts.write_mrd(path, layouts.multicoil((24, 20), 2, noise=0.01)[2])
    xml, lines = stored(path)
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as connection:
        with connection.makefile("wb") as stream, ProtocolSerializer(stream) as writer:
            for one in (ConfigFile("recon"), ismrmrd.xsd.CreateFromDocument(xml), *lines):
                writer.serialize(one)
        with connection.makefile("rb") as stream:
            found = list(ProtocolDeserializer(stream).deserialize())
    images = [one for one in found if isinstance(one, ismrmrd.Image)]
    assert_equal(np.stack([one.data[0, 0] for one in images]), by_file(path, served).result.image)
    assert [one.image_index for one in images] == [1, 2]
    assert [one.image_series_index for one in images] == [1, 1]


@pytest.mark.parametrize("order", ["nph", "nhp", "pnh", "hpn", "hnp", "phn"])
def test_name_parameters_and_header_may_come_in_any_order(order, served):
    """And the client may close its side after CLOSE."""
    xml, lines = traffic.scan()
    parameters = traffic.text(json.dumps({"parameters": {"images": "int16"}}) + "\0")
    parts = {"n": traffic.config(), "p": parameters, "h": traffic.header(xml)}
    with traffic.Client(served.port) as client:
        client.send(*(parts[letter] for letter in order), *map(traffic.readout, lines))
        client.send(traffic.CLOSE)
        client.socket.shutdown(socket.SHUT_WR)
        (image,), texts = client.messages()
    assert image.data.dtype == np.int16
    assert texts == []


@pytest.mark.parametrize("number", [2, 5])
def test_parameters_may_begin_with_a_byte_order_mark_and_end_with_a_zero(number, served):
    xml, lines = traffic.scan()
    given = '\ufeff{"parameters": {"images": "int16"}}\0'
    rest = traffic.header("\ufeff" + xml + "\0") + b"".join(map(traffic.readout, lines))
    (image,), texts = traffic.talk(served.port, traffic.sized(number, given), rest, traffic.CLOSE)
    assert image.data.dtype == np.int16
    assert texts == []


def test_parameters_that_cannot_be_read_are_not_passed_over_in_silence(served):
    broken = traffic.text('{"parameters": {"images": "int16"}')
    assert traffic.talk(served.port, traffic.config(), broken, traffic.CLOSE) == (
        [],
        ["WARNING  a text is no JSON with an object `parameters`, and is not used"],
    )


def test_the_first_image_comes_back_before_the_last_readout_is_sent(served):
    xml, lines = traffic.scan(n_slices=3)
    y = traffic.SHAPE[0]
    with traffic.Client(served.port) as client:
        client.send(traffic.config(), traffic.header(xml), *map(traffic.readout, lines[: y + 5]))
        while (found := client.message())[0] != 1022:
            pass
        assert found[1].slice == 0
        client.send(*map(traffic.readout, lines[y + 5 :]), traffic.CLOSE)
        images, _ = client.messages()
    assert [image.slice for image in images] == [1, 2]


def test_without_flags_all_is_reconstructed_at_the_end(served):
    xml, lines = traffic.scan(n_slices=2, flags=False)
    images, texts = traffic.talk(served.port, traffic.traffic(xml, lines))
    assert [image.slice for image in images] == [0, 1]
    assert not [text for text in texts if text.startswith(("WARNING", "ERROR"))]


class TestOrder:
    """What arrives after an image that it would have changed."""

    def both(self, served, tmp_path, lines, mode=None, xml=None):
        """The images and texts of the server, and the images of ``recon``."""
        path = tmp_path / "scan.mrd"
        xml = self.header(24, mode) if xml is None else xml
        layouts.write_acquisitions(path, xml, lines)
        images, texts = traffic.talk(served.port, traffic.traffic(*stored(path)))
        images.sort(key=lambda one: (one.repetition, one.slice))
        found = np.stack([one.data[0, 0] for one in images])
        return found, texts, by_file(path, served).result.image.numpy()

    def header(self, n_lines, mode=None):
        space = (28, n_lines, 1), (56.0, 48.0, 4.0)
        limits = {"kspace_encoding_step_1": (n_lines - 1, n_lines // 2)}
        return layouts.header_xml(space, space, limits, mode=mode)

    def lines(self, step=1, **counters):
        kspace = layouts.multicoil(traffic.SHAPE, 2, 3, 0.01)[2]
        return [
            layouts.readout(kspace[s, :, n], n, slice=s, flags=[8] if n + step >= 24 else [],
                            position=(0, 0, 5.0 * s), **{**layouts.OBLIQUE, **counters})
            for s in range(2)
            for n in range(0, 24, step)
        ]  # fmt: skip

    def test_a_calibration_scan_that_is_promised_is_awaited(self, served, tmp_path):
        calibration = [one for one in self.lines() if 6 <= one.idx.kspace_encode_step_1 < 18]
        for one in calibration:
            one.setFlag(20)
        for name, lines in (
            ("after", [*self.lines(2), *calibration]),
            ("before, in a set of its own", [*self.in_set(calibration), *self.lines(2)]),
        ):
            found, texts, expected = self.both(served, tmp_path, lines, "separate")
            assert not [text for text in texts if not text.startswith("INFO")], name
            assert_equal(found, expected)
            (tmp_path / "scan.mrd").unlink()

    @pytest.mark.parametrize("order", ["first", "interleaved", "lower"])
    def test_the_encoding_of_the_images_is_that_of_recon(self, order, served, tmp_path):
        images, calibration = self.lines(2), []
        for one in self.lines():
            if 6 <= one.idx.kspace_encode_step_1 < 18:
                one.idx.kspace_encode_step_1 -= 6
                one.setFlag(21)
                calibration.append(one)
        # A host numbers the encodings as it likes.
        elsewhere = images if order == "lower" else calibration
        for one in elsewhere:
            one.encoding_space_ref = 1
        headers = self.header(24), self.header(12)
        xml = layouts.with_encoding(*(headers[::-1] if order == "lower" else headers))
        if order == "lower":
            for one in calibration:
                one.clearFlag(21)
                one.setFlag(20)
        lines = [*calibration, *images]
        if order == "interleaved":
            pairs = zip(calibration, images, strict=True)
            lines = [line for pair in pairs for line in pair]
        found, texts, expected = self.both(served, tmp_path, lines, xml=xml)
        assert not [text for text in texts if not text.startswith("INFO")]
        assert expected.shape == (2, 24, 28)
        assert_equal(found, expected)

    def in_set(self, lines):
        for one in lines:
            one.idx.set = 1
        return lines

    def test_what_comes_too_late_for_an_image_is_said(self, served, tmp_path):
        lines = self.lines()
        calibration = self.lines(2)
        for one in calibration:
            one.setFlag(20)
        found, texts, _ = self.both(served, tmp_path, [*lines, *noise_readouts(3), *calibration])
        assert texts == [
            "WARNING  4 noise readouts that came after the first image, which was made without "
            "them, were left out",
            "WARNING  24 calibration readouts that came after images of their slice were not used "
            "for those images",
        ]
        (tmp_path / "scan.mrd").unlink()
        assert_equal(found, self.both(served, tmp_path, lines)[2])

    def test_a_noise_scan_may_come_before_the_end_of_the_first_image(self, served, tmp_path):
        lines = self.lines()
        noise = [*noise_readouts(2), *noise_readouts(3)]
        noise[-1].setFlag(25)
        found, texts, expected = self.both(served, tmp_path, [*lines[:5], *noise, *lines[5:]])
        assert [text.split("whitened")[0] for text in texts] == ["INFO     k-space is "]
        assert_equal(found, expected)

    def test_a_noise_scan_of_other_coils_is_not_used_and_it_is_said(self, served, tmp_path):
        found, texts, expected = self.both(served, tmp_path, [*noise_readouts(2), *self.lines()])
        assert "the noise scan has [2] coils and the images have 3: k-space is not" in texts[0]
        assert_equal(found, expected)

    def test_an_image_that_was_stopped_does_not_come_back_as_an_earlier_one(self, served, tmp_path):
        later = self.lines(repetition=1)
        stopped = [*later[:24], *later[24:28]]
        stopped[-1].setFlag(8)
        with pytest.warns(InputWarning, match="4 of 24 lines: the scan was stopped"):
            found, texts, expected = self.both(served, tmp_path, [*self.lines(), *stopped])
        assert len(expected) == 3
        assert_equal(found, expected)
        assert any("4 of 24 lines: the scan was stopped" in text for text in texts)


def test_the_log_keeps_how_reversed_readouts_navigators_and_averages_were_used(served):
    xml, lines = traffic.scan(flags=False)
    for one in lines[::2]:
        one.setFlag(22)
    navigator = traffic.scan(flags=False)[1][0]
    navigator.setFlag(23)
    _, texts = traffic.talk(served.port, traffic.traffic(xml, [*lines, *lines, navigator]))
    for words in (
        "24 reversed readouts were turned",
        "24 lines that were measured up to 2 times are averaged",
        "1 navigator readouts were left out",
    ):
        assert [text for text in texts if words in text], texts
        assert served.says(words)


@pytest.mark.parametrize("n_lines", [24, BLOCK])
def test_readouts_are_saved_below_the_folder_as_a_scan(n_lines, served):
    """Also where they fill the last block of the file."""
    xml, lines = traffic.scan(shape=(n_lines, 16))
    before = set(served.saved.iterdir())
    (image,), _ = traffic.talk(served.port, traffic.traffic(xml, lines))
    (path,) = set(served.saved.iterdir()) - before
    assert_equal(image.data[0], by_file(path, served).result.image)
    with h5py.File(path) as file:
        assert len(file["dataset/data"]) == len(lines)


class TestTexts:
    """What a client is told."""

    def told(self, served, *parts):
        images, texts = traffic.talk(served.port, *parts)
        assert images == []
        return [text for text in texts if text.startswith("ERROR")]

    def test_a_readout_without_a_header(self, served):
        _, lines = traffic.scan()
        (error,) = self.told(served, traffic.config(), traffic.readout(lines[0]))
        assert "a readout came without a header that can be used (none has arrived)" in error

    def test_a_header_that_is_no_xml_harms_only_readouts(self, served):
        start = traffic.config() + traffic.header("Dummy XML header\0")
        assert traffic.talk(served.port, start, traffic.CLOSE) == ([], [])
        image = traffic.image(np.ones((1, 1, 4, 4), np.float32))
        images, texts = traffic.talk(served.port, start, image, image, traffic.CLOSE)
        assert images == []
        assert texts == ["WARNING  2 messages IMAGE were read and not used"]
        (error,) = self.told(served, start, traffic.readout(traffic.scan()[1][0]))
        assert "cannot be parsed" in error

    def test_a_second_header_counts_only_before_the_first_readout(self, served):
        xml, lines = traffic.scan()
        start = traffic.config() + traffic.header("<a/>") + traffic.header(xml)
        rest = [traffic.readout(one) for one in lines]
        images, _ = traffic.talk(served.port, start, *rest, traffic.CLOSE)
        assert len(images) == 1
        (error,) = self.told(served, start, rest[0], traffic.header("<b/>"))
        assert "a second header came after the first readout" in error

    def test_a_message_that_is_not_known(self, served):
        (error,) = self.told(served, traffic.config(), struct.pack("<H", 77))
        assert "message 77 is not known" in error

    def test_a_model_that_is_not_there_and_no_file_is_opened(self, served):
        xml, lines = traffic.scan()
        for name in ("none", "/etc/passwd", str(served.saved / "x.safetensors")):
            parameters = traffic.text(json.dumps({"parameters": {"model": name}}))
            start = traffic.config() + traffic.header(xml) + parameters
            (error,) = self.told(served, start, traffic.readout(lines[0]))
            assert "there is no model" in error

    def test_a_model_of_series_is_refused_by_name(self, served):
        xml, lines = traffic.scan()
        asked = traffic.text(json.dumps({"parameters": {"model": "mol-ridge-cine"}}))
        start = traffic.config() + traffic.header(xml) + asked
        (error,) = self.told(served, start, traffic.readout(lines[0]))
        assert "the model mol-ridge-cine is for images (time, y, x)" in error

    def test_a_scan_that_cannot_be_solved(self, served):
        xml, lines = traffic.scan()
        radial = xml.replace("cartesian", "radial")
        (error,) = self.told(served, traffic.traffic(radial, lines))
        assert "store no coordinates" in error

    def test_a_session_beyond_its_memory(self, served):
        xml, _lines = traffic.scan(n_coils=3)
        big = layouts.readout(np.zeros((60, 60000), np.complex64), 0)
        start = traffic.config() + traffic.header(xml)
        many = [traffic.readout(big)] * 5
        (error,) = self.told(served, start, *many)
        assert "of memory, and its share is 100 MB" in error

    def test_a_client_that_closes_without_saying_so(self, served):
        xml, lines = traffic.scan()
        with traffic.Client(served.port) as client:
            client.send(traffic.config(), traffic.header(xml), traffic.readout(lines[0]))
        assert served.says("closed the connection without CLOSE")


def test_a_connection_that_closes_at_once_asks_whether_the_server_is_there(served):
    for _ in range(5):
        with traffic.Client(served.port):
            pass
    xml, lines = traffic.scan()
    assert len(traffic.talk(served.port, traffic.traffic(xml, lines))[0]) == 1


def occupied(served):
    """Clients that take all places of the server."""
    served.become_idle()
    clients = [traffic.Client(served.port) for _ in range(4)]
    for one in clients:
        one.send(traffic.sized(2, "no XML"))
        assert "cannot be parsed" in one.message()[1]
    return clients


def test_a_good_client_waits_for_the_place_of_one_that_has_gone(served):
    good = traffic.traffic(*traffic.scan())
    (expected,), _ = traffic.talk(served.port, good)
    for gone in (struct.pack("ii", 1, 0), None):
        clients = occupied(served)
        with traffic.Client(served.port) as client:
            client.send(good)
            client.socket.settimeout(0.3)
            with pytest.raises(TimeoutError):
                client.socket.recv(1)
            client.socket.settimeout(30)
            if gone:
                clients[0].socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, gone)
            clients[0].__exit__()
            (found,), texts = client.messages()
        assert texts == []
        np.testing.assert_array_equal(found.data, expected.data)
        for one in clients[1:]:
            one.__exit__()


def test_sessions_beyond_the_bound_are_told_so(served):
    clients = occupied(served)
    images, texts = traffic.talk(served.port)
    for one in clients:
        one.send(traffic.CLOSE)
        assert one.messages() == ([], [])
        one.__exit__()
    assert images == []
    assert "serves 4 sessions at a time, and all are in use" in texts[0]


def test_a_bad_client_beside_a_good_one_does_not_change_its_images(served):
    xml, lines = traffic.scan(n_slices=3)
    expected, _ = traffic.talk(served.port, traffic.traffic(xml, lines))
    wrong = layouts.readout(np.full((3, 28), np.nan, np.complex64), 3, flags=[8])
    bad = traffic.config() + traffic.header(xml) + traffic.readout(wrong) * 5

    def disturb(number):
        with traffic.Client(served.port) as client:
            client.send(bad if number % 2 else bad[: 2000 + 100 * number])

    with ThreadPoolExecutor(2) as pool:
        good = pool.submit(traffic.talk, served.port, traffic.traffic(xml, lines))
        for number in range(6):
            pool.submit(disturb, number)
        found, _ = good.result(60)
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one.data, other.data)


class TestCommands:
    def test_send_writes_what_comes_back(self, served, tmp_path):
        path = tmp_path / "scan.mrd"
        layouts.write_mrd(path, layouts.multicoil((24, 20), 1, noise=0.02)[2])
        out = tmp_path / "out.h5"
        config = ("--config", "recon+noisemap", "--parameter", "certificate=true")
        result = run("send", path, "--port", served.port, "-o", out, *config)
        assert result.exit_code == 0, result.output
        with h5py.File(out) as file:
            assert_equal(file["image"][()], by_file(path, served).result.image)
            assert file.attrs["outcome"] == "converged"
            assert json.loads(file.attrs["certificates"])
        assert (tmp_path / "out_noise.h5").is_file()

    def test_send_fails_where_no_server_listens(self, tmp_path):
        path = tmp_path / "scan.mrd"
        layouts.write_mrd(path, layouts.multicoil((24, 20), 1)[2])
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            with pytest.raises(BadInputError, match="cannot be reached"):
                send(path, "127.0.0.1", free.getsockname()[1])

    def test_serve_refuses_what_it_cannot_use(self, tmp_path):
        for option, words in (
            (("--images", "jpeg"), "expected complex"),
            (("--save-dir", tmp_path / "none"), "is not a folder"),
            (("--timeout", "0"), "must be positive"),
            (("--max-memory", "-1"), "it must be positive"),
            (("--host", "256.1.1.1"), "cannot be opened"),
            (("--model", "mol-ridge-cine"), "is for images (time, y, x), and a server solves"),
            (("--model", "mol-lr-superres-3x"), "is for photographs"),
        ):
            result = run("serve", "--model", traffic.tiny_model(tmp_path), "--port", 0, *option)
            assert result.exit_code in (1, 2)
            assert words in result.output


def test_sigterm_ends_the_server_within_ten_seconds_and_tells_its_clients(tmp_path):
    server = traffic.Served(tmp_path, "--log-json")
    xml, lines = traffic.scan()
    with traffic.Client(server.port) as client:
        client.send(traffic.config(), traffic.header(xml), traffic.readout(lines[0]))
        # The answer to a configuration that comes too late says that the readout has arrived.
        client.send(traffic.config())
        assert "after the first readout" in client.message()[1]
        seconds, code = server.stop()
        _, texts = client.messages()
    # What the server waits for; a busy machine adds to it.
    assert FINISHING + REFUSING < 10
    assert seconds < 3 * (FINISHING + REFUSING)
    assert code == 0
    assert "the server is stopping" in texts[-1]
    records = [json.loads(line) for line in server.log if line.startswith("{")]
    (session,) = [one for one in records if "readouts" in one]
    assert session["readouts"] == 1
    assert "the server is stopping" in session["outcome"]


def test_malformed_sessions_end_with_words_and_the_next_client_is_served(served):
    """Every eleventh case of the benchmark, without those that wait for a time limit."""
    good = traffic.traffic(*traffic.scan())
    (expected,), _ = traffic.talk(served.port, good)
    memory, played = served.status("VmRSS"), 0
    for case in list(malformed.cases())[::11]:
        if case.manner == "stalls":
            continue
        result = malformed.play(served.port, case)
        assert result.closed, case.name
        assert result.seconds < 10, case.name
        assert not [text for text in result.texts if "unexpected" in text], case.name
        played += 1
    assert played > 30
    (found,), _ = traffic.talk(served.port, good)
    np.testing.assert_array_equal(found.data, expected.data)
    assert served.status("VmHWM") - memory < 4e8 / 1024
