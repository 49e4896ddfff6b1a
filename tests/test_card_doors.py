"""Names of others in the model card and the report: shown, never markup, never this machine's
paths.
"""

import copy
import json
import os
import re

import numpy as np
import pytest
import yaml
from run_files import GOOD, ROW
from test_report import Checker

from minipuzzle.report.card import write_card
from minipuzzle.report.escape import markdown, published
from minipuzzle.report.page import build_report
from minipuzzle.scores import Scores

EVIL = "<img src=x onerror=alert(1)>|`x`*b*_i_[l](u)$x_{~a~&amp;"


def put(folder, name, changes=lambda value: None):
    value = copy.deepcopy(GOOD[name][1])
    changes(value)
    (folder / name).write_text(json.dumps(value))


@pytest.fixture
def run_of(tmp_path):
    """A function that writes a run whose texts are all ``name``, and its parent's card; the run's
    folder.
    """

    def make(name, card=None, folder="parent"):
        run, parent = tmp_path / "run", tmp_path / folder
        (run / "student").mkdir(parents=True)
        (run / "distill" / "$long_{").mkdir(parents=True)
        (run / "distill" / "$long_{" / "log.csv").write_text("step,tokens,loss\n1,5,2.5\n2,9,1.5\n")
        parent.mkdir()
        if card is not None:
            (parent / "README.md").write_bytes(card)
        (parent / "config.json").write_text(json.dumps({"_name_or_path": name}))
        (run / "student" / "config.json").write_text(json.dumps({"model_type": name}))
        put(
            run,
            "run.json",
            lambda v: [v[of].update(path=str(parent)) for of in ("parent", "original")],
        )
        put(
            run,
            "commands.json",
            lambda v: v["commands"][0].update(command=f"minipuzzle score /home/me/{name!r}"),
        )
        put(run, "search.json", lambda v: v["budget"].update(text=[name]))
        put(
            run,
            "eval.json",
            lambda v: (
                v.update(device=name, data=f"/home/me/{name}.txt"),
                [
                    row.update(name=name, domains={name: ROW["domains"]["prose"]})
                    for row in v["rows"]
                ],
            ),
        )
        put(run, "tasks.json", lambda v: v["rows"][0].update(name=name, task=name, metric=name))
        Scores(
            blocks=np.arange(1.0, 3.0),
            widths={"intermediate": {1: np.ones(4)}, "head_channels": {0: np.ones((4, 2))}},
            hidden=np.ones(8),
            meta={"metric": name, "estimator": name},
        ).save(run / "scores.safetensors")
        return run

    return make


def unescaped(text):
    """What Markdown would still take for markup, outside of code."""
    text = re.sub(
        r"```.*?```|`minipuzzle [a-z]+`|\(teacher .. student\)",
        "",
        text.split("---\n", 2)[2],
        flags=re.DOTALL,
    )
    table = re.sub(
        r"^\|.*\|$", lambda row: re.sub(r"(?<!\\)\|", "", row[0]), text, flags=re.MULTILINE
    )
    return set(re.findall(r"(?<!\\)[`*<>\[\]$~|]", table.replace("\\\\", "")))


def test_a_card_shows_evil_names_and_no_paths(run_of):
    text = write_card(run_of(EVIL, folder="a'|<b>`")).read_text()
    assert unescaped(text) == set()
    assert "/home/me" not in text
    assert "\\<img" in text
    header = yaml.safe_load(text.split("---\n")[1])
    assert header["base_model"] == "a'|<b>`"
    assert header["tags"][-1] == EVIL
    assert text.count("```") == 6


def test_a_page_shows_evil_names(run_of, recwarn):
    page = build_report(run_of(EVIL + " \u0905 \U0001f600", folder="$a_{<b>&"))
    text = page.read_text()
    checker = Checker()
    checker.feed(text)
    assert not checker.open
    assert set(checker.seen) & {"img", "script"} == set()
    assert "$long_{" in text
    assert "&lt;img src=x onerror=alert(1)&gt;" in text
    assert not recwarn


@pytest.mark.parametrize(
    "card",
    [
        b"\xff\xfe",
        b"---\n[\n---\n",
        b"---\na: 2020-13-45\n---\n",
        b"---\n" + b"[" * 50_000 + b"\n---\n",
        b"---\n- a\n---\n",
        b"",
        (
            b"---\nlicense: {a: <b>}\nlanguage: [[en]]\nlicense_name: 'x\n\n  y'\nlicense_link:"
            b" 5\n---\n"
        ),
    ],
)
def test_a_parents_card_that_says_nothing(card, run_of):
    header = yaml.safe_load(write_card(run_of("x", card)).read_text().split("---\n")[1])
    assert not header.keys() & {"license", "license_name", "license_link", "language"}


def test_a_parents_card_that_is_none(run_of):
    run = run_of("x")
    os.mkfifo(run.parent / "parent" / "README.md")
    assert "license" not in write_card(run).read_text().split("---\n")[1]


def test_a_parents_licence_is_kept(run_of):
    card = b"---\nlicense: apache-2.0\nlanguage:\n- en\n- de\n---\n# A model\n"
    header = yaml.safe_load(write_card(run_of("x", card)).read_text().split("---\n")[1])
    assert (header["license"], header["language"]) == ("apache-2.0", ["en", "de"])


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (
            "minipuzzle score /home/me/model --data ../secret/t.txt",
            "minipuzzle score model --data t.txt",
        ),
        (
            "minipuzzle search --run=/a/b --budget 10tok/s@b1,p8,o1",
            "minipuzzle search --run=b --budget 10tok/s@b1,p8,o1",
        ),
        (
            "minipuzzle eval '~/a b/c' --run ./x/ --budget 1.2x",
            "minipuzzle eval c --run x --budget 1.2x",
        ),
        ("minipuzzle eval 'a`b' 'c\nd' '/'", "minipuzzle eval 'a b' 'c d' ."),
        ("minipuzzle 'open", ""),
    ],
)
def test_published_command_lines(command, shown):
    assert published(command) == shown


def test_words_stay_readable():
    plain = (
        "c001 was chosen of 24 candidates: damage 4.5e-3, 16 to 9–15 a block; my_model-8B (v1.0)"
        " + 3 %"
    )
    assert markdown(plain) == plain
    assert markdown(["_a_ b_c", {"a": "x\n| y"}]) == ["\\_a\\_ b_c", {"a": "x \\| y"}]
