"""Running the command line inside the test process."""

import bz2
import logging
import os
import signal
import sys
import tempfile
import warnings
from contextlib import contextmanager
from pathlib import Path

import pytest

from minipuzzle import embedded
from minipuzzle.cli import main

_FOLDER = tempfile.TemporaryDirectory()
TEXT = Path(_FOLDER.name) / "validation.txt"
with bz2.open(embedded.text_path("validation") / "speeches.txt.bz2", "rt") as _whole:
    TEXT.write_text(_whole.read()[:16_000])


def run(*words, code=0):
    """Run ``minipuzzle words...`` and require its exit code."""
    before = sys.argv
    sys.argv = ["minipuzzle", *map(str, words)]
    try:
        with pytest.raises(SystemExit) as caught:
            main()
    finally:
        sys.argv = before
    assert (caught.value.code or 0) == code
    return caught.value.code


FAST = {
    "score": (
        "--data",
        TEXT,
        "--samples",
        8,
        "--block-samples",
        4,
        "--length",
        64,
        "--device",
        "cpu",
    ),
    "search": (
        "--data",
        TEXT,
        "--budget",
        "96%",
        "--multiple",
        8,
        "--candidates",
        6,
        "--validation-blocks",
        4,
        "--length",
        64,
        "--device",
        "cpu",
    ),
    "distill": (
        "--data",
        TEXT,
        "--validation",
        TEXT,
        "--tokens",
        2048,
        "--short-tokens",
        1024,
        "--length",
        64,
        "--batch",
        4,
        "--learning-rate",
        "5e-4",
        "--device",
        "cpu",
    ),
    "eval": ("--data", TEXT, "--length", 64, "--device", "cpu"),
}


@contextmanager
def forked(work):
    """The number of a child process that runs ``work(ready)`` and has called ``ready``; it is
    killed at the end.
    """
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # of forking beside torch's threads: the child computes nothing
        pid = os.fork()
    if pid == 0:
        try:
            work(lambda: os.write(write, b"1"))
        finally:
            os._exit(0)
    os.close(write)
    try:
        os.read(read, 1)
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(read)


@contextmanager
def heard():
    """What minipuzzle logs meanwhile, message by message."""
    kept, logger = _Kept(), logging.getLogger("minipuzzle")
    before = logger.level
    logger.addHandler(kept)
    logger.setLevel(logging.INFO)
    try:
        yield kept.messages
    finally:
        logger.removeHandler(kept)
        logger.setLevel(before)


class _Kept(logging.Handler):
    def __init__(self):
        super().__init__()
        self.messages = []

    def emit(self, record):
        self.messages.append(record.getMessage())


class Watched:
    """A ``Progress`` that calls a function with what it is told."""

    def __init__(self, call):
        self.call = call

    def advance(self, amount=1):
        self.call(amount)

    def update(self, completed, **numbers):
        self.call(completed, **numbers)
