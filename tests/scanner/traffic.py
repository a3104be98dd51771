"""A live server, and the bytes that clients send to it: right ones, and malformed ones."""

import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import ismrmrd
import numpy as np

import layouts
from equipoise.methods.data_weight import FixedWeight
from equipoise.methods.mol import MOL
from equipoise.networks.cnn import CNN
from equipoise.zoo.model_file import save_model

SHAPE = (24, 28)


def tiny_model(folder):
    """A model file that costs next to nothing."""
    path = folder / "tiny.safetensors"
    save_model(path, MOL(CNN(4, 2, gain=0.5), FixedWeight(5.0), 0.2), {})
    return path


class Served:
    """A server in a process of its own."""

    def __init__(self, folder, *options, model=None):
        self.model = model or tiny_model(folder)
        command = [sys.executable, "-m", "equipoise", "serve", "--port", "0"]
        self.process = subprocess.Popen(
            [*command, "--model", str(self.model), "--device", "cpu", *map(str, options)],
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log, self._ready = [], threading.Event()
        self.port = 0
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        assert self._ready.wait(120), self.log
        assert self.port, self.log
        self._threads = self.status("Threads")

    def _listen(self):
        for line in self.process.stderr:
            found = re.search(r"listening on \S+ port (\d+)", line)
            if found:
                self.port = int(found[1])
                self._ready.set()
            self.log.append(line.rstrip())
        self._ready.set()

    def sessions(self):
        return [line for line in self.log if "session" in line and "readouts" in line]

    def says(self, words, seconds=30.0):
        """Whether the log of a session has these words, or will soon."""
        end = time.monotonic() + seconds
        while not any(words in line for line in self.sessions()):
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        return True

    def become_idle(self, seconds=30.0):
        """Wait until no session is left of the clients before."""
        end = time.monotonic() + seconds
        while self.status("Threads") > self._threads:
            assert time.monotonic() < end
            time.sleep(0.02)

    def status(self, name):
        """A number of kB, or of threads, of the process."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1])
        raise LookupError(name)

    def handles(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))  # noqa: PTH208

    def stop(self):
        """Seconds until the process ended after SIGTERM, and its exit code."""
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(30)
        self._listener.join(5)
        self.process.stderr.close()
        return time.monotonic() - started, code


def config(name="recon"):
    return struct.pack("<H", 1) + name.encode().ljust(1024, b"\0")


def sized(number, content):
    content = content if isinstance(content, bytes) else content.encode()
    return struct.pack("<HI", number, len(content)) + content


def header(xml):
    return sized(3, xml)


def text(content):
    return sized(5, content)


CLOSE = struct.pack("<H", 4)


def readout(acquisition):
    parts = []
    acquisition.serialize_into(lambda part: parts.append(bytes(part)))
    return struct.pack("<H", 1008) + b"".join(parts)


def image(pixels, attributes=""):
    made = ismrmrd.Image.from_array(np.asarray(pixels), transpose=False)
    start = struct.pack("<H", 1022) + bytes(made.getHead())
    content = attributes.encode()
    return start + struct.pack("<Q", len(content)) + content + made.data.tobytes()


def waveform():
    made = ismrmrd.Waveform.from_array(np.zeros((2, 5), np.uint32))
    parts = []
    made.serialize_into(lambda part: parts.append(bytes(part)))
    return struct.pack("<H", 1026) + b"".join(parts)


def scan(n_slices=1, shape=SHAPE, n_coils=3, noise=0.01, flags=True, **more):
    """XML header and readouts of a scan whose slices end with a flag."""
    kspace = layouts.multicoil(shape, n_slices, n_coils, noise)[2]
    y, x = shape
    spaces = ((x, y, 1), (2.0 * x, 2.0 * y, 4.0)), ((x, y, 1), (2.0 * x, 2.0 * y, 4.0))
    xml = layouts.header_xml(*spaces, {"kspace_encoding_step_1": (y - 1, y // 2)})
    lines = [
        layouts.readout(
            kspace[s, :, line],
            line,
            slice=s,
            position=(1.0, 2.0, 5.0 * s),
            flags=[8] if flags and line == y - 1 else [],
            **{**layouts.OBLIQUE, **more},
        )
        for s in range(n_slices)
        for line in range(y)
    ]
    return xml, lines


def traffic(xml, lines, name="recon"):
    """All bytes of a session."""
    return config(name) + header(xml) + b"".join(map(readout, lines)) + CLOSE


class Client:
    """A client without a single line of the package."""

    def __init__(self, port, timeout=30.0):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self.file = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()
        self.socket.close()

    def send(self, *parts):
        for part in parts:
            self.socket.sendall(part)

    def message(self):
        """(number, content) of the next message; None at the end of the connection."""
        start = self.file.read(2)
        if len(start) < 2:
            return None
        (number,) = struct.unpack("<H", start)
        if number == 4:
            return number, None
        if number == 5:
            (length,) = struct.unpack("<I", self.file.read(4))
            content = self.file.read(length)
            assert content.endswith(b"\0")
            return number, content[:-1].decode()
        assert number == 1022, number
        return number, ismrmrd.Image.deserialize_from(self.file.read)

    def messages(self):
        """What comes until the server closes; the images, and the texts."""
        images, texts, closed = [], [], False
        while (found := self.message()) is not None:
            number, content = found
            closed = closed or number == 4
            if number == 1022:
                images.append(content)
            elif number == 5:
                texts.append(content)
        assert closed
        return images, texts


def talk(port, *parts):
    """Images and texts for a session of these bytes."""
    with Client(port) as client:
        client.send(*parts)
        return client.messages()
