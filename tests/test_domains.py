"""A text of several files: each is a domain with blocks of its own, measured by itself and as a
part of the whole.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import save, shaken, tiny
from helpers import TEXT, run
from run_files import GOOD
from torch.nn.functional import cross_entropy, kl_div

from minipuzzle import embedded
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.data import Tokenizer, load_blocks
from minipuzzle.metrics import answers, measure
from minipuzzle.records import EvalResult
from minipuzzle.report.evaluated import domain_rows, domains_title
from minipuzzle.rundir import RunDir

LENGTH = 32


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.load(embedded.teacher_path())


@pytest.fixture
def folder(tmp_path):
    """Two files long enough, one of them named as no markup should be, and two that are too short
    to be domains.
    """
    text = TEXT.read_text()
    (tmp_path / "text").mkdir()
    for name, part in {
        "[b]code.val.txt": text[:9000].upper(),
        "prose.txt": text[9000:15_000],
        "z.txt": text[:60],
        "a.txt": text[15_000:15_150],
        "blank.txt": "\n",
    }.items():
        (tmp_path / "text" / name).write_text(part)
    return tmp_path / "text"


def test_each_file_is_a_domain_and_short_ones_are_one_together(folder, tokenizer, tmp_path):
    def load():
        return load_blocks(
            folder, tokenizer, block_length=LENGTH, cache=tmp_path / "cache", by_file=True
        )

    made, again = load(), load()
    assert [d.name for d in made.domains] == ["[b]code.val", "prose", "others"]
    assert sum(d.blocks for d in made.domains) == len(made)
    assert sum(d.text_bytes for d in made.domains) == made.text_bytes
    assert (again.domains, again.fingerprint) == (made.domains, made.fingerprint)
    assert np.array_equal(again.tokens, made.tokens)
    for name, blocks in made.by_domain()[:2]:
        alone = load_blocks(folder / f"{name}.txt", tokenizer, block_length=LENGTH)
        assert np.array_equal(blocks.tokens, alone.tokens)
        assert (blocks.text_bytes, blocks.domains) == (alone.text_bytes, ())
    assert load_blocks(folder, tokenizer, block_length=LENGTH).domains == ()
    assert (
        load_blocks(folder / "prose.txt", tokenizer, block_length=LENGTH, by_file=True).domains
        == ()
    )
    (folder / "a.txt").unlink()
    assert [d.name for d in load().domains] == ["[b]code.val", "prose"]  # 60 letters are no block
    before = load().fingerprint
    (folder / "prose.txt").rename(folder / "q.txt")  # the same text, but a domain of another name
    assert load().fingerprint != before


def test_both_halves_have_every_other_block_of_each_domain(folder, tokenizer):
    made = load_blocks(folder, tokenizer, block_length=LENGTH, by_file=True)
    halves = [made.every_other(first) for first in (0, 1)]
    start = 0
    for d, first, second in zip(made.domains, halves[0].domains, halves[1].domains, strict=True):
        assert (first.name, second.name, first.blocks + second.blocks) == (d.name, d.name, d.blocks)
        assert abs(first.blocks - second.blocks) <= 1
        even = dict(halves[0].by_domain())[d.name].tokens
        assert np.array_equal(even, made.tokens[start : start + d.blocks][start % 2 :: 2])
        start += d.blocks


@pytest.mark.parametrize("taught", ["model", "answers"])
def test_a_domain_is_measured_as_if_it_were_alone_and_as_torch_does(folder, tokenizer, taught):
    model, other = (shaken(tiny("M-*", vocab=4096), seed=seed) for seed in (0, 1))
    blocks = load_blocks(folder, tokenizer, block_length=LENGTH, by_file=True).every_other(1)
    whole = measure(
        model, blocks, batch=5, teacher=other if taught == "model" else answers(other, blocks)
    )
    assert list(whole.domains) == ["[b]code.val", "prose", "others"]
    for name, part in blocks.by_domain():
        tokens = torch.from_numpy(part.tokens.astype("int64"))
        with torch.no_grad():
            mine, theirs = (m(tokens)[:, :-1].double().flatten(0, 1) for m in (model, other))
        expected = {
            "loss": cross_entropy(mine, tokens[:, 1:].flatten()),
            "kl": kl_div(
                mine.log_softmax(-1), theirs.log_softmax(-1), log_target=True, reduction="batchmean"
            ),
            "agreement": (mine.argmax(-1) == theirs.argmax(-1)).double().mean(),
            "next_token_accuracy": (mine.argmax(-1) == tokens[:, 1:].flatten()).double().mean(),
        }
        for key, value in expected.items():
            assert getattr(whole.domains[name], key) == pytest.approx(value.item(), rel=1e-4), key
        assert measure(model, part, batch=5).loss == pytest.approx(
            whole.domains[name].loss, rel=1e-6
        )
    assert whole.tokens == sum(m.tokens for m in whole.domains.values())
    for key in ("loss", "next_token_accuracy"):
        mean = sum(getattr(m, key) * m.tokens for m in whole.domains.values()) / whole.tokens
        assert getattr(whole, key) == pytest.approx(mean, rel=1e-9)
    assert measure(model, dict(blocks.by_domain())["prose"]).domains == {}


def test_eval_shows_each_domain_and_the_worst(folder, tmp_path, monkeypatch, capsys):
    for name, seed in (("teacher", 0), ("other", 1)):
        save(shaken(tiny("M-*"), seed=seed), tmp_path / name)
    monkeypatch.chdir(tmp_path)
    RunDir(tmp_path / "run").set_parent(
        tmp_path / "teacher", Checkpoint.open(tmp_path / "teacher").fingerprint
    )
    run("eval", "other", "--run", "run", "--data", folder, "--length", LENGTH, "--device", "cpu")
    printed = capsys.readouterr().out
    result = json.loads((tmp_path / "run/eval.json").read_text())
    first, other = (row["domains"] for row in result["rows"])
    assert list(other) == ["[b]code.val", "prose", "others"]
    assert sum(part["tokens"] for part in other.values()) == result["tokens"]
    changes = {name: 100 * (part["loss"] / first[name]["loss"] - 1) for name, part in other.items()}
    for name, part in other.items():
        assert f"{part['loss']:.4f} {changes[name]:+.2f} %" in next(
            x for x in printed.splitlines() if x.startswith(f" {name}")
        )
    worst = max(changes, key=changes.__getitem__)
    assert f"worst of the other: {worst} {changes[worst]:+.2f} %" in printed


def test_a_text_of_one_domain_has_no_table():
    result = EvalResult.read(GOOD["eval.json"][1], Path("eval.json"))
    one = replace(result, rows=tuple(replace(row, domains={}) for row in result.rows))
    assert domain_rows(one) == []
    assert domains_title(one) == "loss by domain"
    assert domains_title(replace(result, rows=result.rows[:1])) == "loss by domain"
    assert len(domain_rows(result)) == 1
