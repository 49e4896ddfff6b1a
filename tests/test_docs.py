"""The docs site builds without a warning and loads nothing from elsewhere; the example of the
Python API runs.
"""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

from helpers import TEXT

from minipuzzle.cli import app

ROOT = Path(__file__).parent.parent
LOADS = {
    "script": "src",
    "img": "src",
    "link": "href",
    "iframe": "src",
    "source": "src",
    "object": "data",
}


class Loads(HTMLParser):
    """Collects what a browser would fetch."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag in LOADS and values.get("rel") != "canonical":
            self.found.append(values.get(LOADS[tag]) or "")


def test_the_site_builds_strictly_and_is_self_contained(tmp_path):
    site = tmp_path / "site"
    built = subprocess.run(
        [
            sys.executable,
            "-m",
            "mkdocs",
            "build",
            "--strict",
            "-f",
            str(ROOT / "mkdocs.yml"),
            "-d",
            str(site),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert built.returncode == 0, built.stderr
    pages = list(site.glob("**/*.html"))
    assert {"index.html", "api.html", "methods.html"} <= {page.name for page in pages}
    made = {page.stem for page in (site / "decisions").glob("*.html")}
    assert made == {page.stem for page in (ROOT / "docs" / "decisions").glob("*.md")}
    sections = re.findall(r"^## (.+)$", (ROOT / "docs" / "commands.md").read_text(), re.MULTILINE)
    assert len(list((site / "commands").glob("*.html"))) == len(sections) >= 10
    assert "One block is in memory" in (site / "commands" / "score.html").read_text()
    assert "DistillSettings" in (site / "index.html").read_text()  # of docs/examples/api.py
    markdown = "".join(page.read_text() for page in (ROOT / "docs").glob("**/*.md"))
    snippets = re.findall(r"^--8.*$", markdown, re.MULTILINE)
    assert len(snippets) == 2
    assert all(re.fullmatch(r'--8<-- "\S+"', line) for line in snippets), snippets
    for page in pages:
        text = page.read_text()
        loads = Loads()
        loads.feed(text)
        assert not [url for url in loads.found if url.startswith(("http:", "https:", "//"))], (
            page.name
        )
        assert "fonts.googleapis" not in text
    for style in site.glob("**/*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//|@import", style.read_text()), style.name
    api = (site / "api.html").read_text()
    assert all(
        f'id="minipuzzle.api.{name}"' in api
        for name in ("load", "score", "search", "prune", "distill", "evaluate")
    )
    assert (site / "methods.html").read_text().count("<math") == 9


def test_every_decision_is_in_the_index_and_short():
    """A page is a choice and what it rests on."""
    folder = ROOT / "docs" / "decisions"
    index = (folder / "index.md").read_text()
    linked = re.findall(r"^- \[(.+)\]\((.+)\)$", index, re.MULTILINE)
    pages = sorted(page.name for page in folder.glob("*.md") if page.name != "index.md")
    assert sorted(name for _, name in linked) == pages
    for title, name in linked:
        text = (folder / name).read_text()
        assert text.startswith(f"# {title}\n"), name
        assert re.search(r"^\*\*(Measured|Source|Tested|Why|Cost)\.\*\*", text, re.MULTILINE), name
        assert len(text) < 2500, name


def test_contributing_names_every_room_and_files_that_are_there():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    rooms = {
        folder.name
        for folder in (ROOT / "minipuzzle").iterdir()
        if folder.is_dir() and folder.name != "__pycache__"
    }
    assert rooms <= set(re.findall(r"`(\w+)/`", text.split("## The rooms")[1]))
    for file in re.findall(r"\b(?:tests|docs|benchmarks)/[\w/]+\.(?:py|md)\b", text):
        assert (ROOT / file).exists() or file.endswith(("/NAME.py", "/NAME.md")), file


def test_every_command_has_a_section():
    words = re.findall(r"^## (.+)$", (ROOT / "docs" / "commands.md").read_text(), re.MULTILINE)
    described = {name for heading in words for name in re.split(r"[^a-z]+", heading)}
    names = {
        command.name or command.callback.__name__.removesuffix("_recipe")
        for command in app.registered_commands
    }
    assert names - described == set()


def test_the_worked_example_runs(tmp_path, monkeypatch, capsys):
    """As it stands, but for shorter texts and runs."""
    monkeypatch.chdir(tmp_path)
    source = (ROOT / "docs" / "examples" / "api.py").read_text()
    text = tmp_path / "text.txt"
    text.write_text(TEXT.read_text()[:4_000])
    for shown, shorter in {
        "mp.Data(length=64)": f"mp.Data(length=64, train={str(text)!r}, validation={str(text)!r})",
        "validation_blocks=8": "validation_blocks=2, top=1",
        "short_tokens=1024": "short_tokens=256",
        "tokens=4096": "tokens=512",
    }.items():
        assert source.count(shown) == 1
        source = source.replace(shown, shorter)
    exec(compile(source, "api.py", "exec"), {})
    printed = capsys.readouterr().out
    assert "least important block: 7" in printed
    assert "written: minipuzzle-run/student" in printed
    assert (tmp_path / "minipuzzle-run" / "student" / "README.md").exists()
