"""Volumes, series and trajectories are represented, solved where that is exact, or refused."""

import json
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import layouts
from equipoise.cli.app import app
from equipoise.formats import as_slices, read
from equipoise.formats.acquisition import make_acquisition
from equipoise.formats.cfl import cfl_bytes, read_cfl
from equipoise.formats.describe import describe
from equipoise.formats.encoding import CartesianEncoding, TrajectoryEncoding
from equipoise.formats.header import Geometry, Header
from equipoise.formats.slices import join_slices, stack_shape
from equipoise.formats.writers.kspace import write_kspace
from equipoise.outcome import BadInputError, InputWarning
from equipoise.physics.coils.biot_savart import biot_savart_maps
from equipoise.physics.fourier import image_to_kspace, kspace_to_image
from equipoise.recon.experiment import load_experiment
from equipoise.recon.problems import problems

NZ, NY, NX, COILS = 12, 16, 20, 3


@pytest.fixture(scope="module")
def volume():
    """Coil images (coil, z, y, x) of a block in a box, and their k-space with some noise."""
    rng = np.random.default_rng(0)
    image = np.zeros((NZ, NY, NX))
    image[2:10, 3:13, 4:16], image[4:6, 5:7, 6:9] = 1, 2
    csm = biot_savart_maps((NY, NX), COILS, 1).numpy()[0][:, None]
    coils = torch.from_numpy((csm * image).astype(np.complex64))
    noise = 1e-3 * (rng.standard_normal((2, *coils.shape)))
    kspace = image_to_kspace(coils, 3).numpy() + noise[0] + 1j * noise[1]
    return coils.numpy(), kspace.astype(np.complex64)


def lines_mask():
    """Half of the lines (z, y), with a centre."""
    mask = np.random.default_rng(1).random((NZ, NY)) < 0.5
    mask[2:10, 3:13] = True
    return mask


def write_cfl(path, array):
    header, data = cfl_bytes(array)
    path.with_suffix(".hdr").write_bytes(header)
    path.write_bytes(data)
    return path


def bart_series(frames):
    """(x, y, z, coil, ..., time) of (time, coil, z, y, x)."""
    moved = frames.transpose(4, 3, 2, 1, 0)
    return moved.reshape(*moved.shape[:4], *[1] * 6, moved.shape[4])


@pytest.fixture
def cine(tmp_path, volume):
    """A BART series of 5 frames, each with its own lines."""
    rng = np.random.default_rng(2)
    frames = np.stack([volume[1][:, 6:7]] * 5)
    for frame in frames:
        lines = rng.random(NY) < 0.5
        lines[4:12] = True
        frame[:, :, ~lines] = 0
    return write_cfl(tmp_path / "cine.cfl", bart_series(frames)), frames


def radial(n_spokes=24, n=32, n_coils=2, rng=None):
    """Spokes (coil, readout, sample), and their coordinates x, y in cycles per field of view."""
    angle = np.arange(n_spokes)[:, None] * np.pi / n_spokes
    radius = np.arange(n)[None] - n // 2
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1)
    draws = (rng or np.random.default_rng(3)).standard_normal((2, n_coils, n_spokes, n))
    return (draws[0] + 1j * draws[1]).astype(np.complex64), points.astype(np.float32)


def write_spokes(path, frames, points, trajectory="radial", density=None, n=32):
    """An ISMRMRD file of spokes, one repetition a frame."""
    whole = ((n, n, 1), (320.0, 320.0, 5.0))
    xml = layouts.header_xml(whole, whole, {}, trajectory=trajectory or "cartesian")
    xml = xml if trajectory else xml.replace("<trajectory>cartesian</trajectory>", "")
    readouts = []
    for repetition, spokes in enumerate(frames):
        for i in range(spokes.shape[1]):
            made = layouts.readout(spokes[:, i], i, repetition=repetition)
            columns = [points[i]] if density is None else [points[i], density[i][:, None]]
            stored = np.concatenate(columns, -1).astype(np.float32)
            made.resize(stored.shape[0], spokes.shape[0], stored.shape[1])
            made.data[:], made.traj[:] = spokes[:, i], stored
            readouts.append(made)
    layouts.write_acquisitions(path, xml, readouts)
    return path


