"""Frames as ISMRMRD images: pixels, geometry of their readouts, and what is promised of them."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from equipoise.optional import need
from equipoise.scanner.configuration import Configuration
from equipoise.scanner.frames import Frame, remark_of
from equipoise.version import __version__

MAGNITUDE, COMPLEX = 1, 5
"""``ISMRMRD_IMTYPE``."""

SERIES, NOISE_SERIES = 1, 2
"""``image_series_index`` of the images and of their noise."""

FULL, HEADROOM = 32767, 8
"""Largest int16, and how many times brighter than the first image a later one may be."""

WINDOW_PERCENTILE = 99.5
"""Upper end of the window; the brightest half per cent may saturate."""

LARGEST_INDEX = 2**16 - 1


@dataclass
class Scale:
    """Slope and window of a series, from its first image, so that brightness does not jump.

    ``stored = image / slope``; the window is in stored values.
    """

    slope: float
    bright: float

    @classmethod
    def of(cls, first: np.ndarray, integers: bool) -> "Scale":
        """The scale of a series whose first image has these magnitudes."""
        slope = (float(first.max()) or 1.0) * HEADROOM / FULL if integers else 1.0
        bright = float(np.percentile(first, WINDOW_PERCENTILE)) or float(first.max()) or 1.0
        return cls(slope, bright / slope)

    @property
    def attributes(self) -> dict[str, str]:
        """What hosts and viewers read."""
        return {
            "RescaleSlope": f"{self.slope:.8g}",
            "RescaleIntercept": "0",
            "WindowCenter": f"{self.bright / 2:.8g}",
            "WindowWidth": f"{self.bright:.8g}",
        }


class Series:
    """The images of a session: their indices, and one scale for each series."""

    def __init__(self, config: Configuration, checksum: str) -> None:
        self.config, self.checksum = config, checksum
        self._scales: dict[int, Scale] = {}
        self._count = 0

    def images(self, frame: Frame, head: np.ndarray) -> list[Any]:
        """The images of a frame for the wire: the reconstruction and, if there is one, its noise.

        ``head`` is the header of the first readout of the frame.
        """
        self._count += 1
        attributes = self._attributes(frame)
        found = [self._image(frame, head, frame.image, SERIES, attributes)]
        if frame.noise is not None:
            noise = {
                **attributes,
                "ImageComments": "standard deviation of the noise of the complex image",
                "SeriesDescriptionAdditional": "equipoise noise map",
            }
            found.append(self._image(frame, head, frame.noise, NOISE_SERIES, noise))
        return found

    def _attributes(self, frame: Frame) -> dict[str, Any]:
        slices, config = frame.slices, self.config
        outcomes = list(dict.fromkeys(one.outcome for one in slices))
        bounds = [one.distance_bound for one in slices]
        ranges = [one.in_range for one in slices]
        remark = remark_of(slices)
        in_range = "false" if False in ranges else "unknown" if None in ranges else "true"
        name = "sense" if config.method == "sense" else config.model
        lams = [f"{one.lam:.6g}" for one in slices if one.lam is not None]
        found: dict[str, Any] = {
            "DataRole": "Image",
            "ImageProcessingHistory": ["EQUIPOISE", name],
            "SeriesDescriptionAdditional": " ".join(["equipoise", remark]).strip()[:64],
            "ImageComments": remark or f"equipoise {name}",
            "EquipoiseVersion": __version__,
            "EquipoiseModel": name,
            "EquipoiseOutcome": ", ".join(outcomes),
            "EquipoiseInRange": in_range,
            "EquipoiseLam": ", ".join(dict.fromkeys(lams)),
        }
        if config.method != "sense":
            found["EquipoiseModelChecksum"] = self.checksum
        known = [bound for bound in bounds if bound is not None]
        if len(known) == len(bounds):
            found["EquipoiseDistanceBound"] = f"{max(known):.6g}"
        certificates = [one.certificate for one in slices if one.certificate is not None]
        if certificates:
            found["EquipoiseCertificate"] = f"[{','.join(certificates)}]"
        return found

    def _image(
        self, frame: Frame, head: np.ndarray, pixels: np.ndarray, series: int, more: dict[str, Any]
    ) -> Any:
        ismrmrd = need("ismrmrd", "mrd", "the ISMRMRD streaming protocol")
        stored, attributes = self._stored(pixels, series)
        readout = ismrmrd.AcquisitionHeader.from_buffer_copy(head.tobytes())
        made = ismrmrd.Image.from_array(stored[None], transpose=False)
        copied = ismrmrd.ImageHeader.from_acquisition(readout)
        copied.data_type, copied.channels = made.data_type, 1
        copied.matrix_size[:] = stored.shape[::-1]
        copied.image_type = COMPLEX if np.iscomplexobj(stored) else MAGNITUDE
        copied.image_index = (self._count - 1) % LARGEST_INDEX + 1
        copied.image_series_index = series
        if frame.spacing is not None:
            copied.field_of_view[:] = [n * d for n, d in zip(stored.shape, frame.spacing)][::-1]
        made.setHead(copied)
        axes = {"ImageRowDir": copied.read_dir, "ImageColumnDir": copied.phase_dir}
        directions = {n: [f"{v:.8f}" for v in axis] for n, axis in axes.items() if any(axis)}
        made.attribute_string = ismrmrd.Meta({**more, **attributes, **directions}).serialize()
        return made

    def _stored(self, pixels: np.ndarray, series: int) -> tuple[np.ndarray, dict[str, str]]:
        """The pixels in the wanted type, and the attributes of their scale."""
        magnitude = np.abs(pixels)
        integers = self.config.images == "int16"
        if series not in self._scales:
            self._scales[series] = Scale.of(magnitude, integers)
        scale = self._scales[series]
        attributes = scale.attributes
        if integers:
            stored = np.round(magnitude / scale.slope)
            if stored.max() > FULL:
                attributes["EquipoiseSaturated"] = f"{int((stored > FULL).sum())} pixels"
            return np.minimum(stored, FULL).astype(np.int16), attributes
        if self.config.images == "magnitude" or not np.iscomplexobj(pixels):
            return magnitude.astype(np.float32), attributes
        return pixels.astype(np.complex64), attributes
