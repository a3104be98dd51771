"""An asymmetric phantom, and files of it in the layout of each software that writes them."""

import struct

import h5py
import ismrmrd
import ismrmrd.xsd
import numpy as np
import torch

from equipoise.formats.cfl import cfl_bytes
from equipoise.physics.coils.biot_savart import biot_savart_maps
from equipoise.physics.fourier import image_to_kspace, kspace_to_image

SHAPE = (40, 48)
FOV = (80.0, 120.0)  # y, x: pixels of 2 and 2.5 mm
THICKNESS = 4.0


def phantom(shape=SHAPE, n_slices=3):
    """Blocks that no flip, transpose or shift maps onto themselves, (slices, y, x) complex."""
    y, x = shape
    image = np.zeros((n_slices, *shape), np.complex64)
    for s in range(n_slices):
        image[s, y // 8 : 7 * y // 8, x // 5 : 4 * x // 5] = 0.3
        image[s, y // 8 : y // 3, x // 5 : x // 3] = 1.0  # top left
        image[s, y // 2 : 7 * y // 8, x // 5 : x // 4] = 0.7  # left bar, below
        image[s, 3 * y // 4 : 5 * y // 6, x // 2 : x // 2 + 3 + 2 * s] = 0.8  # grows with the slice
    ramp = np.linspace(-1, 1, x)[None] + 0.5 * np.linspace(-1, 1, y)[:, None] ** 2
    return (image * np.exp(1j * ramp)).astype(np.complex64)


def multicoil(shape=SHAPE, n_slices=3, n_coils=4, noise=0.0):
    """Image, maps, and k-space (slices, coils, y, x) of the phantom."""
    image = phantom(shape, n_slices)
    csm = biot_savart_maps(shape, n_coils, seed=2).numpy()
    kspace = image_to_kspace(torch.from_numpy(csm * image[:, None])).numpy()
    rng = np.random.default_rng(0)
    draws = rng.standard_normal((2, *kspace.shape))
    kspace = kspace + noise * (draws[0] + 1j * draws[1]) / np.sqrt(2)
    return image, csm, kspace.astype(np.complex64)


def header_xml(encoded, recon, limits, trajectory="cartesian", vendor=None, mode=None):
    """An ISMRMRD header by the library's own schema; spaces are ((x, y, z), (fx, fy, fz))."""
    xsd = ismrmrd.xsd

    def space(matrix, fov):
        return xsd.encodingSpaceType(
            matrixSize=xsd.matrixSizeType(x=matrix[0], y=matrix[1], z=matrix[2]),
            fieldOfView_mm=xsd.fieldOfViewMm(x=fov[0], y=fov[1], z=fov[2]),
        )

    counters = {
        name: xsd.limitType(minimum=0, maximum=maximum, center=centre)
        for name, (maximum, centre) in limits.items()
    }
    encoding = xsd.encodingType(
        encodedSpace=space(*encoded),
        reconSpace=space(*recon),
        encodingLimits=xsd.encodingLimitsType(**counters),
        trajectory=xsd.trajectoryType(trajectory),
    )
    if mode is not None:
        factor = xsd.accelerationFactorType(kspace_encoding_step_1=2, kspace_encoding_step_2=1)
        encoding.parallelImaging = xsd.parallelImagingType(
            accelerationFactor=factor, calibrationMode=xsd.calibrationModeType(mode)
        )
    header = xsd.ismrmrdHeader(
        experimentalConditions=xsd.experimentalConditionsType(H1resonanceFrequency_Hz=128000000),
        encoding=[encoding],
    )
    if vendor is not None:
        header.acquisitionSystemInformation = xsd.acquisitionSystemInformationType(
            systemVendor=vendor
        )
    return xsd.ToXML(header)


def with_encoding(xml, other):
    """A header with the encoding of another one as its second."""
    first, second = (x if isinstance(x, str) else x.decode() for x in (xml, other))
    part = second[second.index("<encoding>") : second.index("</encoding>")]
    end = first.index("</encoding>")
    return first[:end] + "</encoding>" + part + first[end:]


OBLIQUE = {  # a slice tilted about the patient's left-right axis, read from head to foot
    "read_dir": (0.0, np.sin(0.3), -np.cos(0.3)),
    "phase_dir": (-1.0, 0.0, 0.0),
    "slice_dir": (0.0, np.cos(0.3), np.sin(0.3)),
}


def readout(samples, line, *, flags=(), centre=None, position=(0, 0, 0), **counters):
    """One acquisition of the library; ``counters`` are of ``idx``, or fields of the header."""
    made = ismrmrd.Acquisition.from_array(np.ascontiguousarray(samples, np.complex64))
    made.idx.kspace_encode_step_1 = line
    made.center_sample = samples.shape[1] // 2 if centre is None else centre
    made.sample_time_us = 5.0
    made.position[:] = position
    for name, value in counters.items():
        if name.endswith("_dir"):
            getattr(made, name)[:] = value
        elif hasattr(made.idx, name):
            setattr(made.idx, name, value)
        else:
            setattr(made, name, value)
    for flag in flags:
        made.setFlag(flag)
    return made


def write_acquisitions(path, xml, acquisitions):
    with ismrmrd.Dataset(str(path), "dataset", mode="w") as dataset:
        dataset.write_xml_header(xml if isinstance(xml, bytes) else xml.encode())
        for acquisition in acquisitions:
            dataset.append_acquisition(acquisition)


def oversampled(kspace):
    """The same scan read out with twice the field of view: twice the samples."""
    images = kspace_to_image(torch.from_numpy(kspace), 1)
    n = images.shape[-1]
    wide = torch.nn.functional.pad(images, (n - n // 2, n // 2))
    return image_to_kspace(wide, 1).numpy()


def write_mrd(path, kspace):
    """Slices of an oblique stack, 2-fold readout oversampling, as a scanner sends them."""
    n_slices, _, y, x = kspace.shape
    spaces = ((2 * x, y, 1), (2 * FOV[1], FOV[0], THICKNESS)), ((x, y, 1), (FOV[1], *FOV[:1], 4.0))
    wide = oversampled(kspace)
    limits = {"kspace_encoding_step_1": (y - 1, y // 2), "slice": (n_slices - 1, 0)}
    xml = header_xml(*spaces, limits)
    write_acquisitions(
        path,
        xml,
        [
            readout(
                wide[s, :, line], line, slice=s, position=slice_position(s, n_slices), **OBLIQUE
            )
            for s in range(n_slices)
            for line in range(y)
        ],
    )


def slice_position(s, n_slices):
    """Slices 5 mm apart about a point off the isocentre."""
    return np.array([11.0, -7.0, 30.0]) + 5.0 * (s - n_slices // 2) * np.array(OBLIQUE["slice_dir"])


def fastmri_header(shape, fov=FOV, recon=None, limits=None):
    """The header of a fastMRI file: the readout, its x, is the first axis of the matrix."""
    y, x = shape
    recon = recon or shape
    spaces = (
        ((y, x, 1), (*fov, THICKNESS)),
        (
            (*recon, 1),
            (fov[0] * recon[0] / y, fov[1] * recon[1] / x, THICKNESS),
        ),
    )
    return header_xml(*spaces, {"kspace_encoding_step_1": limits or (x - 1, x // 2)})


def write_fastmri(path, kspace, **header):
    with h5py.File(path, "w") as file:
        file["kspace"] = kspace
        file["ismrmrd_header"] = fastmri_header(kspace.shape[2:], **header)
        file.attrs["acquisition"], file.attrs["max"] = "AXT2", 1.0


def write_calgary(path, kspace):
    images = kspace_to_image(torch.from_numpy(kspace)).numpy()
    corner = np.moveaxis(np.fft.fft2(images), 1, -1)  # not centred, not orthonormal
    interleaved = np.stack([corner.real, corner.imag], -1).reshape(*corner.shape[:3], -1)
    with h5py.File(path, "w") as file:
        file["kspace"] = interleaved.astype(np.float32)


def write_cmrxrecon(path, kspace, name="kspace_full", times=1):
    """As MATLAB saves (kx, ky, coil, slice, time): h5py sees the axes reversed.

    K-space without time is repeated.
    """
    shape = kspace.shape if kspace.ndim == 5 else (times, *kspace.shape)
    compound = np.zeros(shape, [("real", "f4"), ("imag", "f4")])
    compound["real"], compound["imag"] = kspace.real, kspace.imag
    with h5py.File(path, "w", userblock_size=512) as file:
        file[name] = compound
        file[name].attrs["MATLAB_class"] = np.bytes_("single")
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\0\2IM")


def write_bart(path, kspace):
    """READ = x, PHS1 = y, PHS2 = 1, COIL, and slices at dimension 13."""
    array = kspace.transpose(3, 2, 1, 0)[:, :, None]
    header, data = cfl_bytes(array.reshape(*array.shape[:4], *[1] * 9, array.shape[4]))
    path.with_suffix(".hdr").write_bytes(header)
    path.with_suffix(".cfl").write_bytes(data)


def write_npz(path, kspace):
    np.savez(path, kspace=kspace)


def write_npy(path, kspace):
    np.save(path, kspace)


def twix_block(samples, line, centre, *, mask=0, slice_index=0, position=(0, 0, 0), lines_centre=0,
               repetition=0, average=0):  # fmt: skip
    """One readout (coil, sample) of a VD file: scan header, then each channel with its own."""
    coils, n = samples.shape
    header = bytearray(192)
    length = 192 + coils * (32 + 8 * n)
    struct.pack_into("<I", header, 0, length)
    struct.pack_into("<Q", header, 40, mask)
    struct.pack_into("<HH", header, 48, n, coils)
    counters = (line, average, slice_index, 0, 0, 0, repetition)
    struct.pack_into("<7H", header, 52, *counters)
    struct.pack_into("<H", header, 84, centre)
    struct.pack_into("<H", header, 96, lines_centre)
    struct.pack_into("<7f", header, 100, *position, *TWIX_QUATERNION)
    channels = [bytes(32) + np.ascontiguousarray(s, np.complex64).tobytes() for s in samples]
    return bytes(header) + b"".join(channels)


TWIX_QUATERNION = (np.cos(0.2), np.sin(0.2), 0.0, 0.0)  # w x y z: tilted about the first axis
TWIX_DIRECTIONS = {  # columns of that rotation
    "phase": (1.0, 0.0, 0.0),
    "read": (0.0, np.cos(0.4), np.sin(0.4)),
    "slice": (0.0, -np.sin(0.4), np.cos(0.4)),
}


def twix_position(s, n_slices):
    return np.array([3.0, 5.0, -8.0]) + 6.0 * (s - n_slices // 2) * np.array(
        TWIX_DIRECTIONS["slice"]
    )


def write_twix(path, kspace, noise=None, protocol_lines=None):
    """A VD multi-RAID file with one measurement, as mapVBVD reads it."""
    n_slices, _, y, x = kspace.shape
    wide = oversampled(kspace).conj()  # Siemens' directions belong to the other transform
    blocks = []
    if noise is not None:
        blocks.append(twix_block(noise, 0, 0, mask=1 << 25))
    for s in range(n_slices):
        place = {"slice_index": s, "position": twix_position(s, n_slices), "lines_centre": y // 2}
        blocks += [twix_block(wide[s, :, line], line, x, **place) for line in range(y)]
    write_twix_blocks(path, blocks, (protocol_lines or y, x))


def write_twix_blocks(path, blocks, matrix, **more):
    """A measurement of readouts of a matrix (y, x), with more lines of its protocol."""
    protocol = {
        "sKSpace.lBaseResolution": matrix[1],
        "sKSpace.lPhaseEncodingLines": matrix[0],
        "sKSpace.lPartitions": 1,
        "sSliceArray.asSlice[0].dReadoutFOV": FOV[1],
        "sSliceArray.asSlice[0].dPhaseFOV": FOV[0],
        "sSliceArray.asSlice[0].dThickness": THICKNESS,
        "sRXSPEC.alDwellTime[0]": 5000,
        **more,
    }
    text = "\n".join(f"{name} = {value}" for name, value in protocol.items())
    text = f"### ASCCONV BEGIN ###\n{text}\n### ASCCONV END ###\n"
    dicom = '<ParamString."Manufacturer"> { "SIEMENS" }\n'
    header = b"".join(
        name.encode() + b"\0" + struct.pack("<I", len(content)) + content.encode()
        for name, content in (("Dicom", dicom), ("MeasYaps", text))
    )
    header = struct.pack("<II", 8 + len(header), 2) + header
    end = bytearray(192)
    struct.pack_into("<I", end, 0, len(end))
    struct.pack_into("<Q", end, 40, 1)
    data = header + b"".join(blocks) + bytes(end)
    offset = 10240
    table = struct.pack("<IIIIQQ", 0, 1, 1, 1, offset, len(data))
    path.write_bytes(table.ljust(offset, b"\0") + data)


LAYOUTS = {
    "fastMRI": ("scan.h5", write_fastmri),
    "ISMRMRD": ("scan.mrd", write_mrd),
    "Siemens twix": ("meas.dat", write_twix),
    "Calgary-Campinas": ("scan.h5", write_calgary),
    "CMRxRecon": ("scan.mat", write_cmrxrecon),
    "BART": ("scan.cfl", write_bart),
    "npz": ("scan.npz", write_npz),
    "npy": ("scan.npy", write_npy),
}
"""K-space (slices, coils, y, x) as each software writes it; MoDL files hold images instead."""
