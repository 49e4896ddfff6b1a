"""minipuzzle prune: cut what search kept."""

from __future__ import annotations

from minipuzzle.commands._shared import RUN, Device, Json, Run, command, make_job, print_json
from minipuzzle.settings import Data


def prune(run: Run = RUN, device: Device = "auto", as_json: Json = False) -> None:
    """Cut the candidates that search kept and check that each file is what was planned."""
    with command(run):
        from minipuzzle.runs.prune import run_prune

        cuts = run_prune(make_job(run, None, Data(), device))
        if as_json:
            print_json(
                {
                    name: {"path": str(c.path), "parameters": c.parameters, "bytes": c.bytes}
                    for name, c in cuts.items()
                }
            )
