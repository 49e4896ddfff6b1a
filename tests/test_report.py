"""The report and the model card: one well-formed file without a network, whatever the run directory
holds so far.
"""

import json
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from helpers import FAST, TEXT, run
from huggingface_hub import ModelCard
from words import found, visible

from minipuzzle.artifacts import read_json
from minipuzzle.errors import UserError
from minipuzzle.records import Distilled
from minipuzzle.report.page import build_report
from minipuzzle.rundir import RunDir
from minipuzzle.scores import Scores
from minipuzzle.units import bytes_, count, percent

SECTIONS = (
    "pattern",
    "removed",
    "quality",
    "cost",
    "scores",
    "candidates",
    "distillation",
    "commands",
    "sources",
)
VOID = {"meta", "br", "img", "hr", "input", "link", "path", "use", "rect", "circle", "line"}


class Checker(HTMLParser):
    """Every element is closed, nothing refers to the network."""

    def __init__(self):
        super().__init__()
        self.open = []
        self.seen = []
        self.ids = Counter()
        self.referred = set()

    def handle_starttag(self, tag, attributes):
        self.handle_startendtag(tag, attributes)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids[value] += 1
            if name in ("src", "href", "xlink:href", "srcset", "data", "action"):
                assert value.startswith("#") or (
                    tag == "image" and value.startswith("data:image/png;base64,")
                ), value
            if name.endswith("href") and value.startswith("#"):
                self.referred.add(value[1:])

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


def check(page):
    """(text, tags): well formed, ids unique and there, no script, every section, nothing that a
    browser would fetch.
    """
    text = page.read_text()
    checker = Checker()
    checker.feed(text)
    assert not checker.open
    assert set(checker.ids.values()) == {1}
    assert checker.referred | set(re.findall(r"url\(#([^)]+)\)", text)) <= set(checker.ids)
    assert set(SECTIONS) <= set(checker.ids)
    assert not {"script", "link", "iframe", "object", "embed", "base"} & set(checker.seen)
    assert not re.search(r"url\((?!#)|@import", text)
    assert found(visible(text)) == []
    outside = re.findall(r"https?://[^\s\"'<)]+", text)
    assert set(outside) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
        "http://www.w3.org/1999/xhtml",
    }
    return text, checker.seen


def unfilled(text):
    return re.findall(r'id="(\w+)">[^<]*</h2>\s*<p>minipuzzle [^<]* fills this section', text)


