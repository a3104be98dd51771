"""Fine-tuning on tiny scans: how they are split, what is refused, what is written."""

import json

import numpy as np
import pytest
import torch
from test_scan_sources import SAMPLING, SHAPE, kspace_of, mask_of, write_scan
from typer.testing import CliRunner

from equipoise.cli.app import app
from equipoise.methods.mol_ridge_3d import MolRidge3D
from equipoise.networks.ridge_volume import RidgeVolume
from equipoise.outcome import BadInputError
from equipoise.training.finetune import FinetuneOutcome, FinetuneSettings, finetune, judgement
from equipoise.training.sources.held_out import hold_out
from equipoise.training.sources.scans import ScanSamples, training_scans
from equipoise.training.sources.self_supervised import SplitScan, Splitting
from equipoise.zoo.model_file import load_model, provenance, save_model
from problems import new_method

SAMPLES = ScanSamples(SAMPLING, Splitting())


@pytest.fixture
def start(tmp_path):
    """A ridge whose rule gives a data weight that is far too low, so that steps improve it."""
    model = new_method("mol-ridge", network={"features": 4, "basis": 2}, lam=0.5, m=0.2)
    path = tmp_path / "start.safetensors"
    simulation = {"acceleration": 2.5, "calibration": 80}
    save_model(path, model, {"config": {"simulation": simulation}})
    return path


def rng_of(seed=0):
    return np.random.default_rng(seed)


class TestSplit:
    def test_files_are_held_out_as_a_whole(self, tmp_path):
        files = [write_scan(tmp_path / f"{i}.h5", kspace_of(i)) for i in range(5)]
        held = hold_out(files, SAMPLES, 0)
        assert held.split == "1 of 5 files are held out"
        assert set(held.dataset.scans) == {*files} - {*held.files}
        assert len(held.judged) == 4

    def test_slices_of_a_single_file_are_held_out(self, tmp_path):
        path = write_scan(tmp_path / "a.h5", kspace_of(0, 6, empty=[5]))
        held = hold_out([path], SAMPLES, 0)
        assert held.split == "one file: 1 of 5 slices with signal are held out"
        assert held.dataset.numbers == [0, 1, 3, 4]
        drawn = held.dataset.draw([rng_of()], None)
        others = [(drawn.target - judged.target).abs().max() for judged in held.judged]
        assert min(others) > 0

    @pytest.mark.parametrize("undersampled", [False, True])
    def test_samples_of_a_single_slice_are_held_out(self, undersampled, tmp_path):
        mask = mask_of() if undersampled else None
        path = write_scan(tmp_path / "a.h5", kspace_of(0), mask)
        held = hold_out([path], SAMPLES, 0)
        assert "one file with one slice: " in held.split
        out = held.judged[0].held_back.mask
        assert len(held.judged) == (1 if undersampled else 4)
        for judged in held.judged:
            assert torch.equal(judged.held_back.mask, out)
            assert not (judged.operator.mask & out).any()
        for seed in range(3):
            drawn = held.dataset.draw([rng_of(seed)], None)
            assert isinstance(drawn, SplitScan)
            seen = drawn.operator.mask | drawn.held_back.mask
            assert not (seen & out).any()
            assert torch.equal(drawn.data, drawn.data * drawn.operator.mask[:, None])
            assert float(drawn.scale) > 0

    def test_bad_files_are_named_in_either_part(self, tmp_path):
        files = [write_scan(tmp_path / f"{i}.h5", kspace_of(i)) for i in range(3)]
        held_file = hold_out(files, SAMPLES, 0).files[0]
        held_file.write_bytes(b"torn")
        with pytest.raises(BadInputError, match=f"none of 1 scans.*{held_file.name}"):
            hold_out(files, SAMPLES, 0)


