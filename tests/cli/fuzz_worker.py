"""Runs commands of a list one after the other and writes down how each ended; see test_fuzz.py.

A process of its own: a crash of a library, memory and time are measured from outside.
"""

import json
import resource
import signal
import sys
import time
from functools import cache
from pathlib import Path

import typer.testing
from typer.testing import CliRunner

from equipoise.cli.app import app

# The runner of typer builds all commands anew for each case, which takes longer than most cases.
typer.testing._get_command = cache(typer.testing._get_command)

SECONDS = 20
"""Of processor time: a busy machine makes no command hang."""

PATIENCE = 300
"""Seconds by the clock after which a command waits for something that does not come."""


class TooLongError(BaseException):
    """The alarm rang."""


def ring(*_):
    raise TooLongError


def attempt(arguments, folder):
    """Exit code, seconds, messages, exception, and what lies in the output folder."""
    signal.alarm(PATIENCE)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    started = time.process_time()
    try:
        result = CliRunner().invoke(app, arguments)
        exception = result.exception
        found = {"code": result.exit_code, "stderr": result.stderr}
    except TooLongError:
        exception, found = "too long", {"code": None, "stderr": ""}
    finally:
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
    clean = exception is None or isinstance(exception, SystemExit)
    found["exception"] = None if clean else repr(exception)
    found["seconds"] = time.process_time() - started
    found["left"] = sorted(p.name for p in folder.iterdir())
    found["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return found


def main(cases, log):
    """Each case is a name and the arguments; OUT in them stands for a fresh folder."""
    signal.signal(signal.SIGALRM, ring)
    signal.signal(signal.SIGPROF, ring)
    with Path(log).open("w") as file:
        for number, (name, arguments) in enumerate(json.loads(Path(cases).read_text())):
            folder = Path(cases).parent / f"out{number}"
            folder.mkdir()
            given = [a.replace("OUT", str(folder)) for a in arguments]
            file.write(json.dumps({"name": name} | attempt(given, folder)) + "\n")
            file.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
