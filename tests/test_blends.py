"""Texts of several sources: their shares of any stretch of a stream, of a calibration text, and
what a run that goes on reads. Oracle: counting.
"""

import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import save, shaken, tiny
from helpers import TEXT

import minipuzzle as mp
from minipuzzle.data import blended, pack
from minipuzzle.data.blend import epochs
from minipuzzle.data.shares import apportion, schedule
from minipuzzle.errors import UserError
from minipuzzle.messages import print_messages
from minipuzzle.ranks import alone
from minipuzzle.settings.blend import Source, parse_sources
from minipuzzle.training import next_token, train
from minipuzzle.training.keep import Keep
from minipuzzle.training.offline import TeacherCache, stored
from minipuzzle.training.sparse import teacher_entries

LENGTH = 512
WEIGHTS = [(6000, 3000, 1000), (1, 1), (9700, 100, 100, 100), (3333, 3333, 3334), (96, 32), (7,)]


def source(number, count, length=LENGTH):
    """Blocks whose first token says which block it is, and whose second one the source."""
    tokens = np.zeros((count, length), dtype=np.uint32)
    tokens[:, 0], tokens[:, 1] = np.arange(count), number
    return pack(
        list(tokens),
        block_length=length,
        vocab_size=60_000,
        seed=0,
        fingerprint=f"{number}",
        text_bytes=count,
    )


