"""Messages for the person who watches. Rooms log them (``logging.getLogger(__name__)``, all below
the logger "minipuzzle"); the command line prints them on standard error.

From Python only warnings are shown, as ``logging`` does by itself; for the others too:
``logging.basicConfig(level=logging.INFO)``.
"""

from __future__ import annotations

import logging

NAME = "minipuzzle"


class Printer(logging.Handler):
    """Prints each message as a line above the progress bars; in a torchrun the first process's."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print it."""
        from minipuzzle.progress import (
            console,  # takes time to import, and most have nothing to say
        )

        try:
            text = record.getMessage()
            console.print(text, highlight=False, soft_wrap=True, markup=False, emoji=False)
        except Exception:  # as every handler: a message that cannot be shown ends nothing
            self.handleError(record)


def print_messages() -> None:
    """Print what is logged from now on, once however often this is called."""
    logger = logging.getLogger(NAME)
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, Printer) for handler in logger.handlers):
        logger.addHandler(Printer())
