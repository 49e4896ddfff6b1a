"""A reader of our output and pages meets the words of the field: none of the private ones of
``words.py`` is in the help of a command, a message, the README, the docs, the recipes, or what
CHANGELOG says of this version. (The report and the model card: test_report.)
"""

import ast
import re
from pathlib import Path

import pytest
from helpers import run
from typer.main import get_command
from words import found

from minipuzzle.cli import app

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("command", ["", *sorted(get_command(app).commands)])
def test_help(command, capsys):
    run(*[command] if command else [], "--help")
    assert found(capsys.readouterr().out) == []


PAGES = sorted(
    str(page.relative_to(ROOT))
    for pattern in ("*.md", "docs/**/*.md", "recipes/*.md", "benchmarks/*.md", "studies/*.md")
    for page in ROOT.glob(pattern)
    if page.name != "CHANGELOG.md"
)


@pytest.mark.parametrize("page", PAGES)
def test_page(page):
    assert found((ROOT / page).read_text()) == []


def messages(source):
    """The sentences in a program, without docstrings."""
    tree = ast.parse(source)
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = (
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and id(node) not in docstrings
    )
    return [
        text for text in texts if isinstance(text, str) and re.search(r"[a-z]+ [a-z]+ [a-z]+", text)
    ]


SOURCES = sorted(
    str(file.relative_to(ROOT))
    for file in (ROOT / "minipuzzle").rglob("*.py")
    if "_shipped" not in file.parts
)


@pytest.mark.parametrize("file", SOURCES)
def test_messages(file):
    assert [found(text) for text in messages((ROOT / file).read_text()) if found(text)] == []


def test_changelog_of_this_version():
    version = (ROOT / "CHANGELOG.md").read_text().split("\n## ")[1]
    old = re.compile(r"`[^`]*` is `|`[^`]*` replaces|; `\w+` in files is")
    assert found(old.sub(" ", version)) == []


def test_a_word_is_found_where_it_is_one():
    assert [word for word, *_ in found("Two strips heal a Heat of 12,000 words")] == [
        "strips",
        "heal",
        "Heat",
        "12,000 words",
    ]
    assert found("a heat map, an SSM state, stripped, a health state_dict, community") == []
