"""Measured k-space as training data, on scans of 32 x 32 with 4 coils made here."""

import logging

import h5py
import numpy as np
import pytest
import torch
import yaml

from equipoise.formats import read
from equipoise.formats.by_slice import by_slice
from equipoise.outcome import BadInputError
from equipoise.physics.coils.biot_savart import biot_savart_maps
from equipoise.physics.fourier import image_to_kspace
from equipoise.physics.noise_level import complex_noise
from equipoise.recon.experiment import apply_mask
from equipoise.recon.problems import slice_problem, target_of
from equipoise.training import train as training
from equipoise.training.beginning import dataset_of, source_of, training_images
from equipoise.training.config import load_config
from equipoise.training.sources.maps_cache import MapsCache
from equipoise.training.sources.sampling import Sampling
from equipoise.training.sources.scans import (
    ScanDataset,
    ScanSamples,
    slices_with_signal,
    training_scans,
)
from equipoise.training.sources.self_supervised import SplitScan, Splitting
from equipoise.training.validation import validation_set
from equipoise.zoo.model_file import load_model, provenance

SHAPE = (32, 32)
SAMPLING = Sampling(acceleration=2.5, calibration=80)
HEADER = '{"labels": []}'


def kspace_of(seed, n_slices=1, empty=()):
    """K-space (slices, 4, y, x) of a disc with random texture; empty slices hold noise alone."""
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    disc = (np.hypot(y, x) < 0.8) * (1 + 0.3 * rng.standard_normal((n_slices, *SHAPE)))
    image = torch.from_numpy(disc.astype(np.complex64))
    image[list(empty)] = 0
    csm = biot_savart_maps(SHAPE, 4, seed=3)
    kspace = image_to_kspace(csm * image[:, None])
    return (kspace + 0.01 * complex_noise(tuple(kspace.shape), rng)).numpy()


def write_scan(path, kspace, mask=None, header=True):
    with h5py.File(path, "w") as file:
        file["kspace"] = kspace if mask is None else kspace * mask[:, None]
        if mask is not None:
            file["mask"] = mask
        if header:
            file.attrs["header"] = HEADER
    return path


def mask_of(seed=0):
    return SAMPLING.draw_mask(SHAPE, 4, np.random.default_rng(seed)).numpy()


def rng_of(seed=0):
    return np.random.default_rng(seed)


class TestSlices:
    @pytest.mark.parametrize("header", [True, False])
    def test_a_slice_read_alone_is_that_of_the_stack(self, header, tmp_path):
        masks = np.concatenate([mask_of(0), mask_of(1), mask_of(2)])
        path = write_scan(tmp_path / "a.h5", kspace_of(0, 3), masks, header)
        whole, slices = read(path), by_slice(path)
        assert slices.number == 3
        for i in range(3):
            one = slices.read(i)
            assert torch.equal(one.kspace[0], whole.kspace[i])
            assert torch.equal(one.mask[0], whole.mask[i])

    def test_only_the_rows_of_a_slice_are_read(self, tmp_path, monkeypatch):
        path = write_scan(tmp_path / "a.h5", kspace_of(0, 3))
        rows = []
        original = h5py.Dataset.__getitem__

        def watched(dataset, key, *more):
            rows.append((dataset.name, key))
            return original(dataset, key, *more)

        monkeypatch.setattr(h5py.Dataset, "__getitem__", watched)
        by_slice(path).read(1)
        assert rows == [("/kspace", slice(1, 2))]

    def test_slices_without_signal_are_left_out(self, tmp_path):
        kspace = kspace_of(0, 4, empty=[0, 3])
        kspace[3] = 0
        path = write_scan(tmp_path / "a.h5", kspace)
        assert [found.number for found in slices_with_signal(path)] == [1, 2]
        path = write_scan(tmp_path / "b.h5", kspace_of(0, 2, empty=[0, 1]))
        with pytest.raises(BadInputError, match="none of 2 slices has signal"):
            next(slices_with_signal(path))


