"""minipuzzle demo: the shipped recipe on the embedded teacher."""

from __future__ import annotations

from dataclasses import replace

from minipuzzle.commands.run import compress_run
from minipuzzle.embedded import recipe_path
from minipuzzle.settings import Recipe
from minipuzzle.settings.recipe import DemoCommand
from minipuzzle.settings.recipe_file import load_recipe


def run(line: DemoCommand) -> None:
    """Run the recipe of the demo."""
    recipe = load_recipe(recipe_path("demo"), Recipe)
    compress_run(replace(recipe, device=line.device), line.run, line.as_json)