class TestFinetune:
    def test_a_better_model_is_written_with_what_was_held_out(self, start, tmp_path, monkeypatch):
        monkeypatch.setattr("equipoise.training.sources.held_out.LEAST_JUDGED", 1)
        files = [write_scan(tmp_path / f"{i}.h5", kspace_of(i)) for i in range(3)]
        output = tmp_path / "tuned.safetensors"
        settings = FinetuneSettings(steps=3, rule_rate=0.5)
        found = finetune(start, [*files], output, settings)
        assert found.outcome is FinetuneOutcome.BETTER
        assert found.after["psnr"] > found.before["psnr"] + 0.5
        tuned = load_model(output)
        assert (tuned.m, tuned.m_evidence) == (0.2, "proved")
        origin = provenance(output)
        assert origin["finetune"]["before"] == found.before
        assert origin["config"]["data"]["scans"] == [f"{i}.h5" for i in range(3)]
        assert len(origin["config"]["data"]["validation_scans"]) == 1
        assert str(tmp_path) not in json.dumps(origin)

    def test_a_worse_model_is_not_written(self, start, tmp_path, monkeypatch):
        """Trained to raise the error."""
        error = SplitScan.error
        monkeypatch.setattr(SplitScan, "error", lambda *given: 1 / error(*given))
        path = write_scan(tmp_path / "a.h5", kspace_of(0), mask_of())
        output = tmp_path / "tuned.safetensors"
        command = ["finetune", start, path, "-o", output, "--steps", 2, "--learning-rate", 0.1]
        result = CliRunner().invoke(app, [str(word) for word in command])
        assert result.exit_code == 5, result.output
        assert "not_better: the fine-tuned model is not better" in result.output
        assert not output.exists()

    def test_every_quality_must_hold_and_one_must_rise(self, start):
        model = load_model(start)

        def outcome(before, after):
            return judgement(model, model, before, after)

        both = {"psnr": 30.0, "kspace_snr": 10.0}
        assert outcome(both, {**both, "psnr": 31.0}) is FinetuneOutcome.BETTER
        for after in (both, {"psnr": 31.0, "kspace_snr": 9.9}, {**both, "psnr": float("nan")}):
            assert outcome(both, after) is FinetuneOutcome.NOT_BETTER

    def test_a_model_that_lost_its_proof_is_not_written(self, start):
        model = load_model(start)
        claimed = new_method("mol-lr", network={"features": 4, "layers": 2}, seed=0, m=0.2)
        found = judgement(model, claimed, {"psnr": 30.0}, {"psnr": 31.0})
        assert found is FinetuneOutcome.NOT_CERTAIN

    @pytest.mark.parametrize(
        ("model", "words"), [("tv", "tv has no weights"), ("none", "there is no model 'none'")]
    )
    def test_a_start_without_weights_is_refused(self, model, words, tmp_path):
        path = write_scan(tmp_path / "a.h5", kspace_of(0))
        with pytest.raises(BadInputError, match=words):
            finetune(model, [path], tmp_path / "o.safetensors")

    def test_a_start_for_series_is_refused(self, tmp_path):
        series = MolRidge3D(RidgeVolume(m=0.1, features=2, basis=2, filters=1, across=2, taps=3))
        save_model(tmp_path / "series.safetensors", series, {})
        path = write_scan(tmp_path / "a.h5", kspace_of(0))
        with pytest.raises(BadInputError, match=r"is for images \(time, y, x\).*slice by slice"):
            finetune(tmp_path / "series.safetensors", [path], tmp_path / "o.safetensors")

    def test_the_start_and_the_scans_are_never_written_over(self, start, tmp_path):
        path = write_scan(tmp_path / "a.h5", kspace_of(0))
        content = start.read_bytes()
        with pytest.raises(BadInputError, match=r"start\.safetensors"):
            finetune(start, [path], start, overwrite=True)
        assert start.read_bytes() == content


def test_a_folder_is_its_scans_and_other_files_are_not_opened(tmp_path):
    scan = write_scan(tmp_path / "a.h5", kspace_of(0))
    for name in ("README.md", ".hidden.h5", "notes.txt"):
        (tmp_path / name).write_text("not a scan")
    assert training_scans([tmp_path], set()) == [scan]
    assert SHAPE == (32, 32)
