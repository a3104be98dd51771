"""Patient and study reach DICOM from the header of a scan, or from images of the examination."""

import warnings

import h5py
import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid
from typer.testing import CliRunner

import layouts
from equipoise import read
from equipoise.cli.app import app
from equipoise.formats.images import read_images
from equipoise.formats.study import is_valid, read_template, study_of
from equipoise.formats.writers.write import write_image
from equipoise.methods.data_weight import FixedWeight
from equipoise.methods.mol import MOL
from equipoise.networks.cnn import CNN
from equipoise.outcome import BadInputError
from equipoise.zoo.model_file import save_model

STUDY = "1.2.840.113619.2.1"
SUBJECT = f"""
<subjectInformation><patientName>Doe^Jane</patientName><patientWeight_kg>61.5</patientWeight_kg>
<patientID>P-7</patientID><patientBirthdate>1980-02-03</patientBirthdate>
<patientGender>F</patientGender></subjectInformation>
<studyInformation><studyDate>2026-01-31</studyDate><studyTime>12:30:05</studyTime>
<studyID>4</studyID><accessionNumber>77</accessionNumber>
<studyInstanceUID>{STUDY}</studyInstanceUID></studyInformation>
"""


@pytest.fixture
def scan(tmp_path):
    path = tmp_path / "scan.mrd"
    layouts.write_mrd(path, layouts.multicoil((24, 20), 2)[2])
    with h5py.File(path, "r+") as file:
        xml = file["dataset/xml"][0].decode()
        start = xml.index("<experimentalConditions")
        file["dataset/xml"][0] = (xml[:start] + SUBJECT + xml[start:]).encode()
    return path


def dicoms(folder):
    return [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]


def test_patient_and_study_of_the_header_are_written_to_dicom(scan, tmp_path):
    write_image(tmp_path / "o.dcm", read_images(scan))
    first, second = dicoms(tmp_path / "o.dcm")
    assert first.PatientName == "Doe^Jane"
    assert (first.PatientID, first.PatientSex, first.PatientBirthDate) == ("P-7", "F", "19800203")
    assert float(first.PatientWeight) == 61.5
    assert (first.StudyDate, first.StudyTime, first.StudyID) == ("20260131", "123005", "4")
    assert first.StudyInstanceUID == second.StudyInstanceUID == STUDY
    assert first.SeriesInstanceUID == second.SeriesInstanceUID != STUDY


def test_they_are_written_to_no_other_format(scan, tmp_path):
    content = read_images(scan)
    for name in ("o.h5", "o.nii", "o.mrd", "o.cfl", "o.npy"):
        write_image(tmp_path / name, content)
    written = b"".join(path.read_bytes() for path in tmp_path.glob("o*"))
    assert b"Doe" not in written
    assert b"P-7" not in written


def test_a_result_lands_beside_the_series_of_a_template(scan, tmp_path):
    write_image(tmp_path / "theirs.dcm", read_images(scan))
    for path in (tmp_path / "theirs.dcm").glob("*.dcm"):
        image = pydicom.dcmread(path)
        image.PatientName, image.SeriesNumber, image.StudyID = "Roe^Richard", 5, "9"
        image.StudyInstanceUID = image.FrameOfReferenceUID = STUDY + ".3"
        image.save_as(path)
    (tmp_path / "theirs.dcm" / "notes.txt").write_text("no image")
    save_model(tmp_path / "m.safetensors", MOL(CNN(4, 2, gain=0.5), FixedWeight(5.0), 0.2), {})
    model = ("--model", tmp_path / "m.safetensors")
    arguments = ["recon", scan, *model, "-o", tmp_path / "ours.dcm"]
    done = CliRunner().invoke(
        app, [*map(str, arguments), "--dicom-template", str(tmp_path / "theirs.dcm")]
    )
    assert done.exit_code == 0, done.output
    ours, theirs = (dicoms(tmp_path / name)[0] for name in ("ours.dcm", "theirs.dcm"))
    for name in ("PatientName", "StudyInstanceUID", "FrameOfReferenceUID", "StudyID", "PatientID"):
        assert ours[name].value == theirs[name].value
    assert ours.SeriesNumber == 1005
    assert ours.SeriesInstanceUID != theirs.SeriesInstanceUID


@pytest.mark.parametrize(
    ("target", "template", "words"),
    [("o.h5", ".", "needs a DICOM output"), ("o.dcm", "empty", "holds no DICOM image")],
)
def test_a_template_that_cannot_be_used_is_refused_before_the_work(
    target, template, words, scan, tmp_path
):
    (tmp_path / "empty").mkdir()
    arguments = ["recon", scan, "-o", tmp_path / target, "--dicom-template", tmp_path / template]
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == 1
    assert words in done.output
    assert not (tmp_path / target).exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("patientName", "a\\b"),
        ("patientName", "x" * 65),
        ("patientBirthdate", "yesterday"),
        ("patientGender", "female"),
        ("studyInstanceUID", "1.2.x"),
        ("studyTime", "noon"),
        ("patientWeight_kg", "nan"),
    ],
)
def test_a_value_that_dicom_forbids_is_left_out(name, value):
    assert study_of({name: value}) == {}


def test_every_value_that_is_kept_is_valid_to_pydicom():
    values = {"patientName": "Ünal^Çiğdem", "patientWeight_kg": "70", "studyID": "x" * 16}
    made = pydicom.Dataset()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for keyword, value in study_of(values).items():
            setattr(made, keyword, value)
    assert len(made) == 3
    assert is_valid("StudyInstanceUID", generate_uid())


def test_a_template_may_be_one_image(scan, tmp_path):
    write_image(tmp_path / "o.dcm", read_images(scan))
    assert read_template(tmp_path / "o.dcm" / "0001.dcm")["PatientID"] == "P-7"
    with pytest.raises(BadInputError, match="holds no DICOM image"):
        read_template(scan)


def test_a_scan_without_a_person_has_none(tmp_path):
    path = tmp_path / "scan.mrd"
    layouts.write_mrd(path, layouts.multicoil((24, 20), 1)[2])
    assert read(path).header.study == {}
    content = read_images(path)
    write_image(tmp_path / "o.dcm", content)
    assert dicoms(tmp_path / "o.dcm")[0].PatientName == ""
    assert np.isfinite(content["image"]).all()
