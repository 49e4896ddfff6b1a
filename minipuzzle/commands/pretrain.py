"""minipuzzle pretrain: a model from nothing."""

from __future__ import annotations

from pathlib import Path

from minipuzzle.commands._shared import command, out
from minipuzzle.rundir import RunDir
from minipuzzle.settings import PretrainRecipe
from minipuzzle.settings.recipe import PretrainCommand
from minipuzzle.settings.recipe_file import load_recipe
from minipuzzle.units import sized


def run(line: PretrainCommand) -> None:
    """Train the model of the recipe."""
    loaded = load_recipe(line.recipe, PretrainRecipe)
    where = line.run or Path(loaded.run)
    with command(where):
        from minipuzzle.runs.pretrain import run_pretrain

        model = run_pretrain(loaded, RunDir(where))
        size = sized(model.parameters, model.architecture.active_if_fewer)
        out.print(f"model: {model.path}  {size}")