class TestVolumes:
    def test_a_volume_stays_one_and_its_problems_lie_along_the_readout(self, volume, tmp_path):
        coils, kspace = volume
        path = write_cfl(
            tmp_path / "v.cfl", (kspace * lines_mask()[..., None]).transpose(3, 2, 1, 0)
        )
        found = read(path)
        assert found.axes == ("frame", "coil", "z", "y", "x")
        assert found.samples.shape == (1, COILS, NZ, NY, NX)
        assert found.encoding.readout == "x"
        made = list(problems(found))
        assert [p.index for p in made] == [p.label["slice"] for p in made] == list(range(NX))
        x, measured = NX // 2, torch.from_numpy(lines_mask())
        plane = image_to_kspace(torch.from_numpy(coils[..., x])) * measured
        assert torch.equal(made[x].operator.mask[0], measured)
        data = made[x].data[0] * made[x].unit
        assert (data - plane).abs().max() < 0.02 * plane.abs().max()

    @pytest.mark.parametrize("axis", ["z", "y", "x"])
    def test_the_readout_may_be_any_axis(self, axis, volume):
        kspace = volume[1]
        rng = np.random.default_rng(4)
        where = "zyx".index(axis)
        shape = [n for i, n in enumerate((NZ, NY, NX)) if i != where]
        mask = np.expand_dims(rng.random(shape) < 0.5, where)
        kept = kspace * mask
        found = make_acquisition(kept[None], "v", "test", volume=True)
        assert found.encoding.readout == axis
        slices = as_slices(found)
        n = (NZ, NY, NX)[where]
        assert stack_shape(found) == slices.kspace.shape == (n, COILS, *shape)
        # The 2D transforms of the slices are the 3D transform of the volume.
        whole = kspace_to_image(torch.from_numpy(kept), 3).movedim(1 + where, 0)
        assert (kspace_to_image(slices.kspace) - whole).abs().max() < 1e-6

    def test_undersampling_along_all_axes_is_described_and_not_solved(self, volume, tmp_path):
        mask = np.random.default_rng(5).random((NZ, NY, NX)) < 0.4
        path = write_cfl(tmp_path / "v.cfl", (volume[1] * mask).transpose(3, 2, 1, 0))
        found = read(path)
        assert found.encoding.readout is None
        told = describe(found)
        assert told["dimensions"] == 3
        assert told["problems"] == 0
        assert told["acceleration"] == pytest.approx(2.5, rel=0.05)
        with pytest.raises(BadInputError, match=r"no axis is fully sampled .* 40% along x"):
            problems(found)
        with pytest.raises(BadInputError, match="such as mol-guided-volume"):
            load_experiment(path)

    def test_a_partial_echo_is_filled_with_zeros_and_said(self, volume):
        kspace = volume[1].copy()
        kspace[..., :5] = 0
        slices = as_slices(make_acquisition(kspace[None], "v", "test", volume=True))
        assert any("15 of 20 samples" in note for note in slices.notes)
        whole = kspace_to_image(torch.from_numpy(kspace), 3).movedim(-1, 0)
        assert (kspace_to_image(slices.kspace) - whole).abs().max() < 1e-6

    def test_single_zeros_of_coarse_data_do_not_break_a_line(self, volume):
        mask = np.ones((1, NZ, NY, NX), bool)
        mask[0, 3, 4, 7] = mask[0, 5, 6, 12] = False
        assert CartesianEncoding(torch.from_numpy(mask)).readout == "x"
        mask[0, :, :, 7] = False
        assert CartesianEncoding(torch.from_numpy(mask)).readout == "y"

    def test_maps_and_targets_are_cut_with_the_samples(self, volume):
        _, kspace = volume
        rng = np.random.default_rng(6)
        csm = rng.standard_normal((COILS, NZ, NY, NX)) + 0j
        target = rng.standard_normal((2, NZ, NY, NX)) + 0j
        both = np.stack([kspace, 2 * kspace])
        found = make_acquisition(both, "v", "test", csm=csm, target=target, volume=True)
        slices = as_slices(found)
        assert torch.equal(slices.target[NX + 3], found.target[1, ..., 3])
        assert torch.equal(slices.csm[NX + 3], found.csm[0, ..., 3])
        assert torch.equal(join_slices(slices.csm, found), found.csm.expand(2, -1, -1, -1, -1))

    @pytest.mark.parametrize("of", ["volume", "slices"])
    def test_maps_of_a_file_belong_to_the_volume_or_to_its_slices(self, of, volume, tmp_path):
        scan = write_cfl(tmp_path / "v.cfl", volume[1].transpose(3, 2, 1, 0))
        plane = biot_savart_maps((NY, NX), COILS, 1).numpy()[0][:, None]
        csm = np.ascontiguousarray(np.broadcast_to(plane, (COILS, NZ, NY, NX)))
        if of == "volume":  # as `bart ecalib` writes them
            maps = write_cfl(tmp_path / "m.cfl", csm.transpose(3, 2, 1, 0))
        else:
            maps = tmp_path / "m.npy"
            np.save(maps, csm.transpose(3, 0, 1, 2))
        found = load_experiment(scan, csm=maps).acquisition
        assert np.array_equal(found.csm.numpy(), csm.transpose(3, 0, 1, 2))
        np.save(tmp_path / "w.npy", csm[:, 1:])
        with pytest.raises(BadInputError, match=r"this k-space needs .*12, 16, 20"):
            load_experiment(scan, csm=tmp_path / "w.npy")

    def test_labels_and_positions_follow_the_cut(self, volume):
        geometry = Geometry((3.0, 2.0, 1.0), centres=[(5.0, 6.0, 7.0), (5.0, 6.0, 70.0)])
        labels = [{"slice": s, "contrast": 1} for s in range(2)]
        header = Header(geometry=geometry, labels=labels, crop=(8, 10, NX), centre=(6, 8, 10))
        both = np.stack([volume[1]] * 2)
        found = as_slices(make_acquisition(both, "v", "test", header=header, volume=True)).header
        assert found.labels[NX + 2] == {"contrast": 1, "slab": 1, "slice": 2}
        assert found.geometry.spacing == (1.0, 3.0, 2.0)
        assert found.geometry.centres[NX + 2] == (5.0 + 2 - NX // 2, 6.0, 70.0)
        assert (found.crop, found.centre) == ((8, 10), (6, 8))

    def test_what_is_asked_of_a_stack_is_refused_by_name(self, volume):
        found = make_acquisition(volume[1][None], "v", "test", volume=True)
        with pytest.raises(BadInputError, match=r"'z', 'y', 'x'.*as_slices"):
            _ = found.kspace
        with pytest.raises(BadInputError, match="only a stack of 2D slices has mask"):
            _ = found.mask

    def test_a_volume_that_does_not_fit_is_refused_before_the_work(self, volume, monkeypatch):
        from equipoise.formats import limits
        from equipoise.formats import slices as module

        found = make_acquisition(volume[1][None], "v", "test", volume=True)
        monkeypatch.setattr(limits, "FREE_BYTES", 0)
        monkeypatch.setattr(limits, "available_memory", lambda: found.samples.nbytes)
        monkeypatch.setattr(module, "kspace_to_image", lambda *_: pytest.fail("it was begun"))
        with pytest.raises(BadInputError, match="transform along the readout needs"):
            as_slices(found)

    def test_the_memory_of_a_volume_is_that_of_its_slices_and_the_transform(self, volume):
        from equipoise.methods.data_weight import FixedWeight
        from equipoise.methods.mol import MOL
        from equipoise.networks.cnn import CNN
        from equipoise.recon.memory import estimate

        found = make_acquisition(volume[1][None], "v", "test", volume=True)
        model = MOL(CNN(layers=2, features=4), FixedWeight(1.0), m=0.1)
        of_slices = estimate(as_slices(found), model)
        assert estimate(found, model) == of_slices + found.samples.nbytes


class TestSeries:
    def test_each_frame_has_its_label_and_its_mask(self, cine):
        path, frames = cine
        found = read(path)
        assert found.labels == [{"time": t} for t in range(5)]
        assert torch.equal(found.kspace, torch.from_numpy(frames[:, :, 0]))
        told = describe(found)
        assert (told["images"], told["masks"], told["frames_in_time"]) == (5, 5, 5)
        for t, problem in enumerate(problems(found)):
            assert problem.label == {"time": t}
            measured = torch.from_numpy(frames[t, 0, 0] != 0)
            assert torch.equal(problem.operator.mask[0], measured)

    def test_a_series_of_volumes_is_labelled_with_time_and_slice(self, volume, tmp_path):
        frames = np.stack([volume[1], 2 * volume[1]])
        path = write_cfl(tmp_path / "v.cfl", bart_series(frames))
        found = read(path)
        assert found.labels == [{"time": 0}, {"time": 1}]
        slices = as_slices(found)
        assert slices.labels[NX + 3] == {"time": 1, "slice": 3}
        assert torch.allclose(slices.kspace[NX + 3], 2 * slices.kspace[3])

    def test_all_dimensions_of_a_cfl_that_make_a_series(self, volume, tmp_path):
        sizes = {5: ("contrast", 2), 10: ("time", 3), 11: ("phase", 2), 13: ("slice", 2)}
        shape = [NX, NY, 1, COILS, *[1] * 12]
        for dimension, (_, n) in sizes.items():
            shape[dimension] = n
        rng = np.random.default_rng(7)
        array = (rng.standard_normal(shape) + 1j).astype(np.complex64)
        found = read(write_cfl(tmp_path / "s.cfl", array))
        for label, kspace in zip(found.labels, found.kspace):
            index = [label.get(sizes[d][0], 0) if d in sizes else slice(None) for d in range(16)]
            expected = array[tuple(index)].squeeze().transpose(2, 1, 0)
            assert torch.equal(kspace, torch.from_numpy(expected.copy()))
        assert len({tuple(label.items()) for label in found.labels}) == 24

    def test_dimensions_that_are_no_series_are_refused(self, tmp_path):
        array = np.ones((8, 8, 1, 2, 2), np.complex64)
        with pytest.raises(BadInputError, match=r"dimensions \[4\] .*bart slice"):
            read(write_cfl(tmp_path / "s.cfl", array))

    def test_five_axes_of_a_fastmri_file_are_what_its_header_says(self, tmp_path):
        _, _, kspace = layouts.multicoil((16, 12), 2, 3)
        series = np.stack([kspace, 2 * kspace, 3 * kspace])
        with h5py.File(tmp_path / "s.h5", "w") as file:
            file["kspace"] = series
        with pytest.raises(BadInputError, match="averages, repetitions or contrasts"):
            read(tmp_path / "s.h5")
        whole = ((16, 12, 1), (80.0, 60.0, 4.0))
        limits = {"average": (2, 0)}
        with h5py.File(tmp_path / "s.h5", "a") as file:
            file["ismrmrd_header"] = layouts.header_xml(whole, whole, limits)
        found = read(tmp_path / "s.h5")
        assert found.labels == [{"average": a, "slice": s} for a in range(3) for s in range(2)]
        assert np.array_equal(found.kspace.numpy(), series.reshape(-1, 3, 16, 12))
        assert found.header.geometry.centres[3] == found.header.geometry.centres[1]

    @pytest.mark.parametrize("name", ["kus", "kspace"])
    def test_later_names_of_cmrxrecon(self, name, tmp_path):
        _, _, kspace = layouts.multicoil((16, 12), 2, 3)
        layouts.write_cmrxrecon(tmp_path / "s.mat", kspace, name, times=3)
        found = read(tmp_path / "s.mat")
        assert found.layout == "CMRxRecon"
        assert found.labels == [{"slice": s, "time": t} for t in range(3) for s in range(2)]
        assert np.array_equal(found.kspace.numpy(), np.concatenate([kspace] * 3))


class TestTrajectories:
    @pytest.mark.parametrize("unit", ["per sample", "per field of view"])
    def test_spokes_of_a_scanner_keep_their_coordinates(self, unit, tmp_path):
        spokes, points = radial()
        stored = points / 32 if unit == "per sample" else points
        found = read(write_spokes(tmp_path / "s.h5", [spokes, 2 * spokes], stored))
        assert found.axes == ("frame", "coil", "readout", "sample")
        assert np.array_equal(found.samples.numpy(), np.stack([spokes, 2 * spokes]))
        encoding = found.encoding
        assert (encoding.name, encoding.matrix, encoding.density) == ("radial", (32, 32), None)
        assert np.abs(encoding.coordinates[0].numpy() - points).max() < 1e-4
        assert len(encoding.coordinates) == 1
        assert found.labels == [{"repetition": r, "slice": 0} for r in range(2)]
        assert found.header.geometry.spacing == (5.0, 10.0, 10.0)
        told = describe(found)["trajectory"]
        assert (told["readouts"], told["samples"], told["frames"]) == (24, 32, 1)

    def test_the_third_number_of_two_dimensional_data_is_the_density(self, tmp_path):
        spokes, points = radial()
        density = np.linalg.norm(points, axis=-1)
        found = read(write_spokes(tmp_path / "s.h5", [spokes], points / 32, density=density))
        assert found.encoding.coordinates.shape == (1, 24, 32, 2)
        assert np.allclose(found.encoding.density[0], density)

    def test_coordinates_off_the_lines_count_more_than_a_header_without_a_name(self, tmp_path):
        spokes, points = radial()
        found = read(write_spokes(tmp_path / "s.h5", [spokes], points / 32, trajectory=None))
        assert isinstance(found.encoding, TrajectoryEncoding)
        assert any("off the lines" in note for note in found.notes)

    def test_coordinates_on_the_lines_are_those_of_a_cartesian_scan(self, tmp_path):
        _, _, kspace = layouts.multicoil((32, 32), 1, 2)
        y, x = np.meshgrid(np.arange(32) - 16, np.arange(32) - 16, indexing="ij")
        points = np.stack([x, y], -1) / 32
        path = write_spokes(tmp_path / "s.h5", kspace, points, trajectory="cartesian")
        assert np.allclose(read(path).kspace, kspace)

    def test_an_incomplete_frame_is_left_out_and_named(self, tmp_path):
        spokes, points = radial()
        frames = [spokes, spokes, spokes[:, :5]]
        path = write_spokes(tmp_path / "s.h5", frames, points / 32)
        with pytest.warns(InputWarning, match="repetition 2, slice 0 has 5 of 24 lines"):
            found = read(path)
        assert len(found.samples) == 2

    def test_partitions_of_a_stack_of_stars_are_the_third_coordinate(self, tmp_path):
        spokes, points = radial(6)
        whole = ((32, 32, 4), (320.0, 320.0, 20.0))
        xml = layouts.header_xml(whole, whole, {}, trajectory="radial")
        readouts = []
        for z in range(4):
            for i in range(6):
                made = layouts.readout(spokes[:, i], i, kspace_encode_step_2=z)
                made.resize(32, 2, 2)
                made.data[:], made.traj[:] = spokes[:, i], points[i] / 32
                readouts.append(made)
        layouts.write_acquisitions(tmp_path / "s.h5", xml, readouts)
        encoding = read(tmp_path / "s.h5").encoding
        assert encoding.matrix == (4, 32, 32)
        assert np.allclose(encoding.coordinates[0, :, 0, 2], np.repeat([-2, -1, 0, 1], 6))

    def test_a_trajectory_of_bart_lies_beside_its_k_space(self, tmp_path):
        spokes, points = radial()
        kspace = write_cfl(tmp_path / "k.cfl", spokes.transpose(2, 1, 0)[None])
        third = np.zeros((*points.shape[:2], 1))
        array = np.concatenate([points, third], -1).transpose(2, 1, 0)
        trajectory = write_cfl(tmp_path / "t.cfl", array)
        found = read(kspace, trajectory_file=trajectory)
        assert np.array_equal(found.samples[0].numpy(), spokes)
        assert np.array_equal(found.encoding.coordinates[0].numpy(), points)
        assert found.encoding.matrix == (32, 32)
        with pytest.raises(BadInputError, match=r"\(1, sample, readout, coil\)"):
            read(trajectory, trajectory_file=kspace)
        np.savez(tmp_path / "k.npz", kspace=spokes)
        with pytest.raises(BadInputError, match="only BART's k-space"):
            read(tmp_path / "k.npz", trajectory_file=trajectory)

    def test_a_trajectory_for_each_frame(self, tmp_path):
        spokes, points = radial()
        frames = np.stack([points, -points])
        np.savez(tmp_path / "s.npz", kspace=np.stack([spokes, spokes]), traj=frames, matrix=32)
        found = read(tmp_path / "s.npz")
        assert np.array_equal(found.encoding.coordinates.numpy(), frames)
        assert describe(found)["trajectory"]["frames"] == 2

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"traj": radial(23)[1]}, "24 readouts of 32 samples"),
            ({"traj": radial()[1][..., :1]}, "2 or 3"),
            ({"traj": radial()[1] * np.nan}, "NaN or Inf"),
            ({"traj": radial()[1].astype(str)}, "expected numbers"),
            ({"matrix": np.array([1, 2, 3])}, "the matrix is"),
            ({"dcf": np.ones((3, 3))}, "density has the shape"),
        ],
    )
    def test_arrays_that_do_not_belong_together_are_named(self, change, message, tmp_path):
        spokes, points = radial()
        np.savez(tmp_path / "s.npz", **{"kspace": spokes, "traj": points} | change)
        with pytest.raises(BadInputError, match=message):
            read(tmp_path / "s.npz")

    def test_coordinates_of_another_unit_are_noted(self, tmp_path):
        spokes, points = radial()
        np.savez(tmp_path / "s.npz", kspace=spokes, traj=9 * points, matrix=32)
        assert any("9 of half the matrix" in note for note in read(tmp_path / "s.npz").notes)

    def test_the_points_that_are_visited(self):
        points = torch.tensor([[[0.0, 0.0], [-2.0, 1.2], [7.0, 0.0]]])[None]
        grid = TrajectoryEncoding(points, (4, 6)).visited()
        assert grid.nonzero().tolist() == [[2, 3], [3, 1]]

    def test_all_that_needs_a_matrix_refuses_by_name(self, tmp_path):
        spokes, points = radial()
        path = write_spokes(tmp_path / "s.h5", [spokes], points / 32)
        found = read(path)
        for use in (problems, as_slices, stack_shape):
            with pytest.raises(BadInputError, match=r"not Cartesian \(trajectory radial"):
                use(found)
        for command in (
            ["recon", path, "-o", tmp_path / "o.npy"],
            ["convert", path, tmp_path / "o.npy"],
            ["maps", path, "-o", tmp_path / "o.npy"],
        ):
            result = CliRunner().invoke(app, [str(c) for c in command])
            assert result.exit_code == 1
            assert "bart nufft -i" in result.stderr
        assert not (tmp_path / "o.npy").exists()


