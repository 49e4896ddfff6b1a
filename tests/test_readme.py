"""Every command of the README and of the docs is run; what pages show of output is what is printed
(speeds aside).

Commands that show output (console blocks with $) in the pages of SHOWING are run as they stand. All
others are run one after another in one folder with a tiny checkpoint, made small by SMALL and
NAMES; what cannot be run here is in ELSEWHERE, with the reason.
"""

import re
import shlex
from pathlib import Path

import pytest
from conftest import save, shaken, tiny
from helpers import FAST, TEXT, run
from shown import missing, shown

ROOT = Path(__file__).parent.parent
SMALL = {
    "score": FAST["score"],
    "search": [w for w in FAST["search"] if w not in ("--budget", "96%")],
    "distill": (*FAST["distill"], "--tokens", 512, "--short-tokens", 256),
    "eval": FAST["eval"],
    "prune": ("--device", "cpu"),
    "profile": ("--widths", 2, "--device", "cpu"),
}
"""Options that come after those of a command, and win: small texts and few samples."""
NAMES = {
    "47B": "96%",
    "83%": "96%",
    "memory=45%": "memory=96%",
    "12MiB": "100MiB",
    "candidates/c005": "student",
    "other-model": "ckpt56b",
    "corpus/": str(TEXT),
    "b1,p512,o64": "b1,p16,o4",
}
"""Words that stand for something that a reader has: what they are replaced by."""
ELSEWHERE = {
    "make ": (
        "make demo is test_demo and make demo-check, make test is this run, make docs is test_docs"
    ),
    "pip install": "an installation",
    "git clone": "the address is the reader's",
    (
        "bench docs/examples/nemotron-h-8b docs/examples/llama-3.1-8b docs/examples/qwen2.5-7b"
        " --prompt 65536"
    ): ("needs a GPU; test_bench runs small ones"),
    "sums.jsonl": "what examples/chat.py makes; test_chat_page scores a part of it",
    "speeches.val.txt": "what examples/chat.py makes; test_blends reads small ones",
    "--run nano": "needs 59 GiB of weights; test_nano_page runs them on a tiny model",
    "torchrun": "needs several GPUs",
    "minipuzzle.embedded.corpus": "needs 300 MB of text outside the repository",
    "pretrain recipes/embedded-teacher": (
        "needs an H100 for 337 s; test_cli pretrains a small model"
    ),
    "run recipes/": "minutes; test_demo computes parts of the demo's recipe",
    "eval --tasks": "the tasks are the reader's; test_tasks runs small ones",
    "--dtype q4_k_m": "needs llama.cpp's llama-quantize; test_gguf_importance runs a small one",
    "minipuzzle adapt": "models of the reader's; test_adapt runs small ones",
    "minipuzzle merge": "models of the reader's; test_adapt runs small ones",
    "minipuzzle demo": "minutes; test_demo computes parts, make demo-check all of it",
}
COMMAND = re.compile(
    r"^(\$ )?((?:minipuzzle|torchrun|make|pip|python -m|git clone) .*?)(?:\s{2,}#.*)?$",
    re.MULTILINE,
)
SHOWING = ("README.md", "docs/index.md", "docs/families.md", "docs/nemotron-3-nano.md")
"""Pages whose console blocks show output of commands that run as they stand."""
RUN_AS_SHOWN = [
    (command, lines)
    for page in SHOWING
    for command, lines in shown(ROOT / page)
    if command != "minipuzzle demo"
]


@pytest.mark.parametrize(
    ("command", "lines"),
    RUN_AS_SHOWN,
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_command_prints_what_a_page_shows(command, lines, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    run(*shlex.split(command)[1:])
    printed = capsys.readouterr().out.splitlines()
    assert not missing(lines, printed), "not in the output:\n" + "\n".join(printed)


def test_the_box_at_the_top_is_the_demos_output():
    """Patterns, parameters, losses and changes of the box and its sentence, rounded from the output
    that is shown and run.
    """
    text = (ROOT / "README.md").read_text()
    rows = {
        words[0]: words
        for line in dict(shown(ROOT / "README.md"))["minipuzzle demo"]
        if len(words := line.split()) > 3
    }
    teacher, student = rows["teacher"], rows["student"]
    for name, row in (("parent", teacher), ("student", student)):
        pattern, count, loss = re.search(
            rf"^{name} +(\S+) +(\S+ M) parameters .* loss (\S+)$", text, re.MULTILINE
        ).groups()
        assert count == " ".join(row[1:3])
        assert loss == f"{float(row[7]):.3f}"
        assert f"{pattern}  {count}" in text.split("$ minipuzzle demo")[1]
    cut, changes = re.search(
        r"^\| \*\*-(\S+) %\*\* \| \*\*(.+?)\*\* \|", text, re.MULTILINE
    ).groups()
    assert float(cut) == pytest.approx(100 - float(student[3]))
    domains = [
        name.strip() for name in re.search(r"loss on unseen text: (.+?) \|", text)[1].split(",")
    ]
    found = {name: float(rows[name][-2]) for name in domains}
    assert changes == ", ".join(f"{change:+.1f} %" for change in found.values())
    assert set(rows) >= {"code", "docs", "speeches"} == set(found)
    worst = max(found, key=found.__getitem__)
    assert (
        f"Within 3 % on each of three domains; the worst is {worst}, {found[worst]:+.1f} %." in text
    )
    assert found[worst] <= 3


def commands():
    """[(page, command)] of every fenced block, in reading order, without the console blocks of
    SHOWING.
    """
    found = []
    for page in [
        ROOT / "README.md",
        *sorted(ROOT.glob("docs/*.md")),
        *sorted(ROOT.glob("docs/commands/*.md")),
    ]:
        for language, block in re.findall(
            r"^```(\w*)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE
        ):
            if language in ("", "sh", "console") and not (
                str(page.relative_to(ROOT)) in SHOWING and language == "console"
            ):
                found += [(page.name, match[2]) for match in COMMAND.finditer(block)]
    return found


def elsewhere(command):
    return next((reason for part, reason in ELSEWHERE.items() if part in command), None)


def test_every_command_is_run_or_has_a_reason(tmp_path, monkeypatch):
    """The score, search, ... of all pages on one checkpoint: a page's example may lean on the
    command before it.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("minipuzzle.timing.ROUNDS", {"cpu": 2})
    save(shaken(tiny("M-M*-M-")), tmp_path / "ckpt56b")
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    (tmp_path / "minipuzzle").mkdir()
    (tmp_path / "minipuzzle" / "embedded").symlink_to(ROOT / "minipuzzle" / "embedded")
    ran = set()
    for _, command in commands():
        if elsewhere(command):
            continue
        words = [NAMES.get(word, word) for word in shlex.split(command, comments=True)[1:]]
        words = [word.replace("candidates/c005", "student") for word in words]
        config_only = any("docs/examples" in word for word in words)
        words += [] if config_only else SMALL.get(words[0], ())
        if tuple(words) not in ran:
            run(*words)
            ran.add(tuple(words))
    done = {words[0] for words in ran}
    assert {
        "inspect",
        "score",
        "search",
        "prune",
        "distill",
        "eval",
        "report",
        "export",
        "profile",
    } <= done


def test_every_reason_is_needed():
    texts = " ".join(command for _, command in commands()) + (ROOT / "README.md").read_text()
    assert [part for part in ELSEWHERE if part not in texts] == []


def test_what_the_readme_links_to_is_there():
    for page in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
