"""Every recipe loads strictly, has its results beside it, and plans what its page says; example
configs have real sizes.
"""

import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml
from helpers import run

from minipuzzle.checkpoint.config import read_config
from minipuzzle.cli import app
from minipuzzle.errors import UserError
from minipuzzle.nas.plan import make_plan
from minipuzzle.settings import PretrainRecipe, Recipe
from minipuzzle.settings.recipe_file import build, load_recipe

ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
EXAMPLES = {
    "nemotron-h-47b": "nemotron-h-56b",
    "nemotron-h-4b": "nemotron-h-8b",
    "nemotron-nano-9b": "nemotron-nano-12b-v2",
}
PUBLISHED = {
    "nemotron-h-8b": 8_100_852_736,
    "nemotron-h-56b": 56_324_350_464,
    "nemotron-h-47b": 46_791_554_816,
    "nemotron-h-4b": 4_489_223_040,
    "nemotron-nano-12b-v2": 12_310_001_152,
    "nemotron-nano-9b-v2": 8_888_227_328,
}


def kind(path):
    return PretrainRecipe if "model" in yaml.safe_load(path.read_text()) else Recipe


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_is_strict_flat_and_has_results(path):
    load_recipe(path, kind(path))
    with pytest.raises(UserError, match="unknown key 'lenght'"):
        build(kind(path), {**yaml.safe_load(path.read_text()), "lenght": 1}, path.name)
    assert path.with_suffix(".md").exists()
    assert re.match(r"# \S", path.read_text())


LAUGHS = "x0: &x0 [a, a, a, a, a, a, a, a, a]\n" + "".join(
    f"x{i + 1}: &x{i + 1} [" + ", ".join([f"*x{i}"] * 9) + "]\n" for i in range(40)
)
"""A line of them is 9^41 words long, in memory a few hundred objects."""


@pytest.mark.parametrize(
    "text",
    [
        "[" * 5000,
        "search: {candidates: " + "9" * 5000 + "}",
        "checkpoint: 2020-13-45",
        "a: \0",
        b"\xff\xfe",
        LAUGHS,
        LAUGHS + "? *x40\n: 1\n",
        "search: {min_keep: &a [*a]}",
        LAUGHS.replace("x0: ", "run: ", 1) + "seed: *x40\n",
        "distill: {training: {learning_rate: " + "9" * 400 + "}}",
        '!!python/object/apply:os.system ["touch PWNED"]',
    ],
)
def test_a_malformed_recipe_is_refused(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "r.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=r"r\.yaml"):
        load_recipe(path, Recipe)
    assert not (tmp_path / "PWNED").exists()


def test_rates_are_numbers():
    assert build(
        Recipe, {"checkpoint": "x", "distill": {"rates": [5.0e-5, 1]}}, "r"
    ).distill.rates == (5e-5, 1.0)
    for wrong in (["fast"], [-1.0]):
        with pytest.raises(UserError, match="rates"):
            build(Recipe, {"checkpoint": "x", "distill": {"rates": wrong}}, "r")


def test_numbers_may_be_written_without_a_point(tmp_path):
    """PyYAML follows YAML 1.1, where 5e-4 is a word; json.dump writes 1e-05."""
    file = tmp_path / "r.yaml"
    file.write_text(
        "checkpoint: x\ndistill: {rates: [5e-5, 1E-4], training: {learning_rate: 5e-4, tokens:"
        " 1.5e6, batch: 8.0}}\n"
    )
    found = load_recipe(file, Recipe).distill
    training = found.training
    assert (found.rates, training.learning_rate, training.tokens, training.batch) == (
        (5e-5, 1e-4),
        5e-4,
        1_500_000,
        8,
    )
    assert isinstance(training.tokens, int)
    file.write_text("checkpoint: x\nrun: 1e5\nsearch: {budget: 1.2e9}")
    assert (load_recipe(file, Recipe).run, load_recipe(file, Recipe).search.budget) == (
        "1e5",
        ("1.2e9",),
    )  # names stay
    file.write_text("checkpoint: x\ndistill: {training: {tokens: 1.5}}")
    with pytest.raises(UserError, match="tokens has a value of the wrong kind"):
        load_recipe(file, Recipe)
    file.write_text(
        '{"tokenizer": "embedded", "model": {"layer_norm_epsilon": 1e-05, "model_type": "e5"}}'
    )
    assert load_recipe(file, PretrainRecipe).model == {
        "layer_norm_epsilon": 1e-5,
        "model_type": "e5",
    }


@pytest.mark.parametrize(("name", "example"), EXAMPLES.items())
def test_recipes_for_large_models_plan_what_their_pages_say(name, example):
    recipe = load_recipe(ROOT / "recipes" / f"{name}.yaml", Recipe)
    plan = make_plan(read_config(ROOT / "docs" / "examples" / example)[1], recipe.search)
    page = (ROOT / "recipes" / f"{name}.md").read_text()
    says = (
        f"{plan.feasible.count:,} of {plan.points:,} architectures fit {recipe.search.budget[0]}; "
    )
    says += f"{len(plan.maximal())} are maximal"
    assert says in page


COMMAND = re.compile(
    r"^(?:\$ )?(?:[A-Z_]+=\S+ |torchrun [^\n]*?-m )*(minipuzzle .*?)(?:\s{2,}#.*)?$", re.MULTILINE
)


@pytest.mark.parametrize(
    "page", sorted((ROOT / "recipes").glob("*.md")), ids=lambda page: page.stem
)
def test_every_command_of_a_page_has_options_that_exist_and_recipes_that_load(page):
    """Parsed as the command line parses it, and not run; each page says at least how it is run."""
    commands = typer.main.get_command(app).commands
    blocks = re.findall(r"^```\w*\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    found = [words for block in blocks for words in COMMAND.findall(block.replace("\\\n", " "))]
    assert found, "no command on this page"
    for words in found:
        name, *arguments = shlex.split(words, comments=True)[1:]
        commands[name].make_context(name, arguments)
        for file in (a for a in arguments if a.endswith(".yaml")):
            load_recipe(ROOT / file, kind(ROOT / file))


@pytest.mark.parametrize(
    "page", sorted((ROOT / "recipes").glob("*.md")), ids=lambda page: page.stem
)
def test_commands_that_pages_show_print_what_they_show(page, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    for block in re.findall(r"```console\n\$ (minipuzzle .*?)```", page.read_text(), re.DOTALL):
        command, *lines = block.splitlines()
        run(*shlex.split(command)[1:])
        printed = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
        assert [
            line for line in lines if line.strip(" ─") and " ".join(line.split()) not in printed
        ] == []


@pytest.mark.parametrize(("name", "parameters"), PUBLISHED.items())
def test_example_configs_have_the_published_parameters(name, parameters):
    assert read_config(ROOT / "docs" / "examples" / name)[1].parameters == parameters