class TestFilesOfK:
    def check(self, found, path, **given):
        write_kspace(path, found)
        back = read(path, **given)
        assert back.axes == found.axes
        assert torch.equal(back.samples, found.samples)
        assert back.labels == found.labels
        return back

    @pytest.mark.parametrize("suffix", [".h5", ".npz", ".cfl"])
    def test_a_series_keeps_its_labels(self, suffix, cine, tmp_path):
        found = read(cine[0])
        back = self.check(found, tmp_path / f"out{suffix}")
        assert torch.equal(back.mask, found.mask)

    def test_a_volume_is_written_as_it_is_or_as_its_slices(self, volume, tmp_path):
        found = make_acquisition(volume[1][None], "v", "test", volume=True)
        self.check(found, tmp_path / "out.cfl")
        notes = write_kspace(tmp_path / "out.h5", found)
        assert any("inverse transform along the readout" in note for note in notes)
        assert torch.equal(read(tmp_path / "out.h5").kspace, as_slices(found).kspace)

    @pytest.mark.parametrize("suffix", [".h5", ".npz", ".cfl"])
    def test_a_trajectory_is_written_with_its_k_space(self, suffix, tmp_path):
        spokes, points = radial()
        density = np.linalg.norm(points, axis=-1)
        np.savez(tmp_path / "s.npz", kspace=spokes, traj=points, dcf=density, matrix=32)
        found = read(tmp_path / "s.npz")
        given = {"trajectory_file": tmp_path / "out_traj.cfl"} if suffix == ".cfl" else {}
        back = self.check(found, tmp_path / f"out{suffix}", **given)
        assert torch.equal(back.encoding.coordinates, found.encoding.coordinates)
        assert back.encoding.matrix == (32, 32)
        if suffix != ".cfl":
            assert torch.equal(back.encoding.density, found.encoding.density)

    def test_repetitions_are_times_of_a_cfl(self, tmp_path):
        _, _, kspace = layouts.multicoil((8, 8), 4, 2)
        labels = [{"repetition": r, "slice": s} for s in range(2) for r in range(2)]
        found = make_acquisition(kspace, "s", "test", header=Header(labels=labels))
        write_kspace(tmp_path / "out.cfl", found)
        array = read_cfl(tmp_path / "out.cfl")
        assert (array.shape[10], array.shape[13]) == (2, 2)
        for label, frame in zip(labels, kspace):
            placed = array[..., label["repetition"], :, :, label["slice"], :, :].squeeze()
            assert np.array_equal(placed.transpose(2, 1, 0), frame)

    def test_frames_that_fill_no_block_are_refused(self, tmp_path):
        _, _, kspace = layouts.multicoil((8, 8), 3, 2)
        labels = [{"time": 0, "slice": 0}, {"time": 0, "slice": 1}, {"time": 1, "slice": 0}]
        found = make_acquisition(kspace, "s", "test", header=Header(labels=labels))
        with pytest.raises(BadInputError, match=r"not form a block of .*write \.h5"):
            write_kspace(tmp_path / "out.cfl", found)
        strange = replace(found, header=Header(labels=[{"slab": i} for i in range(3)]))
        with pytest.raises(BadInputError, match="they have slab"):
            write_kspace(tmp_path / "out.cfl", strange)
        assert list(tmp_path.iterdir()) == []

    def test_headers_by_another_hand_are_refused_by_name(self, tmp_path):
        _, _, kspace = layouts.multicoil((8, 8), 2, 2)
        for header in ('{"crop": [1]}', '{"labels": [3]}', '{"labels": [{"slice": "a"}]}', "x"):
            np.savez(tmp_path / "s.npz", kspace=kspace, header=header)
            with pytest.raises(BadInputError, match=r"attribute 'header' cannot be used"):
                read(tmp_path / "s.npz")
        np.savez(tmp_path / "s.npz", kspace=kspace, header='{"labels": [{"time": 7}]}')
        assert read(tmp_path / "s.npz").labels == [{"slice": 0}, {"slice": 1}]


