"""Sessions whose solve takes as long as a test wants: what waits, and what clients are told."""

import socket
import struct
import threading
import time

import numpy as np
import pytest
import torch
import traffic

import layouts
from equipoise.formats.acquisition import Acquisition
from equipoise.outcome import BadInputError
from equipoise.scanner import frames
from equipoise.scanner import session as sessions
from equipoise.scanner.budget import Share
from equipoise.scanner.configuration import Configuration
from equipoise.scanner.frames import Frame, SolvedSlice, solve_frame
from equipoise.scanner.models import Models
from equipoise.scanner.wire import ConnectionFailed, Wire

SOON = 20.0
"""Seconds after which a test fails instead of hanging."""


def connected():
    """Both ends of a connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname(), timeout=SOON)
        return listener.accept()[0], theirs


class Beside(traffic.Client):
    """A client of a session in this process."""

    def __init__(self, folder, total=10**8, timeout=SOON):
        ours, self.socket = connected()
        self.file = self.socket.makefile("rb")
        model = str(traffic.tiny_model(folder))
        models, share = Models(model, torch.device("cpu")), Share(total)
        wire, usual = Wire(ours, timeout), Configuration(model)
        self.session = sessions.Session(1, "a test", wire, share, usual, models, None)
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self):
        self.session.run()
        self.session.wire.close()

    def ended(self):
        self.thread.join(SOON)
        return not self.thread.is_alive()


class Solve:
    """A solve that says when it begins, and ends when it is let go; it counts its frames."""

    def __init__(self):
        self.begun, self.go, self.frames = threading.Event(), threading.Event(), 0
        self.shape = 4, 5

    def __call__(self, scan, key, *_):
        self.frames += 1
        self.begun.set()
        assert self.go.wait(SOON)
        image = np.ones((1, *self.shape), np.complex64)
        return Frame(key, image, None, None, [SolvedSlice(image[0], "converged")])


@pytest.fixture
def solve(monkeypatch):
    found = Solve()
    monkeypatch.setattr(sessions, "solve_frame", found)
    yield found
    found.go.set()


def test_a_client_is_told_amid_a_solve_that_the_server_stops(solve, tmp_path):
    with Beside(tmp_path) as client:
        client.send(traffic.traffic(*traffic.scan()))
        assert solve.begun.wait(SOON)
        client.session.refuse("the server is stopping")
        assert client.messages() == ([], ["ERROR    the server is stopping"])
    assert client.ended()
    assert client.session.solving


def test_the_slices_of_a_client_that_has_reset_are_not_solved(solve, tmp_path):
    with Beside(tmp_path) as client:
        client.send(traffic.traffic(*traffic.scan(n_slices=5, flags=False)))
        assert solve.begun.wait(SOON)
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert client.session.refused.wait(SOON)
    solve.go.set()
    assert client.ended()
    assert solve.frames == 1
    assert "reset the connection before all images were made" in client.session.report.outcome


@pytest.mark.parametrize("mistake", ["an unknown message", "no CLOSE"])
def test_images_that_are_complete_come_back_in_spite_of_a_later_mistake(mistake, solve, tmp_path):
    with Beside(tmp_path) as client:
        client.send(traffic.traffic(*traffic.scan())[: -len(traffic.CLOSE)])
        assert solve.begun.wait(SOON)
        if mistake == "no CLOSE":
            client.socket.shutdown(socket.SHUT_WR)
        else:
            client.send(struct.pack("<H", 77))
        time.sleep(0.3)
        solve.go.set()
        images, (text,) = client.messages()
    assert len(images) == 1
    assert text.startswith("ERROR")
    assert client.ended()


def test_a_client_may_wait_for_its_image_longer_than_the_time_limit(solve, tmp_path):
    with Beside(tmp_path, timeout=0.2) as client:
        client.send(traffic.traffic(*traffic.scan())[: -len(traffic.CLOSE)])
        assert solve.begun.wait(SOON)
        time.sleep(0.5)
        solve.go.set()
        assert client.message()[0] == 1022
        assert client.messages() == ([], ["ERROR    no complete message arrived within 0.2 s"])
    assert client.ended()


def test_the_session_of_a_client_that_does_not_take_its_image_ends(solve, tmp_path):
    solve.shape = 1500, 1500  # 18 MB, more than the buffers of a connection hold
    solve.go.set()
    with Beside(tmp_path, timeout=0.5) as client:
        client.send(traffic.traffic(*traffic.scan()))
        assert client.ended()
    assert "were not taken by the other side: timed out" in client.session.report.outcome


def test_a_scan_that_comes_faster_than_it_is_solved_waits_for_memory(solve, tmp_path):
    xml, one = traffic.scan()
    repetitions = 12
    readouts = b""
    for number in range(repetitions):
        for line in one:
            line.idx.repetition = number
            readouts += traffic.readout(line)
    total = 6 * 24 * (1024 + 8 * 3 * 28)  # of which half is received beside a solve
    with Beside(tmp_path, total) as client:
        content = traffic.config() + traffic.header(xml) + readouts + traffic.CLOSE
        sending = threading.Thread(target=client.send, args=(content,))
        sending.start()
        assert solve.begun.wait(SOON)
        time.sleep(0.2)
        assert client.session.report.readouts < 4 * len(one)
        solve.go.set()
        images, texts = client.messages()
        sending.join()
    assert texts == []
    assert [image.repetition for image in images] == list(range(repetitions))
    assert client.session.share.most <= total
    assert client.ended()


def test_no_further_slice_of_a_volume_is_solved_once_its_session_is_refused(monkeypatch):
    kspace = layouts.multicoil((16, 20), 3, 2)[2]
    refused, solved = threading.Event(), []

    def solve(one, *_):
        solved.append(one)
        refused.set()

    monkeypatch.setattr(frames, "_solve", solve)
    scan, usual, share = Acquisition.from_arrays(kspace), Configuration("a model"), Share(10**8)
    models = Models(usual.model, torch.device("cpu"))
    with pytest.raises(ConnectionFailed, match="the session was ended"):
        solve_frame(scan, (0,) * 5, usual, models, share, refused)
    assert len(solved) == 1


def test_what_is_not_given_back_is_not_awaited():
    share = Share(100)
    share.take_received(80)
    with pytest.raises(BadInputError, match="its share is 100 bytes"):
        share.take_received(40)
    share.expect()
    threading.Timer(0.1, share.end).start()
    with pytest.raises(BadInputError, match="its share is 100 bytes"):
        share.take_received(40)


class TestTime:
    """What the time limit of a message counts."""

    def test_not_the_time_in_which_bytes_waited_for_the_server(self):
        ours, theirs = connected()
        wire = Wire(ours, 0.05)
        with theirs:
            theirs.sendall(b"ab")
            assert wire.begin()
            assert wire.read(2) == b"ab"
            theirs.sendall(b"cd")
            time.sleep(0.1)
            assert wire.read(2) == b"cd"
            with pytest.raises(ConnectionFailed, match=r"within 0.05 s"):
                wire.read(1)
        wire.close()

    def test_all_time_of_a_client_that_sends_byte_after_byte(self):
        ours, theirs = connected()
        wire, started = Wire(ours, 0.3), time.monotonic()
        drip = Repeated(lambda: theirs.sendall(b"a"), 0.05)
        assert wire.begin()
        with pytest.raises(ConnectionFailed, match=r"within 0.3 s"):
            wire.read(10**6)
        assert time.monotonic() - started < 2
        drip.stop()
        wire.close()
        theirs.close()

    def test_a_flood_does_not_keep_the_end_of_a_session(self):
        ours, theirs = connected()
        wire, started = Wire(ours, 10.0), time.monotonic()
        flood = Repeated(lambda: theirs.sendall(bytes(10**5)), 0.0)
        wire.finish(0.2)
        assert time.monotonic() - started < 5
        wire.close()
        flood.stop()
        theirs.close()


class Repeated(threading.Thread):
    """An action again and again, until it fails or is stopped."""

    def __init__(self, action, pause):
        super().__init__(daemon=True)
        self.action, self.pause, self.stopped = action, pause, threading.Event()
        self.start()

    def run(self):
        try:
            while not self.stopped.wait(self.pause):
                self.action()
        except OSError:
            pass

    def stop(self):
        self.stopped.set()
        self.join(SOON)
