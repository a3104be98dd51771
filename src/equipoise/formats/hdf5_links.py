"""Check of the references of an HDF5 file to other files.

Links, virtual datasets and external storage can name any file of the machine, whose content would
then end up in the output. They are followed only to HDF5 files in the folder of the file, or below
it.
"""

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import h5py

from equipoise.formats.inputs import check_regular
from equipoise.outcome import BadInputError

MAX_LINKS, MAX_DEPTH = 10_000, 64
"""Most links of a file and of those that it refers to, and deepest nesting of groups. Scans have
about ten."""

MAX_FILES = 100
"""Most files that one file may refer to."""


def check_links(path: Path) -> None:
    """Check all links and datasets of a file, and of the files that it refers to.

    Raises
    ------
    BadInputError
        If a link or virtual dataset leads out of the folder of the file, or to something that is
        missing or not a regular file; if a dataset stores its samples in another file; or if there
        are too many links or files.
    """
    resolved = path.resolve()
    stat = resolved.stat()
    _check(resolved, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=64)
def _check(path: Path, size: int, modified: int) -> None:
    """The check, cached because several readers look at the same file."""
    _Walk(path).file(path)


def virtual_sources(dataset: h5py.h5d.DatasetID) -> Iterator[tuple[bytes, bytes]]:
    """The files and datasets of which a virtual dataset consists."""
    creation = dataset.get_create_plist()
    if creation.get_layout() == h5py.h5d.VIRTUAL:
        for i in range(creation.get_virtual_count()):
            name = creation.get_virtual_filename(i), creation.get_virtual_dsetname(i)
            yield name[0].encode(), name[1].encode()


def target_of(path: Path, name: bytes) -> Path:
    """The file to which a link or virtual dataset refers; ``.`` is the file itself."""
    return path if name in (b"", b".") else (path.parent / os.fsdecode(name)).resolve()


class _Walk:
    """One walk through a file and the files that it refers to."""

    def __init__(self, path: Path) -> None:
        self.root, self.folder = path, path.parent
        self.seen: set[Path] = set()
        self.links = 0

    def file(self, path: Path) -> None:
        # Files may refer to each other in a circle.
        if path in self.seen:
            return
        self.seen.add(path)
        if len(self.seen) > MAX_FILES:
            raise self.refusal(path, f"more than {MAX_FILES} files belong to it")
        with h5py.File(path) as file:
            for name, kind in self.entries(path, file):
                self.link(path, file, name, kind)

    def entries(self, path: Path, file: h5py.File) -> list[tuple[bytes, int]]:
        """Name and kind of every link that hard links lead to."""
        found: list[tuple[bytes, int]] = []
        # The limit is for all files together; otherwise a hundred files could use it each.
        left = MAX_LINKS - self.links

        def visit(name: bytes, info: h5py.h5l.LinkInfo) -> bool | None:
            found.append((name, info.type))
            # An exception inside the callback would crash HDF5; True ends the visit instead.
            return True if len(found) > left or name.count(b"/") > MAX_DEPTH else None

        file.id.links.visit(visit, info=True)
        self.links += len(found)
        if self.links > MAX_LINKS or (found and found[-1][0].count(b"/") > MAX_DEPTH):
            raise self.refusal(
                path, f"more than {MAX_LINKS} links, or groups {MAX_DEPTH} deep: it is not a scan"
            )
        return found

    def link(self, path: Path, file: h5py.File, name: bytes, kind: int) -> None:
        text = os.fsdecode(name)
        if kind == h5py.h5l.TYPE_EXTERNAL:
            self.file(self.inside(path, f"the link {text!r}", file.id.links.get_val(name)[0]))
        elif kind == h5py.h5l.TYPE_HARD:
            found = h5py.h5o.open(file.id, name)
            if isinstance(found, h5py.h5d.DatasetID):
                self.dataset(path, text, found)
        # A soft link stays in the file, where everything is visited anyway.
        elif kind != h5py.h5l.TYPE_SOFT:
            raise self.refusal(path, f"the link {text!r} is of a kind that is not known")

    def dataset(self, path: Path, name: str, found: h5py.h5d.DatasetID) -> None:
        creation = found.get_create_plist()
        if creation.get_external_count():
            outside = os.fsdecode(creation.get_external(0)[0])
            raise self.refusal(
                path, f"{name!r} keeps its data in another file, {outside}: copy it into this one"
            )
        for source, inner in set(virtual_sources(found)):
            target = self.inside(path, f"the virtual dataset {name!r}", source)
            self.file(target)
            with h5py.File(target) as file:
                try:
                    part = file[inner]
                except KeyError:
                    part = None
                # Virtual datasets of virtual datasets could nest without end.
                if not isinstance(part, h5py.Dataset) or part.is_virtual:
                    raise self.refusal(
                        path,
                        f"the virtual dataset {name!r} refers to {os.fsdecode(inner)!r} in "
                        f"{target.name}, which is not a dataset that holds samples",
                    )

    def inside(self, path: Path, what: str, name: bytes) -> Path:
        """The target of a link, if it may be read."""
        target = target_of(path, name)
        # HDF5 replaces %b in the names of virtual datasets, so the real target is not known here.
        if b"%" in name or not target.is_relative_to(self.folder):
            raise self.refusal(
                path,
                f"{what} leads to {os.fsdecode(name)}, outside the folder of the scan, and is not "
                "followed: copy the data into the file, or the other file next to it",
            )
        try:
            check_regular(target)
            if h5py.is_hdf5(target):
                return target
            reason = f"{target} is not HDF5"
        except BadInputError as error:
            reason = str(error)
        raise self.refusal(path, f"{what} leads to another file, and {reason}")

    def refusal(self, path: Path, reason: str) -> BadInputError:
        through = "" if path == self.root else f" (through {path.name})"
        return BadInputError(f"{self.root}{through}: {reason}")
