"""What the command line says of a fault of our own, and what it keeps of it for a report."""

from __future__ import annotations

import os
import shlex
import sys
import traceback
from contextlib import suppress

from minipuzzle.errors import InternalError

EXIT = 70
"""As sysexits.h numbers what is wrong inside a program."""
LOG = "error.log"


def tell_fault(error: InternalError, words: list[str]) -> None:
    """Print the traceback and what to attach; ``words`` are the command line. Both are also kept
    in the run directory, as error.log, where there is one.
    """
    about = [f"  command line: {shlex.join(words)}", f"  version:      {_versions()}"]
    if error.run is not None and (error.run / "run.json").is_file():
        about.append(f"  run.json:     {error.run / 'run.json'}")
    trace = "".join(traceback.format_exception(error))
    if error.run is not None and error.run.is_dir():
        log = error.run / _log_name()
        with suppress(OSError):  # the disk may be what failed
            log.write_text("\n".join([trace, *about, ""]), errors="backslashreplace")
            about.append(f"  log:          {log} (the lines above)")
    said = "This is a fault of minipuzzle, not yours. Please report it with the lines above and:"
    print("\n".join([trace, said, *about]), file=sys.stderr)


def _log_name() -> str:
    rank = os.environ.get("RANK", "0")  # each process of a torchrun has its own fault
    return LOG if rank == "0" else f"error-{rank}.log"


def _versions() -> str:
    from minipuzzle.report.facts import versions

    return versions()
