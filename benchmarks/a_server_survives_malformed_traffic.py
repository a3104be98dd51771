"""Malformed sessions, a soak, and the time to an image, against a live server.

    OMP_NUM_THREADS=1 python benchmarks/a_server_survives_malformed_traffic.py [--sessions 200]
        [--every 10] [--beside 0]

The sessions are those of tests/scanner/malformed.py, from its fixed seed. After each tenth, or
after each with ``--every 1``, a good client must get the same image as before; with ``--beside 2``,
two good clients come while each is played. Then a good scan is sent many times, and memory and file
handles are compared with those after the tenth. At last, the time from the last readout of a slice
to its image is compared with the reconstruction of that slice by the same model in this process,
without imports. The exit code is 1 if the server ends, a good client does not get its image (what
it got and the end of the log are told), a session lasts longer than its time limit, memory exceeds
the limit or grows by more than 5 %, or a handle is left.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path[:0] = [str(TESTS / "scanner"), str(TESTS)]

import malformed  # noqa: E402
import traffic  # noqa: E402

import layouts  # noqa: E402
from equipoise.formats import read  # noqa: E402
from equipoise.recon.reconstruct import reconstruct  # noqa: E402
from equipoise.zoo.model_file import load_model  # noqa: E402

TIMEOUT = 2.0
LONGEST = TIMEOUT + 4.0
"""Seconds of a session that stalls: the time limit, and the goodbye."""

MEMORY_GB = 0.4

TAIL = 6
"""Lines of the log that are told with a failure."""

GROWTH, RATIO = 1.05, 1.2


def main() -> None:
    """Run all parts, and exit with 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sessions", type=int, default=200, help="sessions of the soak")
    parser.add_argument("--every", type=int, default=10, help="malformed sessions to a good one")
    parser.add_argument("--beside", type=int, default=0, help="good clients beside each session")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        limits = ("--timeout", TIMEOUT, "--max-memory", MEMORY_GB)
        server = traffic.Served(Path(folder), *limits)
        wrong = [*survived(server, given.every, given.beside), *soaked(server, given.sessions)]
        server.stop()
        wrong += timed(Path(folder))
    for text in wrong:
        print("WRONG:", text)
    sys.exit(bool(wrong))


@cache
def good_session() -> bytes:
    """A scan that is right."""
    xml, lines = traffic.scan()
    return traffic.traffic(xml, lines)


def survived(server: traffic.Served, every: int, beside: int) -> list[str]:
    """What went wrong in the malformed sessions."""
    expected = traffic.talk(server.port, good_session())[0][0].data
    start = server.status("VmRSS")
    wrong, counts, longest, results = [], Counter(), 0.0, []
    pool = ThreadPoolExecutor(max(beside, 1))
    for number, case in enumerate(malformed.cases()):
        others = [pool.submit(unlike, server, expected) for _ in range(beside)]
        result = malformed.play(server.port, case)
        results.append(result)
        longest = max(longest, result.seconds)
        counts[ending(result)] += 1
        if result.seconds > LONGEST:
            wrong.append(f"{case.name} took {result.seconds:.1f} s; log: {server.log[-1:]}")
        if not result.closed:
            counts["without CLOSE"] += 1
            wrong.append(f"{case.name} ended without CLOSE: {result.texts}")
        wrong += [f"{case.name}: {text}" for text in result.texts if "unexpected" in text]
        after = unlike(server, expected) if number % every == every - 1 else None
        found = [*(("beside", one.result()) for one in others), ("after", after)]
        wrong += [f"a good client {when} {case.name} {what}" for when, what in found if what]
        if server.process.poll() is not None:
            return [*wrong, f"the server ended after {case.name}: {server.log[-TAIL:]}"]
    peak = server.status("VmHWM")
    print(f"{len(results)} malformed sessions: {dict(counts)}; longest {longest:.2f} s; resident "
          f"memory {start / 1000:.0f} MB before, at most {peak / 1000:.0f} MB")  # fmt: skip
    if (peak - start) * 1024 > MEMORY_GB * 1e9:
        wrong.append(f"memory grew by {(peak - start) / 1000:.0f} MB, above the bound")
    return wrong


def unlike(server: traffic.Served, expected: np.ndarray) -> str | None:
    """What a good client got that it should not have; None if it got its image."""
    try:
        images, texts = traffic.talk(server.port, good_session())
    except (OSError, AssertionError) as error:
        return f"was not served: {error!r}; log: {server.log[-TAIL:]}"
    if len(images) == 1 and np.array_equal(images[0].data, expected):
        return None
    kind = "another image" if len(images) == 1 else f"{len(images)} images"
    return f"got {kind} and {texts}; log: {server.log[-TAIL:]}"


def ending(result: malformed.Result) -> str:
    """How a session ended, in words."""
    if result.case.manner == "resets":
        return "reset by the client"
    refused = any(text.startswith("ERROR") for text in result.texts)
    if result.images:
        return "an image and an error" if refused else "an image"
    return "an error" if refused else "no image"


def soaked(server: traffic.Served, sessions: int) -> list[str]:
    """What went wrong in the soak."""
    expected = traffic.talk(server.port, good_session())[0][0].data
    wrong = []
    for number in range(sessions):
        found = unlike(server, expected)
        if found:
            wrong.append(f"a good client {found}")
        if number == 9:
            time.sleep(1)
            memory, handles, threads = measured(server)
    time.sleep(1)
    after = measured(server)
    print(f"{sessions} sessions: after the tenth {memory / 1000:.1f} MB, {handles} handles, "
          f"{threads} threads; at the end {after[0] / 1000:.1f} MB, {after[1]} handles, "
          f"{after[2]} threads")  # fmt: skip
    if after[0] > GROWTH * memory:
        wrong.append("memory grew by more than 5 %")
    if after[1] > handles or after[2] > threads:
        wrong.append("handles or threads are left")
    return wrong


def measured(server: traffic.Served) -> tuple[int, int, int]:
    """Resident memory in kB, file handles, and threads."""
    return server.status("VmRSS"), server.handles(), server.status("Threads")


def timed(folder: Path, shape: tuple[int, int] = (128, 128), repeats: int = 5) -> list[str]:
    """The time to an image beside the reconstruction of the same slice in this process."""
    name = "mol-sn-brain-4x"
    server = traffic.Served(folder, model=name)
    xml, lines = traffic.scan(1, shape, 8, 0.01)
    path = folder / "timed.mrd"
    layouts.write_acquisitions(path, xml, lines)
    rest = traffic.config() + traffic.header(xml) + b"".join(map(traffic.readout, lines[:-1]))
    over_socket, here = [], []
    model = load_model(name)
    for _ in range(repeats):
        with traffic.Client(server.port) as client:
            client.send(rest)
            time.sleep(0.3)
            started = time.perf_counter()
            client.send(traffic.readout(lines[-1]))
            while client.message()[0] != 1022:
                pass
            over_socket.append(time.perf_counter() - started)
            client.send(traffic.CLOSE)
            client.messages()
        started = time.perf_counter()
        reconstruct(read(path), model, keep_maps=False)
        here.append(time.perf_counter() - started)
    server.stop()
    ratio = min(over_socket) / min(here)
    print(f"from the last readout to the image {min(over_socket):.3f} s, recon of the file without "
          f"imports {min(here):.3f} s: ratio {ratio:.2f} (fastest of {repeats})")  # fmt: skip
    return [f"the ratio {ratio:.2f} is above {RATIO}"] if ratio > RATIO else []


if __name__ == "__main__":
    main()
