"""Where a command's main thread is, a few times a second: seconds by our function and by the one it
waits in. A GPU's work is seen where Python waits for it.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from types import FrameType

EVERY = 0.2
"""Seconds between two looks."""
SHOWN = 25
OURS = "minipuzzle"


class Samples:
    """Looks at the thread that made it until ``found`` is called."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.thread, self.done = threading.get_ident(), threading.Event()
        self.looking = threading.Thread(target=self._look, daemon=True)
        self.looking.start()

    def _look(self) -> None:
        while not self.done.wait(EVERY):  # holding no frame, whose tensors would stay
            self.seen[_place(sys._current_frames()[self.thread])] += 1

    def found(self) -> list[tuple[float, str]]:
        """(seconds, place), most first."""
        self.done.set()
        self.looking.join()
        return [(round(count * EVERY, 1), place) for place, count in self.seen.most_common(SHOWN)]


def _place(leaf: FrameType) -> str:
    """Our two innermost functions, and the last of all where it is another's."""
    ours = list[str]()
    frame: FrameType | None = leaf
    while frame is not None and len(ours) < 2:
        if f"/{OURS}/" in frame.f_code.co_filename:
            ours.append(_name(frame))
        frame = frame.f_back
    last = [] if ours and ours[0] == _name(leaf) else [_name(leaf)]
    return " > ".join([*reversed(ours), *last])


def _name(frame: FrameType) -> str:
    file = frame.f_code.co_filename.rsplit(f"/{OURS}/", 1)[-1].removesuffix(".py")
    return f"{'/'.join(file.split('/')[-2:])}:{frame.f_code.co_name}"