def blend(weights, counts, length=LENGTH):
    parts = [source(i, count, length) for i, count in enumerate(counts)]
    return blended(parts, [f"text {i}" for i in range(len(parts))], weights)


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_each_source_has_its_share_of_any_stretch(weights):
    sources, before = schedule(weights)
    whole = np.tile(sources, 3 + 400 // len(sources))
    given = np.stack([np.cumsum(whole == i) for i in range(len(weights))], 1)
    given = np.vstack([np.zeros(len(weights), dtype=int), given])  # [positions + 1, sources]
    share = np.array(weights) / sum(weights)
    off = given - np.arange(len(given))[:, None] * share
    count = len(weights)
    assert np.abs(off).max() <= 1 - 1 / max(1, 2 * count - 2) + 1e-6 or count == 1  # Tijdeman's
    for blocks in {1, 100_000 // LENGTH, len(sources)}:
        stretch = given[blocks:] - given[:-blocks]  # every one of so many blocks
        most = np.abs(stretch - blocks * share).max()
        assert most < 2 if blocks % len(sources) else most < 1e-9
    for i in range(count):
        assert before[sources == i].tolist() == list(range(int((sources == i).sum())))


def test_a_stream_follows_from_seed_and_position_and_reads_each_source_in_epochs():
    made = blend((6000, 3000, 1000), (50, 7, 11))
    tokens, _ = made.stream(range(400), 3)
    again = np.concatenate([made.stream(range(p, p + 8), 3)[0] for p in range(0, 400, 8)])
    assert np.array_equal(tokens, again)
    assert not np.array_equal(tokens, made.stream(range(400), 4)[0])
    for number, (share, count) in enumerate(((240, 50), (120, 7), (40, 11))):
        own = tokens[tokens[:, 1] == number, 0]
        assert len(own) == share
        for start in range(0, share - count + 1, count):
            assert sorted(own[start : start + count]) == list(range(count))
        assert own[:count].tolist() != own[count : 2 * count].tolist()
    # 100,000 tokens are 195 blocks and a part of one
    for start in range(200):
        own = np.bincount(tokens[start : start + 195, 1], minlength=3) * LENGTH
        assert np.abs(own - np.array([0.6, 0.3, 0.1]) * 195 * LENGTH).max() < 2 * LENGTH
    lines = epochs(made, 400 * LENGTH)
    assert "text 1: 30.00% of the tokens, 3,584 of its own, 17.14 epochs" in lines[1]
    assert epochs(source(0, 5), 100) == []


def test_a_run_that_was_stopped_goes_on_with_the_same_blocks(tmp_path):
    blocks = blend((6, 3, 1), (9, 4, 3), length=16)
    settings = mp.Training(tokens=16 * 4 * 8, batch=4, learning_rate=1e-3)
    seen = []

    def trained(folder, stop=None):
        model = shaken(tiny("M-", hidden=16, vocab=61))

        def objective(model, tokens, documents):
            seen.append(tokens.clone())
            if len(seen) == stop:
                os.kill(os.getpid(), signal.SIGTERM)
            return next_token(model, tokens % 61, documents)

        train(model, objective, blocks, settings, tmp_path / folder, identity="x")
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    whole = trained("whole")
    with pytest.raises(SystemExit):
        trained("stopped", stop=len(seen) + 3)
    again = trained("stopped")
    assert torch.equal(whole, again)
    assert torch.equal(torch.cat(seen[:8]), torch.cat(seen[8:]))


def test_stored_logits_are_those_of_the_blend(tmp_path):
    """More blocks than there are: a small source comes again, long before a large one does."""
    made = blend((6, 3, 1), (40, 2, 1), length=16)
    teacher = shaken(tiny("M-", hidden=16, vocab=61))
    options = {"teacher": "t", "vocabulary": 60_000, "seed": 0, "isolate": False}
    cache = TeacherCache(tmp_path, made, Keep.parse("top-8"), positions=range(60), **options)
    cache.rows, cache.vocabulary = 16, 61
    wrapped = lambda tokens, documents: teacher.hidden_states(tokens % 61, documents)  # noqa: E731
    asked = SimpleNamespace(
        hidden_states=wrapped, head_weight=teacher.head_weight, parameters=teacher.parameters
    )
    assert cache.missing() == [0, 1, 2, 3]
    cache.fill(asked, cache.missing(), alone(torch.device("cpu")), 4)
    stored(cache)
    tokens, documents = (torch.from_numpy(x) for x in made.stream(range(60), 0))
    said = cache.entries(tokens, documents)
    hidden = teacher.hidden_states(tokens % 61, None).flatten(0, 1)
    wanted = teacher_entries(hidden, teacher.head_weight, 8)
    assert torch.equal(said.ids, wanted.ids)
    with pytest.raises(UserError, match="not in the cache"):
        cache.entries(*(torch.from_numpy(x) for x in made.stream(range(64, 68), 0)))


def test_a_share_of_a_text_is_its_share_of_what_is_chosen():
    for weights, limits in (((60, 30, 10), (60, 300, 5)), ((1, 1), (3, 2)), ((96, 32), (96, 32))):
        most = apportion(weights, limits)
        assert all(n <= limit for n, limit in zip(most, limits, strict=True))
        for count in range(1, sum(limits) + 1):
            found = apportion(weights, limits, count)
            assert sum(found) == count
            assert all(n <= limit for n, limit in zip(found, limits, strict=True))
            if count <= sum(most):
                share = np.array(weights) * count / sum(weights)
                assert np.abs(found - share).max() < 1
    made = blend((60, 30, 10), (60, 300, 5)).proportioned()
    assert [d.blocks for d in made.domains] == [30, 15, 5]
    half = made.every_other(1)
    assert sum(d.blocks for d in half.take(7).domains) == 7
    assert [d.blocks for d in made.take(10, seed=5).domains] == [6, 3, 1]
    (_, first), *_ = made.by_domain()
    assert (first.shares, set(first.tokens[:, 1].tolist())) == ((), {0})
    assert len(np.unique(first.tokens[:, 0])) == 30


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("data/a b", [("data/a b", 0, 0)]),
        ("a=b", [("a=b", 0, 0)]),
        ("it's", [("it's", 0, 0)]),
        (
            "a/=60% b.jsonl=39.99% 'c d=0.01%'",
            [("a/", 6000, 0), ("b.jsonl", 3999, 0), ("c d", 1, 0)],
        ),
        ("a=96 b=1k", [("a", 0, 96), ("b", 0, 1000)]),
        ("hf:x/y:z[:5]=100%", [("hf:x/y:z[:5]", 10_000, 0)]),
    ],
)
def test_sources_are_read(text, found):
    assert [(s.name, s.share, s.blocks) for s in parse_sources(text)] == found
    assert [Source(name=n, share=s, blocks=b).weight for n, s, b in found] == [
        s or b for _, s, b in found
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a=60% b=30%", "90 %"),
        ("a=60% b", "b, without"),
        ("a=60% b=40", "shares and numbers"),
        ("a=0% b=100%", "a=0%"),
        ("a=1.2.3% b=98%", "1.2.3"),
        ("a=0.001% b=99.999%", "hundredths"),
        ("a=5x b=6", "5x"),
    ],
)
def test_shares_that_mean_nothing_are_refused(text, says):
    with pytest.raises(UserError) as caught:
        parse_sources(text)
    assert says in caught.value.got


