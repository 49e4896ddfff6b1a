"""Messages for the person who watches. Rooms log them (``logging.getLogger(__name__)``, all below
the logger "minipuzzle"); the command line prints them on standard error.

From Python only warnings are shown, as ``logging`` does by itself; for the others too:
``logging.basicConfig(level=logging.INFO)``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

NAME = "minipuzzle"


class Printer(logging.Handler):
    """Prints each message as a line above the progress bars; in a torchrun the first process's.

    ``words`` says it as the command does: rooms name settings, the command line flags.
    """

    words: Callable[[str], str] = str

    def emit(self, record: logging.LogRecord) -> None:
        """Print it."""
        from minipuzzle.bars import console  # takes time to import, and most have nothing to say

        try:
            text = self.words(record.getMessage())
            console.print(text, highlight=False, soft_wrap=True, markup=False, emoji=False)
        except Exception:  # as every handler: a message that cannot be shown ends nothing
            self.handleError(record)


def print_messages(words: Callable[[str], str] = str) -> None:
    """Print what is logged from now on, once however often this is called, in these words."""
    logger = logging.getLogger(NAME)
    logger.setLevel(logging.INFO)
    printers = [each for each in logger.handlers if isinstance(each, Printer)]
    if not printers:
        printers = [Printer()]
        logger.addHandler(printers[0])
    for printer in printers:
        printer.words = words
