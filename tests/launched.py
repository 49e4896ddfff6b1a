"""Several processes of one run, on the CPU: those of torchrun, and quicker ones."""

import gc
import os
import socket
import sys
import tempfile
from functools import cache
from multiprocessing import forkserver, get_context
from pathlib import Path

import pytest

LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}


@cache
def forks():
    """Starts processes that have imported what commands and tests need."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["conftest", "world", "minipuzzle.pipeline", "torch._dynamo"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # it takes no other note of the path
        forkserver.ensure_running()
    return context


def together(count: int, function, *args) -> list[str]:
    """What each of ``count`` processes prints that do ``function(*args)`` as ranks of one run.

    As those of torchrun, but forked: a start of torchrun takes ten seconds of a processor more.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        place = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1])}
    with tempfile.TemporaryDirectory() as folder:
        said = [Path(folder, str(rank)) for rank in range(count)]
        started = []
        for rank, file in enumerate(said):
            ours = {"WORLD_SIZE": str(count), "RANK": str(rank), "LOCAL_RANK": str(rank)}
            process = forks().Process(target=_one, args=(file, {**place, **ours}, function, args))
            process.start()
            started.append(process)
        for process in started:
            process.join(300)
        texts = [file.read_text() for file in said if file.exists()]
        assert [process.exitcode for process in started] == [0] * count, texts
        return texts


def _one(file, place, function, args):
    gc.freeze()  # what was imported stays
    with file.open("w") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    os.environ.update(place)
    function(*args)