@pytest.fixture
def parent(tmp_path):
    save(shaken(tiny("M-*")), tmp_path / "parent")
    words = TEXT.read_text()
    for name, part in (("prose", words[:9000]), ("code", words[9000:14_000])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(part)
    rows = [{"prompt": f"{i} and {i}:", "completion": f" {2 * i}"} for i in range(300)]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def job(parent, run="run", **texts):
    data = mp.Data(length=32, **texts)
    return mp.load(parent / "parent", run=parent / run, data=data, device="cpu")


def test_a_text_is_a_blend_by_its_name(parent, monkeypatch, capsys):
    monkeypatch.chdir(parent)
    print_messages()
    shares = "prose/=60% code=30% chat.jsonl=10%"
    made = job(parent, train=shares, validation=shares, calibration="prose=12 chat.jsonl=4")
    train = made.text("train")
    assert "train text: chat.jsonl, 10 %" in capsys.readouterr().err
    assert train.spans  # the prompts of one carry no loss, and every token of the others does
    assert [d.name for d in train.domains] == ["prose", "code", "chat"]
    assert train.shares == (6, 3, 1)
    prose = dict(train.by_domain())["prose"]
    assert (prose.documents % 2 == 1).all()
    for name, part in train.by_domain():  # all of it, whatever its share
        file = "chat.jsonl" if name == "chat" else name
        assert np.array_equal(part.tokens, job(parent, name, train=file).text("train").tokens)
    held_out = made.validation("eval")
    counts = [d.blocks for d in held_out.domains]
    assert [round(10 * n / sum(counts)) for n in counts] == [6, 3, 1]
    assert [d.blocks for d in made.text("calibration").domains] == [12, 4]
    assert [d.blocks for d in made.text("calibration").take(8).domains] == [6, 2]
    (parent / "odd=60%").write_text("never")
    again = job(parent, "other", calibration="prose=9999 code=1")
    with pytest.raises(UserError, match="too short"):
        again.text("calibration")
    (named,) = job(parent, "odd", train="odd=60%").text_parts("train")  # a file that is there
    assert named.path == Path("odd=60%")


def test_a_data_set_is_streamed_into_a_file(parent, monkeypatch, capsys):
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(parent)
    print_messages()
    rows = [{"text": f"words and words {i} " * 4, "id": i} for i in range(60)]
    (parent / "set").mkdir()
    for split, part in (("train", rows[:50]), ("test", rows[50:])):
        lines = "".join(json.dumps(row) + "\n" for row in part)
        (parent / "set" / f"{split}.jsonl").write_text(lines)
    for named, count in (
        ("hf:set", 50),
        ("hf:set::test", 10),
        ("hf:set:test", 10),
        ("hf:set[:7]", 7),
    ):
        made = job(parent, train=named)
        (part,) = made.text_parts("train")
        read = [json.loads(line) for line in part.path.read_text().splitlines()]
        start = 50 if "test" in named else 0
        assert read == [{"text": row["text"]} for row in rows[start : start + count]]
        assert (part.name, len(made.text("train")) > 0) == ("set", True)
    (parent / "set/train.jsonl").unlink()
    assert len(job(parent, train="hf:set=50% code=50%").text("train").domains) == 2
    for named, what in (("hf:none", "cannot be read"), ("hf:a:b:c:d", "no name of a data set")):
        with pytest.raises(UserError, match=what):
            job(parent, train=named).text("train")
    (parent / "other").mkdir()
    (parent / "other/train.jsonl").write_text('{"words": "x"}\n')
    with pytest.raises(UserError, match="neither text nor conversations"):
        job(parent, train="hf:other").text("train")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError) as caught:
        job(parent, train="hf:set[:8]").text("train")
    assert "minipuzzle[data]" in caught.value.next
