"""minipuzzle prune: cut what search kept."""

from __future__ import annotations

from minipuzzle.commands._shared import command, make_job, print_json, sizes
from minipuzzle.settings import Data
from minipuzzle.settings.prune import PruneCommand


def run(line: PruneCommand) -> None:
    """Cut the candidates and check each file."""
    with command(line.run):
        from minipuzzle.runs.prune import run_prune

        cuts = run_prune(make_job(line.run, None, Data(), line.device))
        if line.as_json:
            print_json(
                {
                    name: {"path": str(c.path), **sizes(c), "bytes": c.bytes}
                    for name, c in cuts.items()
                }
            )
