"""minipuzzle inspect: what a model is and needs, from its config.json alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from minipuzzle.commands._shared import Json, out, print_json
from minipuzzle.settings import SearchSettings

OURS = SearchSettings()


def inspect(
    path: Annotated[Path, typer.Argument(help="Checkpoint, or a folder with a config.json.")],
    context: str = OURS.context,
    batch: int = OURS.batch,
    weights: str = OURS.weights,
    kv: str = OURS.kv,
    state: str = OURS.state,
    as_json: Json = False,
) -> None:
    """Show a model's strip, parameters and memory, from its config.json alone."""
    from minipuzzle.checkpoint.config import read_config
    from minipuzzle.memory import Workload
    from minipuzzle.report.inspect import inspect_json, inspect_view
    from minipuzzle.settings import parse_count

    _, architecture = read_config(path)
    workload = Workload(
        context=parse_count(context), batch=batch, weights=weights, kv=kv, state=state
    )
    if as_json:
        print_json(inspect_json(architecture, workload))
    else:
        out.print(inspect_view(str(path), architecture, workload))
