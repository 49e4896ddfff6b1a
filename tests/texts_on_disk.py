"""Documents that several test files write and encode."""

from __future__ import annotations

from minipuzzle.data.documents import SEPARATOR

DOCUMENTS = ["One.\n\nStill one.", "Zwei: größer ✓\n", "three\tand\n\n\nmore", "four"]
AS_TEXT = SEPARATOR.join(DOCUMENTS).encode()
