"""The readouts of a session as an ISMRMRD file, written as they arrive."""

import os
import time
from pathlib import Path

import h5py
import numpy as np

from equipoise.outcome import BadInputError
from equipoise.scanner.messages import Readout

BLOCK = 128
"""Readouts that are written at once."""

UNWRITTEN = (OSError, ValueError, RuntimeError)
"""Exceptions of h5py for what cannot be written or flushed."""


class Saving:
    """A new file below the folder of the server; its name does not come from the client.

    A disk that is full ends the saving, not the session.
    """

    def __init__(self, folder: Path, number: int) -> None:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        self.path = folder / f"{stamp}-{os.getpid()}-{number}.mrd"
        self._file: h5py.File | None = None
        self._waiting: list[Readout] = []

    def begin(self, header: bytes) -> list[str]:
        """Create the file with its XML header; warnings if that fails."""
        from ismrmrd.hdf5 import acquisition_dtype

        try:
            self._file = h5py.File(self.path, "x")
            group = self._file.create_group("dataset")
            group.create_dataset("xml", data=np.array([header], object), dtype=h5py.string_dtype())
            group.create_dataset(
                "data", (0,), maxshape=(None,), dtype=acquisition_dtype, chunks=(BLOCK,)
            )
        except (OSError, ValueError) as error:
            return [self._given_up(error)]
        return []

    def add(self, readout: Readout) -> list[str]:
        """Keep a readout; warnings if it cannot be written."""
        if self._file is None:
            return []
        self._waiting.append(readout)
        return self._write() if len(self._waiting) >= BLOCK else []

    def close(self) -> list[str]:
        """Write what is left, and close the file; warnings if that fails."""
        notes = self._write() if self._file is not None and self._waiting else []
        file, self._file = self._file, None
        try:
            if file is not None:
                file.close()
        except UNWRITTEN as error:
            notes.append(self._given_up(error))
        return notes

    def _write(self) -> list[str]:
        assert self._file is not None
        try:
            data = self._file["dataset/data"]
            block = np.empty(len(self._waiting), data.dtype)
            for i, one in enumerate(self._waiting):
                block[i]["head"] = one.head[0]
                block[i]["traj"], block[i]["data"] = one.coordinates, one.samples
            data.resize(len(data) + len(block), 0)
            data[-len(block) :] = block
            self._waiting = []
        except UNWRITTEN as error:
            return [self._given_up(error)]
        return []

    def _given_up(self, error: Exception) -> str:
        self._waiting, file, self._file = [], self._file, None
        try:
            if file is not None:
                file.close()
        # A file on a full disk cannot be flushed either.
        except UNWRITTEN:
            pass
        return f"the scan is not saved any more: {error}"


def check_save_folder(folder: Path) -> None:
    """Refuse a folder that cannot be written.

    Raises
    ------
    BadInputError
        If it is no folder, or cannot be written.
    """
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise BadInputError(f"{folder} is not a folder that can be written to: create it first")
