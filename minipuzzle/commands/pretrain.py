"""minipuzzle pretrain: a model from nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from minipuzzle.commands._shared import RUN, Run, command, out
from minipuzzle.recipe import PretrainRecipe, load_recipe
from minipuzzle.rundir import RunDir


def pretrain(recipe: Annotated[Path, typer.Argument(help="YAML recipe.")], run: Run = RUN) -> None:
    """Train a hybrid from nothing with a recipe; run/model is an ordinary checkpoint."""
    loaded = load_recipe(recipe, PretrainRecipe)
    with command(run):
        from minipuzzle.stages.pretrain import run_pretrain

        model = run_pretrain(loaded, RunDir(run))
        out.print(f"model: {model.path}  {model.parameters:,} parameters")
