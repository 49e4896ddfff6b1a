"""SIGTERM, as schedulers send it before they take a machine away: the step is finished, the state saved, exit code 0."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Interrupt:
    """``asked``: whether SIGTERM has come."""

    def __init__(self) -> None:
        self.asked = False


@contextmanager
def interrupt() -> Iterator[Interrupt]:
    """Notes SIGTERM instead of dying of it. In a thread other than the main one signals cannot be had: nothing is noted."""
    noted = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return

    def note(*_: Any) -> None:
        noted.asked = True

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGTERM, before)
