"""minipuzzle run: a whole recipe."""

from __future__ import annotations

from pathlib import Path

from minipuzzle.checked import table
from minipuzzle.commands._shared import command, out, print_json
from minipuzzle.settings import Recipe
from minipuzzle.settings.recipe import RunCommand
from minipuzzle.settings.recipe_file import load_recipe


def run(line: RunCommand) -> None:
    """Run the recipe."""
    compress_run(load_recipe(line.recipe, Recipe), line.run, line.as_json)


def compress_run(recipe: Recipe, run: Path | None, as_json: bool) -> None:
    """The whole pipeline, in ``run`` or the run directory of the recipe."""
    where = run or Path(recipe.run)
    with command(where):
        from minipuzzle.pipeline import compress
        from minipuzzle.records import SearchResult
        from minipuzzle.report.evaluated import eval_table
        from minipuzzle.report.facts import Facts
        from minipuzzle.report.steps import steps_table
        from minipuzzle.report.tables import candidates_table

        measured, page = compress(recipe, where)
        facts = Facts(where)
        if as_json:
            steps = {"steps": [table(row) for row in facts.steps]} if facts.steps else {}
            print_json({**measured.json(), **steps, "report": str(page)})
            return
        out.print(candidates_table(SearchResult.load(where / "search.json")))
        if facts.steps:
            out.print(steps_table(facts))
        out.print(eval_table(measured))
        out.print(f"report: {page}", soft_wrap=True)
