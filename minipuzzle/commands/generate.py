"""minipuzzle generate: what a model says."""

from __future__ import annotations

import sys
from pathlib import Path

from minipuzzle.commands._shared import student
from minipuzzle.embedded import checkpoint_path
from minipuzzle.errors import UserError
from minipuzzle.settings.generate import GenerateCommand


def run(line: GenerateCommand) -> None:
    """Print the prompt and what follows it, token by token."""
    words = line.words
    if len(words) > 2 or (len(words) == 1 and (Path(words[0]) / "config.json").is_file()):
        raise UserError(
            "One prompt is wanted, after a checkpoint or alone.",
            got=" ".join(words),
            allowed="[CHECKPOINT] PROMPT",
            next='Put the prompt in quotes: minipuzzle generate CHECKPOINT "It was".',
        )
    checkpoint = checkpoint_path(Path(words[0])) if len(words) == 2 else student(line.run)
    from minipuzzle.runs.generate import run_generate

    pieces = run_generate(
        checkpoint,
        words[-1],
        tokens=line.tokens,
        sampling=line.sampling,
        device=line.device,
        dtype=line.dtype,
    )
    for i, piece in enumerate(pieces):
        shown = piece if i else words[-1] + piece
        encoding = sys.stdout.encoding or "utf-8"  # a terminal may not have all characters
        sys.stdout.write(shown.encode(encoding, "replace").decode(encoding))
        sys.stdout.flush()