class TestInfo:
    def invoke(self, *arguments):
        result = CliRunner().invoke(app, ["info", *(str(a) for a in arguments)])
        assert result.exit_code == 0, result.output
        found = CliRunner().invoke(app, ["info", *(str(a) for a in arguments), "--json"])
        return result.stdout, json.loads(found.stdout)

    def test_a_volume(self, volume, tmp_path):
        path = write_cfl(tmp_path / "v.cfl", volume[1].transpose(3, 2, 1, 0))
        text, found = self.invoke(path)
        assert f"1 frame x {COILS} coil x {NZ} z x {NY} y x {NX} x" in text
        assert f"as {NX} 2D problems along the readout x" in text
        assert (found["axes"], found["problems"]) == (["frame", "coil", "z", "y", "x"], NX)

    def test_a_series(self, cine):
        text, found = self.invoke(cine[0])
        assert "5 times" in text
        assert "each of 5 points in time independently" in text
        assert found["labels"] == {"time": 5}

    def test_a_trajectory(self, tmp_path):
        spokes, points = radial()
        write_spokes(tmp_path / "s.h5", [spokes], points / 32)
        text, found = self.invoke(tmp_path / "s.h5")
        assert "24 of 32 samples" in text
        assert "no: the k-space is not Cartesian" in text
        assert found["trajectory"]["name"] == "radial"
        assert found["acceleration"] is None
        write_kspace(tmp_path / "k.cfl", read(tmp_path / "s.h5"))
        text, found = self.invoke(tmp_path / "k.cfl", "--trajectory", tmp_path / "k_traj.cfl")
        assert found["encoding"] == "trajectory"
