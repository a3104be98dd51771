"""More than 300 malformed files, from a fixed seed, through the commands that read files.

None may hang, take more than 2 GB, end in a traceback, crash the interpreter, or leave a file.
benchmarks/malformed_inputs_are_refused.py sends twice as many through every command.
"""

import json
import re
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

import layouts

SEED = 7
LAYOUTS = {**layouts.LAYOUTS, "MoDL": ("scan.hdf5", None)}
SHAPE = (20, 24)
LIMIT_BYTES, LIMIT_SECONDS = 2 * 10**9, 10


def write_modl(path, kspace):
    image, csm, _ = layouts.multicoil(SHAPE, len(kspace))
    with h5py.File(path, "w") as file:
        file["tstOrg"], file["tstCsm"] = image, np.repeat(csm, len(image), 0)
        file["tstMask"] = np.ones(image.shape, np.int8)


class Cases:
    """Malformed files in one folder, each under a name of its own."""

    def __init__(self, folder):
        self.folder, self.rng = folder, np.random.default_rng(SEED)
        self.kspace = layouts.multicoil(SHAPE, 2)[2]
        self.commands = []
        self.harmless = set()
        good = folder / "good"
        good.mkdir()
        self.good = {}
        for layout, (name, write) in LAYOUTS.items():
            self.good[layout] = good / f"{layout.replace(' ', '-')}-{name}"
            (write or write_modl)(self.good[layout], self.kspace)

    def all(self):
        for make in (
            self.truncations, self.damaged_bytes, self.dimensions, self.types, self.bombs,
            self.hostile_headers, self.links, self.own_headers, self.masks_and_maps,
        ):  # fmt: skip
            make()

    def path(self, kind, suffix):
        return self.folder / f"{kind}-{len(self.commands)}{suffix}"

    def add(self, path, *, harmless=False):
        """Read the file by converting it; a harmless change may also be read well."""
        if harmless:
            self.harmless.add(path.name)
        self.commands.append((path.name, ["convert", str(path), "OUT/o.npy"]))

    def like(self, layout, kind, content):
        """A file of a layout with other bytes; the header of a cfl comes along."""
        source = self.good[layout]
        path = self.path(kind, source.suffix)
        path.write_bytes(content)
        if source.suffix == ".cfl":
            path.with_suffix(".hdr").write_bytes(source.with_suffix(".hdr").read_bytes())
        return path

    def truncations(self):
        for layout, source in self.good.items():
            content = source.read_bytes()
            for _ in range(10):
                self.add(self.like(layout, "cut", content[: self.rng.integers(0, len(content))]))

    def damaged_bytes(self):
        for layout, source in self.good.items():
            for width in (1, 8, 64, 512):
                for _ in range(2):
                    content = bytearray(source.read_bytes())
                    start = int(self.rng.integers(0, min(len(content) - width, 16384)))
                    content[start : start + width] = self.rng.bytes(width)
                    self.add(self.like(layout, "flip", bytes(content)), harmless=True)

    def hdf5(self, kind, *, harmless=False, **datasets):
        path = self.path(kind, ".h5")
        with h5py.File(path, "w") as file:
            for name, value in datasets.items():
                file[name] = value
        self.add(path, harmless=harmless)

    def npz(self, kind, *, harmless=False, **arrays):
        path = self.path(kind, ".npz")
        np.savez(path, **arrays)
        self.add(path, harmless=harmless)

    def dimensions(self):
        """Axes swapped, lost, added, of length 0 or 1."""
        for _ in range(12):
            swapped = self.kspace.transpose(self.rng.permutation(4))
            self.hdf5("swap", harmless=True, kspace=swapped)
            self.npz("swap", harmless=True, kspace=swapped)
        for array in (
            self.kspace[0, 0], self.kspace[0, 0, 0], self.kspace[None], self.kspace[:0],
            self.kspace[:, :0], self.kspace[..., :0], np.complex64(1), self.kspace[..., None, None],
        ):  # fmt: skip
            self.hdf5("axes", kspace=array)
            self.npz("axes", kspace=array)
        for name in ("mask", "csm", "target"):
            for shape in ((), (3,), (20, 25), (2, 3, 20, 24), (1, 1, 1, 1, 1)):
                self.hdf5("beside", kspace=self.kspace, **{name: np.ones(shape, np.complex64)})
                self.npz("beside", kspace=self.kspace, **{name: np.ones(shape, np.complex64)})
        for dims in ("20 24", "24 20 1 4 0", "-24 20 1 4", "24 20 1 4 " + "1 " * 20, "a b c",
                     "", "1000000000 " * 5, "24 20 1 4 1 1 1 1 1 1 1 1 1 999999999"):  # fmt: skip
            path = self.like("BART", "dims", self.good["BART"].read_bytes())
            path.with_suffix(".hdr").write_text(f"# Dimensions\n{dims}\n")
            self.add(path)

    def types(self):
        dtype = np.dtype([("real", "f4"), ("imag", "f4"), ("more", "f4")])
        for array in (
            np.ones((2, 4, 20, 24), np.int16), np.ones((2, 4, 20, 24), bool),
            np.ones((2, 4, 20, 24)), np.full((2, 4, 20, 24), b"text"),
            np.zeros((2, 4, 20, 24), dtype),
            np.full((2, 4, 20, 24), np.nan + 0j), np.full((2, 4, 20, 24), np.inf + 0j),
            np.zeros((2, 4, 20, 24), np.complex64),
        ):  # fmt: skip
            self.hdf5("type", kspace=array)
            self.npz("type", kspace=array)
            self.hdf5("type", kspace_full=array)
            real = array.dtype in (np.int16, np.float64)  # images may be real
            modl = {"tstOrg": array[:, 0], "tstCsm": array, "tstMask": array[:, 0]}
            self.hdf5("type", harmless=real, **modl)
        for name in ("mask", "csm", "target"):
            self.hdf5("type", kspace=self.kspace, **{name: np.full((2, 20, 24), b"text")})
            self.npz("type", kspace=self.kspace, **{name: np.full((2, 20, 24), "text")})
            self.hdf5(
                "type", kspace=self.kspace, **{name: np.full((2, 20, 24), np.nan)}, harmless=True
            )
        self.npz("pickle", kspace=np.array([{"a": 1}], dtype=object))

    def hostile_headers(self):
        """XML and counters of ISMRMRD files that ask for too much, or for nothing."""
        huge = 10**9
        for x, y, z in ((huge, huge, huge), (huge, 20, 1), (24, huge, 1), (0, 0, 0), (-24, -20, 1),
                        (48, 20, huge), (65535, 65535, 65535), (2**70, 20, 1)):  # fmt: skip
            self.mrd(lambda t, x=x, y=y, z=z: self.matrix(t, x, y, z), harmless=(x, y) == (48, 20))
        for old, new in (
            (b"<center>10</center>", b"<center>-99999</center>"),
            (b"<center>10</center>", b"<center>ten</center>"),
            (b"<maximum>19</maximum>", b"<maximum>1e9</maximum>"),
            (b"cartesian", b"spiral"),
            (b"<encodedSpace>", b"<somethingElse>"),
            (b"encodedSpace>", b"anotherSpace>"),
            (b"<ismrmrdHeader", b"<!DOCTYPE a [<!ENTITY b 'c'>]><ismrmrdHeader"),
            (b"<x>48</x>", b"<x></x>"),
            (b"<x>48</x>", b"<x>4&8</x>"),
            (b"<x>240.0</x>", b"<x>nan</x>"),
            (b"<x>240.0</x>", b"<x>-1</x>"),
            (b"<x>240.0</x>", b"<x>1e-300</x>"),
            (b"<x>240.0</x>", b"<x>1e300</x>"),
        ):
            kind = old.startswith(b"<x>240")
            self.mrd(lambda t, o=old, n=new: t.replace(o, n), harmless=kind or b"<x></x>" in new)
        bomb = b"<!ENTITY a 'aaaaaaaaaa'>" + b"".join(
            b"<!ENTITY %c '%s'>" % (98 + i, b"&%c;" % (97 + i) * 10) for i in range(12)
        )
        for xml in (b"", b"\0" * 100, b"<a>" * 50000, b"<a>" * 9999 + b"</a>" * 9999, b"\xff" * 999,
                    b"<!DOCTYPE a [" + bomb + b"]><a>&m;</a>", b"x" * 17 * 2**20):  # fmt: skip
            self.mrd(lambda t, xml=xml: xml)
        for field, value in (
            ("number_of_samples", 65535), ("number_of_samples", 0), ("active_channels", 65535),
            ("active_channels", 0), ("center_sample", 65535), ("discard_pre", 65535),
            ("encoding_space_ref", 7), ("flags", 2**18), ("flags", 2**64 - 1), ("flags", 2**21),
            ("sample_time_us", np.nan), ("position", np.nan), ("read_dir", np.inf),
        ):  # fmt: skip
            fine = field in ("flags", "sample_time_us", "position", "read_dir", "center_sample")
            self.heads(field, value, harmless=fine or field == "discard_pre")
        for counter in ("kspace_encode_step_1", "kspace_encode_step_2", "slice", "repetition"):
            self.heads(counter, 65535, idx=True, harmless=counter in ("slice", "repetition"))
            self.heads(counter, None, idx=True, harmless=True)

    def matrix(self, text, x, y, z):
        """Another encoded matrix in an XML header."""
        text = text.replace(b"<x>48</x>", b"<x>%d</x>" % x, 1)
        text = text.replace(b"<y>20</y>", b"<y>%d</y>" % y, 1)
        return re.sub(rb"<z>1</z>", b"<z>%d</z>" % z, text, count=1)

    def mrd(self, change, *, harmless=False):
        path = self.like("ISMRMRD", "xml", self.good["ISMRMRD"].read_bytes())
        with h5py.File(path, "r+") as file:
            before = file["dataset/xml"][0]
            after = change(before)
            assert after != before
            del file["dataset/xml"]
            stored = file["dataset"].create_dataset("xml", (1,), h5py.special_dtype(vlen=np.uint8))
            stored[0] = np.frombuffer(after, np.uint8)
            if b"\0" not in after:
                del file["dataset/xml"]
                file["dataset"].create_dataset("xml", (1,), h5py.special_dtype(vlen=bytes))[0] = (
                    after
                )
        self.add(path, harmless=harmless)

    def heads(self, field, value, *, idx=False, harmless=False):
        """One field of the readout headers set, or drawn at random, in some of the readouts."""
        path = self.like("ISMRMRD", "head", self.good["ISMRMRD"].read_bytes())
        with h5py.File(path, "r+") as file:
            data = file["dataset/data"]
            records = data[()]
            chosen = records["head"]["idx"] if idx else records["head"]
            rows = slice(None) if not idx else self.rng.permutation(len(records))[:9]
            draws = self.rng.integers(0, 65535, 9)
            chosen[field][rows] = draws if value is None else value
            data[...] = records
        self.add(path, harmless=harmless)

    def bombs(self):
        """Files that declare, or unpack to, far more than they store."""
        for shape in (
            (200, 32, 640, 640),
            (10**6, 4, 320, 320),
            (1, 1, 2**20, 2**20),
            (2**40, 1, 8, 8),
        ):
            for options in ({"compression": "gzip"}, {"compression": "lzf"}, {}, {"fillvalue": 1j}):
                path = self.path("bomb", ".h5")
                chunks = (1, 1, *(min(n, 512) for n in shape[2:]))
                with h5py.File(path, "w") as file:
                    file.create_dataset("kspace", shape, np.complex64, chunks=chunks, **options)
                self.add(path)
        # Compressed once: HDF5 would compress the same zeros again for each chunk.
        zeros = zlib.compress(bytes(16 * 512 * 512 * np.complex64().nbytes))
        for name in ("kspace_full", "tstOrg", "mask"):
            path = self.path("bomb", ".h5")
            with h5py.File(path, "w") as file:
                chunk = (16, 512, 512)
                made = file.create_dataset(
                    name, (4000, 512, 512), np.complex64, chunks=chunk, compression="gzip"
                )
                for first in range(0, 160, 16):
                    made.id.write_direct_chunk((first, 0, 0), zeros)
                others = {"mask": ["kspace"], "tstOrg": ["tstCsm", "tstMask"]}.get(name, [])
                for other in others:
                    file[other] = self.kspace
            self.add(path)
        for size in (2**27, 2**28):
            for declared in ((1, 16, 1024, 1024), (10**6, 16, 1024, 1024), (-1, 8), (2**62, 2**62)):
                self.npz_bomb(size, declared)

    def npz_bomb(self, size, declared):
        path = self.path("bomb", ".npz")
        header = f"{{'descr': '<c8', 'fortran_order': False, 'shape': {declared}, }}".encode()
        head = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + header.ljust(117) + b"\n"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.writestr("kspace.npy", head + bytes(size))
        self.add(path)

    def links(self):
        """Names that lead out of the file, or nowhere."""
        for target in ("/etc/passwd", "../../../etc/passwd", "none.h5"):
            path = self.path("link", ".h5")
            with h5py.File(path, "w") as file:
                file["kspace"] = h5py.ExternalLink(target, "/kspace")
            self.add(path)
            path = self.path("link", ".h5")
            with h5py.File(path, "w") as file:
                dtype, external = np.complex64, [(target, 0, h5py.h5f.UNLIMITED)]
                file.create_dataset("kspace", (1, 1, 10, 10), dtype, external=external)
            self.add(path)
        path = self.path("link", ".h5")
        with h5py.File(path, "w") as file:
            file["kspace"], file["mask"] = h5py.SoftLink("/mask"), h5py.SoftLink("/kspace")
        self.add(path)
        for member in ("../../evil.npy", "/tmp/evil.npy", "kspace.npy/../../evil.npy"):
            path = self.path("member", ".npz")
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr(member, b"\x93NUMPY")
            self.add(path)
        for name in ("..", "...h5", " .h5", "a\nb.h5", "-o.h5", "a%2f..%2fb.h5", "x" * 200 + ".h5"):
            path = self.folder / "names" / name
            path.parent.mkdir(exist_ok=True)
            if name != "..":
                path.write_bytes(self.good["fastMRI"].read_bytes()[:3000])
            self.commands.append((name, ["recon", str(path), "-o", "OUT/many"]))

    def own_headers(self):
        """The attribute that files of this package carry, by another hand."""
        geometry = {"spacing": [1, 1, 1], "slice_dir": [0, 0, 1], "y_dir": [0, 1, 0],
                    "x_dir": [1, 0, 0], "centres": [[0, 0, 0]] * 2, "oriented": True}  # fmt: skip
        for change in (
            {"spacing": [0, 1, 1]}, {"spacing": [1, 1]}, {"spacing": "abc"}, {"centres": []},
            {"centres": [[0, 0, 1e400]] * 2}, {"centres": None}, {"x_dir": {}},
            {"spacing": [-1, 1, 1]},
        ):  # fmt: skip
            for name in ("kspace", "image"):
                array = self.kspace if name == "kspace" else self.kspace[:, 0]
                self.attribute(name, array, json.dumps({"geometry": geometry | change}))
        for text in ("[]", "{", "null", '{"crop": [1]}', '{"labels": 3}', '{"geometry": 3}', "1"):
            self.attribute("kspace", self.kspace, text)

    def attribute(self, name, array, text):
        path = self.path("own", ".h5")
        with h5py.File(path, "w") as file:
            file[name] = array
            file.attrs["header"] = text
        self.add(path)

    def masks_and_maps(self):
        """Files beside a good scan."""
        scan = str(self.good["fastMRI"])
        np.save(self.folder / "m.npy", np.ones(SHAPE))
        content = (self.folder / "m.npy").read_bytes()
        for number in range(16):
            path = self.folder / f"beside{number}.npy"
            path.write_bytes(content[: self.rng.integers(0, len(content))])
            option = ("--csm", "--mask")[number % 2]
            self.commands.append((path.name, ["recon", scan, option, str(path), "-o", "OUT/o.h5"]))


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """How each case ended, and the names of those that may also be read well."""
    cases = Cases(tmp_path_factory.mktemp("fuzz"))
    cases.all()
    listing, log = cases.folder / "cases.json", cases.folder / "log.jsonl"
    listing.write_text(json.dumps(cases.commands))
    worker = Path(__file__).with_name("fuzz_worker.py")
    process = subprocess.run(
        [sys.executable, "-W", "error", str(worker), str(listing), str(log)],
        capture_output=True,
        text=True,
        timeout=3600,
        check=False,
    )
    records = [json.loads(line) for line in log.read_text().splitlines()]
    last = records[-1]["name"] if records else "none"
    assert process.returncode == 0, f"died after {last}: {process.stderr[-2000:]}"
    assert len(records) == len(cases.commands)
    return records, cases.harmless


