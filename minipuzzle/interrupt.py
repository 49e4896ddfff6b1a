"""SIGTERM, as schedulers send it before they take a machine away, and Ctrl-C: what is in hand is
saved, and the same command goes on from there. After SIGTERM the exit code is 0, after Ctrl-C
130.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minipuzzle.ranks import Ranks

GRACE_SECONDS = 20.0
"""After SIGTERM, for the processes to meet at the end of a step; torchrun kills those that still
live after 30.
"""
SIGNALS: dict[int, str] = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}
GOES_ON = "the same command goes on from there"


class AtOnce(KeyboardInterrupt):
    """Ctrl-C was pressed again: nothing more is waited for."""


class Interrupt:
    """``asked``: which signal has come, "" for none. ``agreed`` is set once all processes know.

    Where something would be lost (``saving`` > 0) a signal is only noted, elsewhere it stops the
    command right there.
    """

    def __init__(self) -> None:
        self.asked = ""
        self.agreed = threading.Event()
        self.saving = 0

    def stopped(self) -> BaseException:
        """What ends the command, to be raised once all is saved."""
        return KeyboardInterrupt() if self.asked == "Ctrl-C" else SystemExit(0)

    def check(self, ranks: Ranks | None = None) -> None:
        """Raises: ``stopped`` where a signal has come to any of the processes."""
        if bool(self.asked) if ranks is None else ranks.least(float(not self.asked)) == 0.0:
            self.agreed.set()
            tell(f"stopped by {self.asked or 'SIGTERM'}; {GOES_ON}")
            raise self.stopped()

    def note(self, number: int, frame: FrameType | None) -> None:
        """Take a signal."""
        name, again = SIGNALS[number], self.asked == "Ctrl-C"
        self.asked = name
        if (
            name == "Ctrl-C" and again and not _many()
        ):  # torchrun passes on what its processes have had already
            raise AtOnce
        if not self.saving:
            self.check()
        elif name == "Ctrl-C":
            tell("Ctrl-C: what is in hand is finished and saved; press it again to stop at once")


_now: Interrupt | None = None


@contextmanager
def stoppable() -> Iterator[Interrupt]:
    """Around a whole command: SIGTERM and Ctrl-C stop it with a line, at once or after what
    ``interrupt`` protects.

    Under torchrun the processes agree inside ``interrupt`` only, and die of a signal elsewhere.
    """
    if _now is not None or _many() or threading.current_thread() is not threading.main_thread():
        yield _now or Interrupt()
        return
    with _noting(Interrupt()) as noted:
        yield noted
        noted.check()


def legs(ranks: Ranks) -> AbstractContextManager[Interrupt]:
    """Around a stage of several runs, to which ``check`` belongs after each of them."""
    return stoppable() if ranks.world == 1 else interrupt(ranks)


@contextmanager
def interrupt(ranks: Ranks) -> Iterator[Interrupt]:
    """Notes SIGTERM and Ctrl-C instead of stopping, and stops at its end; who has a state to save
    looks at ``asked``.

    In a thread other than the main one signals cannot be had: nothing is noted. torchrun sends
    SIGTERM to the others when a process dies. On CUDA they then wait in a collective for the dead
    one, where no Python runs, so a thread watches and ends the process with the error that a person
    should see.
    """
    if threading.current_thread() is not threading.main_thread():
        yield Interrupt()
        return
    if _now is not None:
        yield from _saving(_now, ranks)
        return
    with _noting(Interrupt()) as noted, _watched(noted, ranks):
        yield from _saving(noted, ranks)


def _saving(noted: Interrupt, ranks: Ranks) -> Iterator[Interrupt]:
    noted.saving += 1
    try:
        yield noted
    finally:
        noted.saving -= 1
    if not noted.saving:
        noted.check(ranks)


@contextmanager
def _noting(noted: Interrupt) -> Iterator[Interrupt]:
    global _now
    before = {number: signal.getsignal(number) for number in SIGNALS}
    # who started us may have switched a signal off (nohup, a shell's background jobs): so it stays
    before = {
        number: handler
        for number, handler in before.items()
        if handler not in (signal.SIG_IGN, None)
    }
    for number in before:
        signal.signal(number, noted.note)
    _now = noted
    try:
        yield noted
    finally:
        _now = None
        noted.agreed.set()
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _watched(noted: Interrupt, ranks: Ranks) -> Iterator[None]:
    if ranks.world == 1:
        yield
        return
    pipe = os.pipe()
    os.set_blocking(pipe[1], False)
    wakeup = signal.set_wakeup_fd(pipe[1], warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(pipe[0], noted), daemon=True).start()
    try:
        yield
    finally:
        noted.agreed.set()
        signal.set_wakeup_fd(wakeup)
        os.close(pipe[1])


def _watch(pipe: int, noted: Interrupt) -> None:
    """Read the numbers of signals from ``pipe``, which the interpreter writes even while the main
    thread is in C code.
    """
    while True:
        came = os.read(pipe, 1)
        if not came:
            os.close(pipe)
            return
        if came[0] in SIGNALS and not noted.agreed.wait(GRACE_SECONDS):
            from minipuzzle.ranks import lost_process

            name = SIGNALS[came[0]]
            text = lost_process(f"{name}, and no answer from the others for {GRACE_SECONDS:.0f} s")
            sys.stderr.write(f"error: {text}\n")
            sys.stderr.flush()
            os._exit(2)


def _many() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def tell(text: str) -> None:
    """A line on standard error from a signal's handler, where what Python has in its buffers must
    not be touched.
    """
    if os.environ.get("RANK", "0") == "0":
        os.write(2, f"{text}\n".encode())
