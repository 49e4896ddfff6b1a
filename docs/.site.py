"""Hooks of mkdocs: a page for each section of commands.md, navigation over what is there, equations
as MathML.

MathML, because browsers draw it without a script or a font from elsewhere.
"""

import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.structure.files import File

SECTION = re.compile(r"^## (.+)$", re.MULTILINE)


def on_config(config, **_):
    """Navigation: one entry for each command, family page and page of results."""
    docs = Path(config.docs_dir)
    names = [name for name, _ in sections(docs)]
    results = [str(page.relative_to(docs)) for page in sorted(docs.glob("results/*.md"))]
    families = [{"Families": "families.md"}] if (docs / "families.md").exists() else []
    config.nav = [
        {"Quick start": "index.md"},
        {"Compress a Nemotron 3 Nano": "nemotron-3-nano.md"},
        {"Texts and conversations": "data.md"},
        {"Commands": ["commands.md", *[{name: path(name)} for name in names]]},
        {"Python API": "api.md"},
        *families,
        {"Methods": "methods.md"},
        {"Decisions": decisions(docs)},
        {"Results": results},
    ]
    return config


def on_files(files, config, **_):
    """The pages of single commands, made from commands.md."""
    for name, text in sections(Path(config.docs_dir)):
        text = re.sub(r"\]\((?!https?:|#)", "](../", text)
        files.append(File.generated(config, path(name), content=f"# {name}\n{text}"))
    return files


def on_page_markdown(markdown, page, **_):
    """commands.md without its sections, which have pages of their own; ```math blocks as one line
    of HTML each.
    """
    if page.file.src_uri == "commands.md":
        names = SECTION.findall(markdown)
        markdown = SECTION.split(markdown)[0] + "\n".join(
            f"- [{name}]({path(name)})" for name in names
        )

    def equation(match):
        return f'<div class="equation">{convert(match[1].strip(), display="block")}</div>'

    return re.sub(r"^```math\n(.*?)^```$", equation, markdown, flags=re.DOTALL | re.MULTILINE)


def sections(docs):
    """[(command, its text)] of commands.md."""
    parts = SECTION.split((docs / "commands.md").read_text())
    return list(zip(parts[1::2], parts[2::2], strict=True))


def decisions(docs):
    """The index, then the pages of each of its areas, in its order."""
    found = ["decisions/index.md"]
    for line in (docs / "decisions/index.md").read_text().splitlines():
        if line.startswith("## "):
            found.append({line.removeprefix("## "): []})
        elif link := re.match(r"- \[.+\]\((.+)\)$", line):
            next(iter(found[-1].values())).append(f"decisions/{link[1]}")
    return found


def path(name):
    """Where a command's page is."""
    return f"commands/{re.sub('[^a-z]+', '-', name.lower()).strip('-')}.md"
