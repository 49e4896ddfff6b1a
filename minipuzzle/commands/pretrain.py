"""minipuzzle pretrain: a model from nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from minipuzzle.commands._shared import command, out
from minipuzzle.rundir import RunDir
from minipuzzle.settings import PretrainRecipe
from minipuzzle.settings.recipe_file import load_recipe


def pretrain(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe.")],
    run: Annotated[
        Path | None, typer.Option("--run", help="Run directory (default: the recipe's).")
    ] = None,
) -> None:
    """Train a hybrid from nothing with a recipe; run/model is an ordinary checkpoint."""
    loaded = load_recipe(recipe, PretrainRecipe)
    where = run or Path(loaded.run)
    with command(where):
        from minipuzzle.runs.pretrain import run_pretrain

        model = run_pretrain(loaded, RunDir(where))
        out.print(f"model: {model.path}  {model.parameters:,} parameters")