def test_there_are_enough_and_most_are_refused(ended):
    records, harmless = ended
    assert len(records) >= 300
    refused = [r for r in records if r["code"] != 0]
    assert len(refused) >= 0.75 * len(records)
    accepted = [r["name"] for r in records if r["code"] == 0 and r["name"] not in harmless]
    assert accepted == []


def test_none_ends_in_a_traceback(ended):
    for record in ended[0]:
        assert record["exception"] is None, record
        assert record["code"] in (0, 1, 4), record
        assert "unexpected" not in record["stderr"], record


def test_none_hangs_and_none_takes_more_than_two_gigabytes(ended):
    assert max(r["seconds"] for r in ended[0]) < LIMIT_SECONDS
    assert max(r["peak"] for r in ended[0]) < LIMIT_BYTES


def test_none_leaves_a_partial_file(ended):
    for record in ended[0]:
        if "many" in record["left"]:
            assert record["left"] == ["many"]
            continue
        # 4: images of a scan that was stopped; its whole ones are written.
        written = record["code"] in (0, 4)
        assert record["left"] == (["o.npy"] if written else []), record["name"]


def test_each_refusal_says_which_file_and_why(ended):
    for record in ended[0]:
        if record["code"]:
            text = "".join(record["stderr"].split())
            name = Path(record["name"]).stem.strip()  # a .cfl is complained of by its .hdr too
            assert "".join(name.split())[:60] in text, record
            assert len(record["stderr"]) < 4000, record["name"]
