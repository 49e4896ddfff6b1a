"""Only the command line knows flags; help and the docs' tables are made from declarations."""

import ast
import logging
import re
import subprocess
import sys
from dataclasses import is_dataclass
from functools import partial
from pathlib import Path

import pytest
from helpers import run

import minipuzzle as mp
from minipuzzle.messages import print_messages
from minipuzzle.settings import PretrainRecipe, Recipe
from minipuzzle.settings.declare import keys, options
from minipuzzle.settings.tables import with_tables
from minipuzzle.settings.verbs import COMMANDS, in_words_of


def test_the_command_line_says_flags_and_a_recipe_keys(tmp_path, capsys):
    run("score", "x", "--samples", 0, "--run", tmp_path / "run", code=2)
    assert "--samples is out of bounds" in capsys.readouterr().err
    (tmp_path / "r.yaml").write_text("checkpoint: x\ndistill: {training: {batch: 0}}\n")
    run("run", tmp_path / "r.yaml", code=2)
    assert "distill.training.batch is out of bounds" in capsys.readouterr().err
    with pytest.raises(mp.UserError, match=re.escape("training.batch is out of bounds")):
        mp.Training(batch=0)
    assert in_words_of("eval", "data.validation") == "--data"
    assert in_words_of("distill", "data.validation, search.json") == "--validation, search.json"
    assert in_words_of("search", "profile.workload") == "--workload"


def test_messages_say_flags_too(capsys):
    print_messages(partial(in_words_of, "distill"))
    logging.getLogger("minipuzzle").warning("lower training.batch or data.length of x.json")
    assert capsys.readouterr().err == "lower --batch or --length of x.json\n"
    print_messages()


ROOT = Path(__file__).parent.parent
MADE = ("cli.py", "settings/declare.py", "settings/tables.py")
"""Where flags are made."""


def test_library_code_names_no_flag():
    """But in docstrings, and in what other programs are told to be started with."""
    theirs = (
        "commands",
        "embedded",
        "export/engines",
        "export/llama_quantize",
        "families/_shipped",
    )
    for path in sorted((ROOT / "minipuzzle").rglob("*.py")):
        place = path.relative_to(ROOT / "minipuzzle").as_posix()
        if place.startswith(theirs) or place in MADE:
            continue
        tree = ast.parse(path.read_text())
        docs = {
            id(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                flag = re.search(r"(?<![\w-])--[a-z]", node.value)
                assert flag is None or id(node) in docs, f"{place}:{node.lineno}: {node.value}"
            if isinstance(node, ast.JoinedStr):
                parts = [p.value for p in node.values if isinstance(p, ast.Constant)]
                assert not any(str(p).endswith("--") for p in parts), f"{place}:{node.lineno}"


def test_settings_that_texts_name_exist():
    """ "search.min_keep" in a message of library code is a setting: else no flag is put there."""
    named = {o.name for command in COMMANDS.values() for o in options(command)}
    named |= {o.name for o in (*keys(Recipe), *keys(PretrainRecipe))}
    sections = {name.partition(".")[0] for name in named}
    files = {"json", "yaml", "html", "csv", "partial", "safetensors", "gguf", "pretrain", "py"}
    for path in sorted((ROOT / "minipuzzle").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.keyword) or node.arg not in ("next", "allowed", "got"):
                continue
            for text in ast.walk(node.value):
                if isinstance(text, ast.Constant) and isinstance(text.value, str):
                    for found in re.finditer(r"\b([a-z]+)\.([a-z_]+)\b", text.value):
                        if found[1] in sections and found[2] not in (*files, "target_"):
                            assert found[0] in named, f"{path}: {text.value}"


def test_the_docs_tables_are_as_declared():
    pages = {name: (ROOT / "docs" / name).read_text() for name in ("commands.md", "api.md")}
    for page in pages.values():
        assert with_tables(page) == page, (
            "run python -m minipuzzle.settings.tables docs/commands.md docs/api.md"
        )
    for verb in COMMANDS:
        assert f"<!-- options of {verb} -->" in pages["commands.md"]
    settings = [name for name in mp.__all__ if is_dataclass(getattr(mp, name))]
    assert "Training" in settings
    for name in settings:
        assert f"<!-- fields of {name} -->" in pages["api.md"]


def said(*words):
    done = subprocess.run(
        [sys.executable, "-m", "minipuzzle", *words], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_short_help_is_short_and_help_is_whole():
    short, whole = said("distill", "-h"), said("distill", "--help")
    flags = {o.flag: o.setting.common for o in options(COMMANDS["distill"])}
    for flag, common in flags.items():
        assert re.search(rf"{flag}\b", whole), flag
        assert (re.search(rf"{flag}( |,|$)", short, re.MULTILINE) is not None) == common, flag
    assert len(short.splitlines()) < len(whole.splitlines()) / 2
    assert "Optimiser and schedule:" in whole
    assert said("-h") == said("--help")
    assert said("--version").strip() == f"minipuzzle {mp.__version__}"


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from minipuzzle.cli import main; sys.argv = ['minipuzzle', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'yaml', 'scipy', 'safetensors'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
