"""Folders of images in which some cannot be used: the others are, and these are named."""

import nibabel
import numpy as np
import pytest

from equipoise.outcome import BadInputError
from equipoise.training.beginning import dataset_of, divided, source_of, training_images
from equipoise.training.config import TrainConfig
from equipoise.training.sources import images
from equipoise.training.sources.images import load_labelled, read_labelled
from equipoise.training.validation import validation_set

SIDE = 32


@pytest.fixture
def folder(tmp_path):
    head = np.random.default_rng(0).random((SIDE, SIDE)) + 0.1
    np.save(tmp_path / "a.npy", head)
    np.save(tmp_path / "b.npy", np.stack([head, np.zeros_like(head), head]))
    series = np.stack([head] * 3, -1)[..., None].repeat(2, -1)
    nibabel.save(nibabel.Nifti1Image(series, np.eye(4)), tmp_path / "c.nii.gz")
    return tmp_path


def configuration(folder, **changes):
    data = {"train": [folder], "validation_share": 0.3, **changes.pop("data", {})}
    content = {"name": "tiny", "data": data, "warmup_steps": 0, **changes}
    return TrainConfig.model_validate(content)


def add_bad_files(folder):
    """Files that cannot be used, and the words for them."""
    colours = np.zeros((4, 4, 2), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(colours, np.eye(4)), folder / "colour.nii")
    np.save(folder / "four.npy", np.ones((2, 2, SIDE, SIDE)))
    np.save(folder / "nan.npy", np.full((SIDE, SIDE), np.nan))
    np.save(folder / "huge.npy", np.full((SIDE, SIDE), 1e300))
    (folder / "cut.h5").write_bytes(b"\x89HDF\r\n")
    return {"colour.nii": "colour", "four.npy": r"2, 2, 32", "nan.npy": "NaN", "cut.h5": "read",
            "huge.npy": "beyond single"}  # fmt: skip


def test_slices_of_every_layout_are_found_and_empty_ones_left_out(folder):
    assert len(load_labelled([folder])) == 1 + 2 + 6


def test_a_file_that_cannot_be_used_is_skipped_and_says_why(folder):
    expected = add_bad_files(folder)
    skipped = {}
    found = read_labelled([folder], skipped)
    assert len(found) == 9
    assert {path.name for path in skipped} == set(expected)
    for path, why in skipped.items():
        assert path.name in why
        assert expected[path.name] in why
    # Those that draw samples tell the training, which lists them at the end.
    config = configuration(folder)
    assert dataset_of(config, source_of(config)).skipped == skipped
    # A file that is named itself is not skipped.
    with pytest.raises(BadInputError, match="NaN"):
        read_labelled([folder, folder / "nan.npy"], {})


def test_validation_skips_the_same_files_and_only_bad_ones_are_an_error(folder, tmp_path):
    expected = add_bad_files(folder)
    data = {"validation_share": None, "validation": [folder]}
    config, skipped = configuration(folder, data=data, validation_samples=3), {}
    assert len(validation_set(config, source_of(config), skipped=skipped)) == 3
    assert {path.name for path in skipped} == set(expected)
    bad = tmp_path / "bad"
    bad.mkdir()
    for name in ("nan.npy", "cut.h5"):
        (folder / name).rename(bad / name)
    config = configuration(folder, data={**data, "validation": [bad]})
    with pytest.raises(BadInputError, match="none of 2 files can be used"):
        validation_set(config, source_of(config))
    # A file that is named itself is not skipped.
    config = configuration(folder, data={**data, "validation": [folder, bad / "nan.npy"]})
    with pytest.raises(BadInputError, match="NaN"):
        validation_set(config, source_of(config), skipped={})


def test_a_file_that_vanishes_after_it_was_listed_is_skipped(folder, monkeypatch):
    listed = images.image_files(folder)
    monkeypatch.setattr(images, "image_files", lambda path: listed)
    (folder / "a.npy").unlink()
    skipped = {}
    assert len(read_labelled([folder], skipped)) == 8
    assert [path.name for path in skipped] == ["a.npy"]


def test_images_that_are_too_small_are_left_out(folder, caplog):
    np.save(folder / "small.npy", np.ones((15, 40)))
    np.save(folder / "medium.npy", np.ones((20, 40)))
    data = {"validation_share": None, "validation": [folder]}
    for changes, count in (({}, 10), ({"batch": 2, "crop": 24}, 9), ({"accumulate": 2}, 10)):
        config = configuration(folder, data=data, **changes)
        assert len(dataset_of(config, source_of(config)).images) == count
    assert "have a side below 24 pixels" in caplog.text
    config = configuration(folder, batch=2, crop=64)
    with pytest.raises(BadInputError, match="at most 32 pixels, and 64 are needed: lower crop"):
        dataset_of(config, source_of(config))
    tiny = folder / "tiny"
    tiny.mkdir()
    np.save(tiny / "a.npy", np.ones((12, 12)))
    config = configuration(folder, data={**data, "train": [tiny]})
    with pytest.raises(BadInputError, match=r"tiny have sides of at most 12.*give larger images"):
        dataset_of(config, source_of(config))


def test_subjects_are_set_aside_as_a_whole(folder):
    config = configuration(folder)
    found = training_images(config)
    train, validation = divided(config, found)
    # Of a, b and c, b is in the middle.
    assert (len(train), len(validation)) == (7, 2)
    one = configuration(folder, data={"train": [folder / "a.npy"]})
    with pytest.raises(BadInputError, match="one subject"):
        divided(one, training_images(one))
