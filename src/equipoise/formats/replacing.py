"""Files appear under their name only when they are complete and on disk.

A file is written under a temporary name next to the target, flushed, and renamed. The temporary
name contains the machine, the process and a random number, so two threads or two hosts never share
one. It also tells the owner: files that a killed process left behind are removed by the next
process that writes into the folder.
"""

import contextlib
import errno
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
"""A temporary name, with the machine and the process as groups."""

ABANDONED = 24 * 3600
"""Seconds without a change after which a temporary of another machine counts as left behind."""

LONGEST_TAIL = 30
"""Last characters of the target that are part of a temporary name, because names have at most 255
bytes."""

LOCK_SECONDS, LOCK_PAUSE = 5.0, 0.01
"""Longest time to wait for a lock, and time between attempts."""

ATTEMPTS = 20
"""Attempts to rename a folder to a name that other processes use at the same time."""

log = logging.getLogger(__name__)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path next to the target, which it replaces when the block ends without an error.

    A block that writes nothing changes nothing. A folder replaces a folder. The file gets the
    permissions of the umask and is on disk when the block has ended.
    """
    with replacing_set([path]) as (temporary,):
        yield temporary


@contextmanager
def replacing_set(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Temporary paths of files that belong together in one folder; the first is the main file.

    All of them are complete on disk before the first is renamed, and the main file is renamed last.
    A companion of an older set that the block does not write is removed.
    """
    folder = paths[0].parent
    temporaries = [temporary_name(path) for path in paths]
    remove_leftovers(folder)
    try:
        yield temporaries
        for temporary in temporaries:
            _finish(temporary)
        if temporaries[0].exists():
            # One rename is atomic; several are not, and two writers could mix their sets.
            with _alone(folder, len(paths) > 1):
                for temporary, path in reversed([*zip(temporaries, paths)]):
                    _take_place(temporary, path)
                _flush_folder(folder)
    finally:
        for temporary in temporaries:
            _remove(temporary)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed processes left in a folder, and nothing else.

    These are the files of processes of this machine that no longer exist, and the files of other
    machines that have not changed for a day.
    """
    # A folder that cannot be listed gives a better error when it is written to.
    with suppress(OSError):
        for entry in list(os.scandir(folder)):
            name = TEMPORARY.fullmatch(entry.name)
            if name is not None and _is_left(Path(entry), name[1], int(name[2])):
                log.info("%s was left by a process that was killed: removed", entry.path)
                _remove(Path(entry))


def reserve(temporary: Path, target: Path, size: int) -> None:
    """Find out before it is written whether a file of about ``size`` bytes fits on the disk.

    HDF5 cannot recover from a write that fails: it aborts the process at its end.

    Raises
    ------
    BadInputError
        If it does not fit, or may not be as large.
    """
    try:
        with temporary.open("wb") as file:
            _allocate(file.fileno(), size + OVERHEAD)
            file.truncate(0)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise BadInputError(f"{target} cannot be written: {error.strerror or error}") from error


OVERHEAD = 2**18
"""Bytes of names, attributes and tables beside the arrays of a file."""


def _allocate(number: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(number, 0, size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # not every file system can
                raise


def make_folder(folder: Path) -> None:
    """Create a folder for results, with its parents.

    Raises
    ------
    BadInputError
        If a file has that name, or the folder cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInputError(f"the folder {folder} cannot be created: {error.strerror}") from error


def temporary_name(path: Path) -> Path:
    """A name beside a path that no other process uses, and that tells the owner."""
    own = f".equipoise-{_machine()}-{os.getpid()}-{secrets.token_hex(8)}.tmp."
    return path.with_name(own + path.name[-LONGEST_TAIL:])


@functools.cache
def _machine() -> str:
    """A word that identifies host, boot and namespace, within which process numbers are unique."""
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        parts.append(str(Path("/proc/self/ns/pid").stat().st_ino))
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:8]


def _is_left(path: Path, machine: str, process: int) -> bool:
    # On Windows os.kill would act on the process instead of only testing it.
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
    # A process of another user may not be signalled, but it exists.
    except OSError:
        return True
    return True


def _finish(path: Path) -> None:
    """Give a file, or the files of a folder, the usual permissions, and flush them to disk."""
    if path.is_dir():
        for inner in path.iterdir():
            _finish(inner)
        _flush_folder(path)
    elif path.exists():
        usual = _usual_permissions(path)
        # safetensors writes files that only their owner may read.
        if stat.S_IMODE(path.stat().st_mode) != usual:
            # Some file systems have no permissions.
            with suppress(OSError):
                path.chmod(usual)
        with path.open("rb+") as file:
            os.fsync(file.fileno())


def _usual_permissions(path: Path) -> int:
    """The permissions of a new file in the folder of the path."""
    # The umask can only be read by changing it, which other threads would notice.
    probe = temporary_name(path)
    try:
        probe.touch(exist_ok=False)
        return stat.S_IMODE(probe.stat().st_mode)
    finally:
        probe.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Flush the names of a folder to disk; some file systems do not support it."""
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
    """Keep others from renaming sets of files in the folder, if the file system has locks."""
    with contextlib.ExitStack() as stack:
        if needed:
            with suppress(OSError, ImportError):
                number = stack.enter_context(_opened(folder))
                deadline = time.monotonic() + LOCK_SECONDS
                # After the deadline it goes on without the lock: a process that hangs must not cost
                # a result.
                while not _locked(number) and time.monotonic() < deadline:
                    time.sleep(LOCK_PAUSE)
        yield


def _locked(number: int) -> bool:
    # Windows does not have this module.
    import fcntl

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
    """Replace a folder, which cannot be renamed over another: the old one is moved aside first.

    It is moved back on failure. Its name aside is not a temporary one, so it is never removed as a
    leftover if this process is killed.
    """
    for attempt in range(1, ATTEMPTS + 1):
        aside = path.with_name(f"{path.name}.replaced-{secrets.token_hex(8)}")
        with suppress(FileNotFoundError):
            path.rename(aside)
        try:
            temporary.rename(path)
        # Another process was faster, or renaming is not possible at all.
        except OSError:
            # If nothing has the name, the cause is another one, and repeating would not help.
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
