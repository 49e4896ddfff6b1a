"""SIGTERM, as schedulers send it before they take a machine away: the step is finished, the state saved, exit code 0."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from minipuzzle.ranks import Ranks, lost_process

GRACE_SECONDS = 20.0
"""After SIGTERM, for the processes to meet at the end of a step; torchrun kills those that still live after 30."""


class Interrupt:
    """``asked``: whether SIGTERM has come. ``agreed`` is set once all processes know."""

    def __init__(self) -> None:
        self.asked = False
        self.agreed = threading.Event()


@contextmanager
def interrupt(ranks: Ranks) -> Iterator[Interrupt]:
    """Notes SIGTERM instead of dying of it. In a thread other than the main one signals cannot be had: nothing is noted.

    torchrun sends SIGTERM to the others when a process dies. On CUDA they then wait in a collective for the dead one,
    where no Python runs, so a thread watches and ends the process with the error that a person should see.
    """
    noted = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return

    def note(*_: Any) -> None:
        noted.asked = True

    before = signal.signal(signal.SIGTERM, note)
    pipe = os.pipe() if ranks.world > 1 else None
    wakeup = -1
    if pipe is not None:
        os.set_blocking(pipe[1], False)
        wakeup = signal.set_wakeup_fd(pipe[1], warn_on_full_buffer=False)
        threading.Thread(target=_watch, args=(pipe[0], noted), daemon=True).start()
    try:
        yield noted
    finally:
        noted.agreed.set()
        signal.signal(signal.SIGTERM, before)
        if pipe is not None:
            signal.set_wakeup_fd(wakeup)
            os.close(pipe[1])


def _watch(pipe: int, noted: Interrupt) -> None:
    """Read the numbers of signals from ``pipe``, which the interpreter writes even while the main thread is in C code."""
    while True:
        came = os.read(pipe, 1)
        if not came:
            os.close(pipe)
            return
        if came[0] == signal.SIGTERM and not noted.agreed.wait(GRACE_SECONDS):
            text = lost_process(f"SIGTERM, and no answer from the others for {GRACE_SECONDS:.0f} s")
            sys.stderr.write(f"error: {text}\n")
            sys.stderr.flush()
            os._exit(2)