def test_report_and_card_grow_with_the_run(checkpoint, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(UserError, match="missing"):
        build_report(folder)
    (checkpoint / "README.md").write_text(
        "---\nlicense: apache-2.0\nlanguage: [en]\n---\n# Parent\n"
    )
    run("score", checkpoint, "--run", folder, *FAST["score"])
    text, seen = check(build_report(folder))
    assert seen.count("svg") == 2
    assert unfilled(text) == ["pattern", "removed", "quality", "cost", "candidates", "distillation"]
    run("search", "--run", folder, *FAST["search"])
    text, seen = check(build_report(folder))
    assert seen.count("svg") == 3
    assert unfilled(text) == ["quality", "cost", "distillation"]
    run("distill", "--run", folder, *FAST["distill"])
    text, _ = check(build_report(folder))
    assert unfilled(text) == ["quality", "cost"]
    assert "No forecast of what more tokens would bring: 0 points, at least 6" in text
    made = RunDir(folder)
    done = made.stage(Distilled)
    made.mark(replace(done, curve=[(n, 3 + n**-0.5) for n in (1, 2, 4, 8, 16, 32)]))
    text, seen = check(build_report(folder))
    assert "with 2 x the tokens 3.1250 (95 % interval 3.1250 to 3.1250), 4 x the tokens" in text
    assert seen.count("svg") == 5
    made.mark(done)
    card = ModelCard.load(folder / "student" / "README.md")
    assert (card.data.license, card.data.language, card.data.eval_results) == (
        "apache-2.0",
        ["en"],
        None,
    )
    run("eval", "--run", folder, *FAST["eval"], "--data", two_domains(tmp_path))
    text, seen = check(build_report(folder))
    assert seen.count("svg") == 4
    assert unfilled(text) == []
    for words in (
        "Budget: 96%",
        "arXiv:2504.03624",
        "minipuzzle distill",
        "student",
        "color-scheme",
        ">exact<",
    ):
        assert words in text
    check_card(folder)
    run(
        "search", "--run", folder, *FAST["search"], "--candidates", 3
    )  # another search: the student is not its student
    text, _ = check(build_report(folder))
    assert unfilled(text) == ["quality", "cost"]
    assert "No distillation of this search has finished." in text


def two_domains(folder):
    """A folder of two texts."""
    target = folder / "two"
    target.mkdir()
    for name, part in {
        "code <b>": TEXT.read_text()[:12_000].upper(),
        "prose": TEXT.read_text()[12_000:24_000],
    }.items():
        (target / f"{name}.txt").write_text(part)
    return target


def check_card(folder):
    """Read by huggingface_hub: the metadata, and the numbers of eval.json."""
    card = ModelCard.load(folder / "student" / "README.md")
    assert found(card.text) == []
    assert (card.data.base_model, card.data.library_name) == ("ckpt56b", "transformers")
    student = read_json(folder / "eval.json")["rows"][-1]
    measured = {result.metric_type: result.metric_value for result in card.data.eval_results}
    for metric in ("loss", "perplexity", "bits_per_byte", "kl", "agreement"):
        assert measured[metric] == pytest.approx(student[metric], abs=1e-5)
    page, teacher = (folder / "report.html").read_text(), read_json(folder / "eval.json")["rows"][0]
    assert len(student["domains"]) == 2
    for name, part in student["domains"].items():
        shown = (
            f"{part['loss']:.4f}"
            f" {100 * (part['loss'] / teacher['domains'][name]['loss'] - 1):+.2f} %"
        )
        assert shown in next(
            line for line in card.text.splitlines() if line.startswith(f"| {name[:4]}")
        )
        assert shown in page
    assert "<b>" not in page.split('id="quality"')[1].split("<h2")[0]
    costs = read_json(folder / "eval.json")["costs"]
    assert len(costs) == 4
    assert all(row["predicted"] == row["measured"] for row in costs)
    assert f"{student['loss']:.4f}" in card.text
    assert "minipuzzle search" in card.text


def test_a_solver_run_of_many_blocks_with_drops(tmp_path):
    """Made-up files in the form of the stages': other widths in each block, dropped blocks, a
    front, 118 blocks.
    """
    pattern = "M-" * 54 + "*-" * 5
    rng = np.random.default_rng(0)
    scores = Scores(
        blocks=rng.random(118) + 0.1,
        hidden=rng.random(64),
        meta={"metric": "kl"},
        widths={
            "q_heads": {i: rng.random(4) for i in range(108, 118, 2)},
            "intermediate": {i: rng.random(16) for i in range(1, 118, 2)},
            "head_channels": {i: rng.random((8, 2)) for i in range(0, 108, 2)},
        },
    )
    scores.save(tmp_path / "scores.safetensors")
    blocks = [
        None if i in (3, 108) else {"intermediate": list(range(8 + i % 8))} if i % 2 else {}
        for i in range(118)
    ]
    strip = "".join("." if b is None else c for b, c in zip(blocks, pattern, strict=True))
    row = {
        "pattern": strip.replace(".", ""),
        "parameters": 4_000_000_000,
        "bytes": 2**33,
        "damage": 0.5,
        "next_token_accuracy": 0.4,
        "agreement": 0.9,
        "loss": 2.0,
        "kl": 0.1,
        "strip": strip,
        "shape": {
            "attention": 4,
            "mlp": 58,
            "mamba": 54,
            "intermediate": "8-15",
            "heads": 8,
            "hidden": 64,
        },
    }
    rows = [
        {
            **row,
            "name": f"s{i:03}",
            "origin": "solver",
            "rank": i + 1,
            "kl": 0.1 + i / 100,
            "parameters": row["parameters"] - i * 10**7,
        }
        for i in range(20)
    ]
    workload = {"context": 8192, "batch": 1, "weights": "bf16", "kv": "bf16", "state": "bf16"}
    search = {
        "schema": 2,
        "method": "solver",
        "points": 10**6,
        "feasible": 0,
        "parent": {
            "path": "/models/<big>&co",
            "fingerprint": "0" * 16,
            "pattern": pattern,
            "parameters": 5_000_000_000,
        },
        "budget": {
            "text": ["8GiB"],
            "bytes": 2**33,
            "parameters": None,
            "times": {},
            "timing": None,
            "margin": None,
            "workload": workload,
        },
        "not_pruned": [],
        "parent_cost": {"parameters": 5_000_000_000, "bytes": 2**34, "times": {}},
        "candidates": rows,
        "top": ["s000"],
        "selections": {"s000": {"blocks": blocks, "hidden": list(range(1, 49))}},
        "bounds": {"hidden": [48, 64]},
        "front": {
            "names": ["memory"],
            "points": [
                {"limit": [2**33], "cost": [2**33], "damage": 0.4, "gap": 0.0},
                {"limit": [2**34], "cost": [2**34], "damage": 0.1, "gap": 0.0},
            ],
        },
        "funnel": [
            {"stage": "points of the grid that fit", "entered": 10**6, "left": 0, "seconds": 0.1}
        ],
    }
    (tmp_path / "search.json").write_text(json.dumps(search))
    (tmp_path / "run.json").write_text(
        json.dumps({"schema": 3, "parent": search["parent"], "stages": {}})
    )
    text, seen = check(build_report(tmp_path))
    assert seen.count("svg") == 4
    assert "&lt;big&gt;&amp;co" in text
    assert "8 more in search.json" in text
    assert "block 3" in text
    assert "16 to 9–15 a block" in text
    assert "Hidden size 64 to 48 in every block: the slimmer boxes." in text
    assert text.count("width:75%") == 116  # all but the two that were dropped
    assert "<td>hidden channels</td><td>16 of 64</td>" in text


def test_units():
    assert [count(5_523_552), count(46_791_554_816), count(12)] == ["5.52 M", "46.79 B", "12"]
    assert [bytes_(31.68 * 2**30), bytes_(2**20)] == ["31.68 GiB", "1.00 MiB"]
    assert percent(83, 100) == "83.0 %"
