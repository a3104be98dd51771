"""Files appear under their name only when they are complete and on disk.

A file is written under a name of its own beside the target, flushed, and renamed. The name holds
the machine, the process and a random number, so that neither two threads nor two hosts share one,
and says whose it is: what a killed process left is removed by the next that writes into the folder.
"""

import contextlib
import functools
import hashlib
import logging
import os
import platform
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from equipoise.outcome import BadInputError

TEMPORARY = re.compile(r"\.equipoise-([0-9a-f]{8})-(\d+)-[0-9a-f]{16}\.tmp\..*", re.DOTALL)
"""Machine, process and random number of a temporary name."""

ABANDONED = 24 * 3600
"""Seconds without a change after which a temporary of another machine counts as left behind."""

LONGEST_TAIL = 30
"""Characters of the target that a temporary name ends with: names have at most 255 bytes."""

LOCK_SECONDS, LOCK_PAUSE = 5.0, 0.01
ATTEMPTS = 20
"""Tries to put a folder where others put theirs at the same time."""

log = logging.getLogger(__name__)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside the target that takes its place when the block ends well.

    A block that writes nothing changes nothing. A folder replaces a folder. The file has the
    permissions that the umask gives, and is on disk when the block has ended.
    """
    with replacing_set([path]) as (temporary,):
        yield temporary


@contextmanager
def replacing_set(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Temporary paths of files of one folder that belong together; the first is the main one.

    All are complete on disk before the first of them takes its place; the main one is the last. A
    companion of an older set that the block does not write is removed with it.
    """
    folder = paths[0].parent
    temporaries = [_temporary(path) for path in paths]
    remove_leftovers(folder)
    try:
        yield temporaries
        for temporary in temporaries:
            _finish(temporary)
        if temporaries[0].exists():
            with _alone(folder, len(paths) > 1):
                for temporary, path in reversed([*zip(temporaries, paths)]):
                    _take_place(temporary, path)
                _flush_folder(folder)
    finally:
        for temporary in temporaries:
            _remove(temporary)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left in a folder, and nothing else.

    That is: temporaries of processes of this machine that are gone, and those of other machines
    that nobody has written to for a day.
    """
    with suppress(OSError):  # a folder that cannot be listed is found out where it is written to
        for entry in list(os.scandir(folder)):
            name = TEMPORARY.fullmatch(entry.name)
            if name is not None and _is_left(Path(entry), name[1], int(name[2])):
                log.info("%s was left by a process that was killed: removed", entry.path)
                _remove(Path(entry))


def make_folder(folder: Path) -> None:
    """Create a folder for results, with its parents.

    Raises
    ------
    BadInputError
        If a file stands in the way, or it may not be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInputError(f"{folder} cannot be made a folder: {error.strerror}") from error


def _temporary(path: Path) -> Path:
    own = f".equipoise-{_machine()}-{os.getpid()}-{secrets.token_hex(8)}.tmp."
    return path.with_name(own + path.name[-LONGEST_TAIL:])


@functools.cache
def _machine() -> str:
    """One word for the process numbers that can be asked here: host, boot and their namespace."""
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        parts.append(str(Path("/proc/self/ns/pid").stat().st_ino))
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:8]


def _is_left(path: Path, machine: str, process: int) -> bool:
    if machine == _machine() and os.name == "posix":
        return not _runs(process)
    with suppress(OSError):
        return time.time() - path.lstat().st_mtime > ABANDONED
    return False


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to another user
        return True
    return True


def _finish(path: Path) -> None:
    """Give a file, or the files of a folder, the usual permissions and wait until it is on disk."""
    if path.is_dir():
        for inner in path.iterdir():
            _finish(inner)
        _flush_folder(path)
    elif path.exists():
        usual = _usual_permissions(path)
        if stat.S_IMODE(path.stat().st_mode) != usual:  # safetensors lets only the owner read
            with suppress(OSError):  # a file system may know no permissions
                path.chmod(usual)
        with path.open("rb+") as file:
            os.fsync(file.fileno())


def _usual_permissions(path: Path) -> int:
    """Those of a new file in the folder of the path: asking the umask would change it meanwhile."""
    probe = _temporary(path)
    try:
        probe.touch(exist_ok=False)
        return stat.S_IMODE(probe.stat().st_mode)
    finally:
        probe.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Wait until the names of a folder are on disk; some file systems do not offer it."""
    with suppress(OSError), _opened(folder) as number:
        os.fsync(number)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    number = os.open(folder, os.O_RDONLY)
    try:
        yield number
    finally:
        os.close(number)


@contextmanager
def _alone(folder: Path, needed: bool) -> Iterator[None]:
    """Nobody else renames a set of files in the folder, where the file system can lock."""
    with contextlib.ExitStack() as stack:
        if needed:
            with suppress(OSError, ImportError):
                number = stack.enter_context(_opened(folder))
                deadline = time.monotonic() + LOCK_SECONDS
                while not _locked(number) and time.monotonic() < deadline:
                    time.sleep(LOCK_PAUSE)
        yield


def _locked(number: int) -> bool:
    import fcntl  # not on Windows

    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _take_place(temporary: Path, path: Path) -> None:
    if temporary.is_dir():
        _folder_takes_place(temporary, path)
    elif temporary.exists():
        temporary.replace(path)
    else:
        path.unlink(missing_ok=True)


def _folder_takes_place(temporary: Path, path: Path) -> None:
    """A folder cannot be renamed over another: the old one steps aside, and comes back on failure.

    Its name aside is not that of a temporary, so that nobody removes it should this process die.
    """
    for attempt in range(1, ATTEMPTS + 1):
        aside = path.with_name(f"{path.name}.replaced-{secrets.token_hex(8)}")
        with suppress(FileNotFoundError):
            path.rename(aside)
        try:
            temporary.rename(path)
        except OSError:  # another process was faster, or it is not possible at all
            if attempt == ATTEMPTS or not path.exists():
                with suppress(OSError):
                    aside.rename(path)
                raise
        finally:
            if path.exists():
                _remove(aside)
        if not temporary.exists():
            return


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