class TestSamples:
    def test_a_sample_is_what_recon_would_solve_and_be_compared_with(self, tmp_path):
        path = write_scan(tmp_path / "a.h5", kspace_of(0, 2))
        found = list(slices_with_signal(path))[1]
        mask = torch.from_numpy(mask_of())
        sample = ScanSamples(SAMPLING).supervised(found, mask)
        full = read(path)
        problem = slice_problem(apply_mask(full, mask), 1)
        target = target_of(full, full, problem.operator.csm, 1, problem.unit)
        assert torch.equal(sample.data, problem.data)
        assert torch.equal(sample.operator.csm, problem.operator.csm)
        assert torch.equal(sample.operator.mask, problem.operator.mask)
        assert torch.equal(sample.noise_level, problem.noise_level)
        assert torch.equal(sample.target, target)

    def test_masks_are_new_in_every_sample_and_follow_the_seed(self, tmp_path):
        data = ScanDataset([write_scan(tmp_path / "a.h5", kspace_of(0))], ScanSamples(SAMPLING))
        first, other, again = (data.draw([rng_of(seed)], 16) for seed in (0, 1, 0))
        assert not torch.equal(first.operator.mask, other.operator.mask)
        assert torch.equal(first.data, again.data)
        assert first.data.shape[2:] == SHAPE  # whole slices, whatever the crop

    def test_maps_are_estimated_once(self, tmp_path, monkeypatch):
        path = write_scan(tmp_path / "a.h5", kspace_of(0), mask_of())
        cache = MapsCache(tmp_path / "maps", 1e9)
        samples = ScanSamples(SAMPLING, Splitting(), cache)
        (found,) = slices_with_signal(path)
        first = samples.sample(found, rng_of())
        monkeypatch.setattr("equipoise.training.sources.scans.slice_maps", None)
        again = samples.sample(found, rng_of())
        assert (cache.hits, cache.misses) == (1, 1)
        assert torch.equal(first.operator.csm, again.operator.csm)
        monkeypatch.undo()
        write_scan(path, kspace_of(1), mask_of())
        (changed,) = slices_with_signal(path)
        samples.sample(changed, rng_of())
        assert (cache.hits, cache.misses) == (1, 2)

    def test_the_cache_stays_below_its_limit(self, tmp_path):
        maps = torch.ones(1, 4, *SHAPE, dtype=torch.complex64)
        size = maps.numpy().nbytes + 128
        cache = MapsCache(tmp_path, 3.5 * size)
        for i in range(8):
            cache.keep(str(i), maps)
        kept = sorted(path.stem for path in tmp_path.glob("*.npy"))
        assert len(kept) <= 3
        assert "7" in kept
        assert cache.find("0") is None

    def test_scans_of_one_matrix_make_a_batch(self, tmp_path):
        files = [write_scan(tmp_path / f"{i}.h5", kspace_of(i)[:, : 3 + i]) for i in range(2)]
        data = ScanDataset(files, ScanSamples(SAMPLING))
        batch = data.draw([rng_of(seed) for seed in range(2)], None)
        assert batch.data.shape == (2, 4, *SHAPE)
        assert batch.target.shape == (2, *SHAPE)
        write_scan(files[0], kspace_of(0)[..., 1:-1])
        with pytest.raises(BadInputError, match="batch: 1"):
            data.draw([rng_of(seed) for seed in range(4)], None)

    def test_an_undersampled_scan_without_self_supervision_is_refused_by_name(self, tmp_path):
        data = ScanDataset(
            [write_scan(tmp_path / "a.h5", kspace_of(0), mask_of())], ScanSamples(SAMPLING)
        )
        with pytest.raises(BadInputError, match=r"a\.h5 is undersampled.*data\.self_supervised"):
            data.draw([rng_of()], None)


class TestBadFiles:
    def test_they_are_skipped_counted_and_named(self, tmp_path, caplog):
        good = write_scan(tmp_path / "good.h5", kspace_of(0))
        (tmp_path / "torn.h5").write_bytes(good.read_bytes()[:2000])
        broken = kspace_of(1)
        broken[0, 0, 5, 5] = np.nan
        files = [
            good,
            tmp_path / "torn.h5",
            write_scan(tmp_path / "nan.h5", broken),
            tmp_path / "gone.h5",
        ]
        data = ScanDataset(files, ScanSamples(SAMPLING))
        with caplog.at_level(logging.WARNING):
            drawn = [data.draw([rng_of(seed)], None) for seed in range(6)]
        assert len(drawn) == 6
        assert set(data.skipped) == {*files[1:]}
        assert "skipped 3 of 4 scans" in caplog.text
        assert "nan.h5: 1 of 4096 samples of k-space are NaN" in caplog.text

    def test_what_is_drawn_does_not_depend_on_what_is_known_of_bad_files(self, tmp_path):
        files = [write_scan(tmp_path / f"{i}.h5", kspace_of(i)) for i in range(2)]
        files.insert(1, tmp_path / "gone.h5")
        knowing, new = (ScanDataset(files, ScanSamples(SAMPLING)) for _ in range(2))
        for seed in range(4):
            knowing.draw([rng_of(seed)], None)
        assert knowing.skipped
        for seed in range(4):
            new.skipped.clear()
            pair = [data.draw([rng_of(seed)], None) for data in (knowing, new)]
            assert torch.equal(pair[0].data, pair[1].data)

    def test_none_that_can_be_used_ends_with_the_first_reason(self, tmp_path):
        data = ScanDataset([tmp_path / "gone.h5"], ScanSamples(SAMPLING))
        with pytest.raises(BadInputError, match=r"none of 1 scans.*gone\.h5 does not exist"):
            data.draw([rng_of()], None)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "scans").mkdir()
    for i in range(3):
        write_scan(tmp_path / "scans" / f"s{i}.h5", kspace_of(i, 2))
        write_scan(tmp_path / f"under{i}.h5", kspace_of(i), mask_of(i))
    np.save(tmp_path / "image.npy", np.abs(kspace_of(0)[:, 0]))
    return tmp_path


