"""minipuzzle run and demo: a whole recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from minipuzzle.commands._shared import Device, Json, command, out, print_json
from minipuzzle.settings import Recipe
from minipuzzle.settings.recipe_file import load_recipe


def run_recipe(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe.")],
    run: Annotated[
        Path | None, typer.Option("--run", help="Run directory (default: the recipe's).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run a whole recipe: score, search, prune, distil, eval, report."""
    _compress(load_recipe(recipe, Recipe), run, as_json)


def demo(
    run: Annotated[Path, typer.Option("--run", help="Run directory.")] = Path("minipuzzle-demo"),
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Compress the embedded teacher to 83 % of its parameters: the whole pipeline in a few minutes
    on two cores.
    """
    from dataclasses import replace

    from minipuzzle.embedded import recipe_path

    _compress(replace(load_recipe(recipe_path("demo"), Recipe), device=device), run, as_json)


def _compress(recipe: Recipe, run: Path | None, as_json: bool) -> None:
    where = run or Path(recipe.run)
    with command(where):
        from minipuzzle.pipeline import compress
        from minipuzzle.report.evaluated import eval_table
        from minipuzzle.report.tables import candidates_table
        from minipuzzle.run_files import load_search

        measured, page = compress(recipe, where)
        if as_json:
            print_json({**measured.json(), "report": str(page)})
            return
        out.print(candidates_table(load_search(where / "search.json")))
        out.print(eval_table(measured))
        out.print(f"report: {page}", soft_wrap=True)