def configuration(folder, data, **changes):
    content = {
        "name": "tiny",
        "data": {"scans": ["scans"], "validation_scans": ["scans/s0.h5"], **data},
        "simulation": {"acceleration": 2.5, "calibration": 80, "coils": [4, 4]},
        "model": {"method": "mol-ridge", "network": {"features": 4, "basis": 2, "m": 0.2}},
        "crop": None,
        "validation_crop": None,
        "warmup_steps": 0,
        "steps": 2,
        "rtol": [0.05, 0.05],
        "validate_every": 2,
        **changes,
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    return load_config(path)


class TestRuns:
    def test_scans_alone_are_trained_on(self, folder):
        config = configuration(folder, {"held_out": ["s0"]})
        path = training.train(config, folder / "run")
        assert load_model(path).m_evidence == "proved"
        origin = provenance(path)
        assert origin["config"]["data"]["scans"] == ["scans"]
        assert origin["config"]["data"]["validation_scans"] == ["s0.h5"]
        assert origin["validation"]["psnr"] > 10

    def test_subjects_that_are_held_out_are_not_drawn(self, folder):
        config = configuration(folder, {"held_out": ["s0"]})
        data = dataset_of(config, source_of(config))
        assert [path.name for path in data.scans] == ["s1.h5", "s2.h5"]
        assert training_images(config) == []

    def test_a_misspelt_scan_is_an_error(self, folder):
        config = configuration(folder, {"held_out": ["s9"]})
        with pytest.raises(BadInputError, match="s9"):
            dataset_of(config, source_of(config))
        config = configuration(folder, {"held_out": ["scans"]})
        with pytest.raises(BadInputError, match="held_out leaves none"):
            dataset_of(config, source_of(config))
        with pytest.raises(BadInputError, match="which does not exist"):
            training_scans([folder / "none"], set())

    def test_data_need_a_source_and_a_validation(self, folder):
        for data in ({"scans": []}, {"validation_scans": []}):
            with pytest.raises(BadInputError, match="validation or validation_scans"):
                configuration(folder, data)

    def test_test_data_are_refused(self, folder):
        with pytest.raises(BadInputError, match=r"data\.test names subjects"):
            configuration(folder, {"test": ["scans/s2.h5"]})

    def test_images_and_scans_are_mixed_by_weight(self, folder):
        config = configuration(folder, {"train": ["image.npy"], "weights": {"scans": 3}})
        data = dataset_of(config, source_of(config))
        assert data.weights == (1, 3)

        drawn = [type(data.choose(rng_of(seed))) for seed in range(200)]
        assert drawn.count(ScanDataset) == pytest.approx(150, abs=20)
        assert data.draw([rng_of(0)], None).data.shape[2:] == SHAPE

    def test_a_bad_validation_scan_is_skipped_and_only_bad_ones_are_an_error(self, folder):
        (folder / "torn.h5").write_bytes(b"torn")
        names = {"validation_scans": ["scans", "torn.h5"]}
        config = configuration(folder, names, validation_samples=4)
        assert len(validation_set(config, source_of(config))) == 3
        config = configuration(folder, {"validation_scans": ["torn.h5"]})
        with pytest.raises(BadInputError, match=r"none of 1 scans.*torn\.h5"):
            validation_set(config, source_of(config))

    def test_undersampled_scans_alone_are_trained_on(self, folder):
        names = {"scans": ["under0.h5", "under1.h5"], "validation_scans": ["under2.h5"]}
        config = configuration(folder, {**names, "self_supervised": {"fraction": 0.3}})
        path = training.train(config, folder / "run")
        assert load_model(path).m_evidence == "proved"
        validation = provenance(path)["validation"]
        assert validation["kspace_snr"] > 0
        assert "psnr" not in validation
        assert "sense_psnr" not in validation

    def test_a_warm_up_has_nothing_to_learn_from_undersampled_scans(self, folder):
        with pytest.raises(BadInputError, match="set warmup_steps to 0"):
            configuration(folder, {"self_supervised": {}}, warmup_steps=5)


def test_a_split_scan_is_of_an_undersampled_file(folder):
    data = ScanDataset([folder / "under0.h5"], ScanSamples(SAMPLING, Splitting()))
    assert isinstance(data.draw([rng_of()], None), SplitScan)
