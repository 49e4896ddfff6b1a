"""Conversations and stored teacher logits in blocks of several lengths in turn."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from chats import conversations, published, put_chat
from conftest import shaken, tiny
from helpers import heard
from test_chat_data import SAID, USER, write
from test_lengths import text

from minipuzzle.data import Tokenizer, load_blocks
from minipuzzle.data.conversations import Conversations
from minipuzzle.errors import UserError
from minipuzzle.ranks import alone
from minipuzzle.settings import Training
from minipuzzle.training import train
from minipuzzle.training.keep import Keep
from minipuzzle.training.objectives import distillation
from minipuzzle.training.offline import TeacherCache, stored
from minipuzzle.training.stages import stages

TURNS = ((64, 0.5), (128, 0.25), (256, 0.25))
STOPPED = UserError("stopped", got="", allowed="", next="")
SETTINGS = Training(tokens=64 * 8 * 4, batch=8, micro_batch=4, learning_rate=1e-3, save_every=0.0)


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    """(conversations in blocks of 256 tokens, which have them in the shorter ones too, the whole
    conversations, words in the vocabulary)
    """
    folder = tmp_path_factory.mktemp("chat")
    words = Tokenizer.load(put_chat(folder / "words", published("chatml")))
    rows = [{"messages": m} for m, tools in conversations(60, "chatml") if tools is None]
    rows += [{"messages": [USER, SAID | {"content": f"{n} is four"}]} for n in range(60)]
    file = write(folder / "chat.jsonl", rows)
    blocks, *shorter = (load_blocks(file, words, block_length=n) for n in (256, 64, 128))
    each = list(Conversations(tokenizer=words, loss_on="assistant").read(file))
    return replace(blocks, shorter=tuple(shorter)), each, words.vocab_size


def model(vocab, seed):
    return shaken(tiny("M*", hidden=16, heads=4, head_dim=4, vocab=vocab), seed)


def caches(folder, blocks, settings, vocab, teacher=None, keep=""):
    made = [
        TeacherCache(
            folder / str(turn.blocks.block_length),
            turn.blocks,
            Keep.parse(keep or f"top-{vocab}"),
            positions=turn.positions(),
            teacher="t",
            vocabulary=vocab,
            seed=settings.seed,
            isolate=settings.isolate_documents,
        )
        for turn in stages(blocks, settings, TURNS)
    ]
    for cache in made if teacher is not None else ():
        cache.fill(teacher, cache.missing(), alone(torch.device("cpu")), 8)
    return made


class Watched:
    """An objective whose batches are kept; stops in place of call ``at``."""

    capturable = False

    def __init__(self, objective, at=0):
        self.objective, self.batches, self.at = objective, [], at

    def __call__(self, model, tokens, documents):
        if len(self.batches) + 1 == self.at:
            raise STOPPED
        self.batches.append((tokens.clone(), documents if documents is None else documents.clone()))
        return self.objective(model, tokens, documents)


def trained(folder, objective, blocks, vocab, settings=SETTINGS):
    student = model(vocab, 1)
    train(student, objective, blocks, settings, folder, identity="x", lengths=TURNS)
    rows = [line.split(",") for line in (folder / "log.csv").read_text().splitlines()]
    columns = [rows[0].index(name) for name in ("loss", "teacher_entropy")]
    return student.state_dict(), [[float(row[c]) for c in columns] for row in rows[1:]]


def test_conversations_are_whole_in_blocks_of_each_length(chat, tmp_path):
    blocks, each, vocab = chat
    seen = Watched(distillation(model(vocab, 5), spans=True))
    trained(tmp_path, seen, blocks, vocab)
    lengths = [tokens.shape[1] for tokens, _ in seen.batches]
    assert lengths == [64] * 4 + [128] * 2 + [256] * 2  # two micro-batches a step, four of 512
    wanted = {(tuple(e.tokens.tolist()), tuple(e.wanted.tolist())) for e in each}
    longest = dict.fromkeys((64, 128, 256), 0)
    for tokens, documents in seen.batches:
        for row, numbers in zip(tokens, documents, strict=True):
            for k in range(int(numbers.max()) // 2 + 1):
                place = numbers // 2 == k
                marks = tuple((numbers[place] % 2 == 1).tolist())
                if any(marks):  # else it fills the block
                    assert (tuple(row[place].tolist()), marks) in wanted
                    length = len(row)
                    longest[length] = max(longest[length], len(marks))
    assert longest[64] <= 64 < longest[128] <= 128 < longest[256]


@pytest.mark.parametrize("kind", ["chat", "documents"])
def test_stored_logits_of_each_length_are_the_teacher(kind, chat, tmp_path):
    blocks, _, vocab = chat if kind == "chat" else (text(length=256), None, 61)
    settings = replace(SETTINGS, isolate_documents=kind == "documents")
    teacher = model(vocab, 5)
    made = caches(tmp_path / "cache", blocks, settings, vocab, teacher)
    live = distillation(teacher, spans=blocks.spans)
    _, want = trained(tmp_path / "live", live, blocks, vocab, settings)
    seen = Watched(stored(*made))
    _, found = trained(tmp_path / "stored", seen, blocks, vocab, settings)
    assert np.allclose(found, want, rtol=2e-3)  # FP16 log probabilities
    steps = [turn.positions() for turn in stages(blocks, settings, TURNS)]
    assert [(s.start, s.stop) for s in steps] == [(0, 23), (8, 15), (6, 9)]
    for tokens, documents in seen.batches:  # batch by batch against a teacher that is asked again
        with torch.no_grad():
            got, asked = (o(model(vocab, 1), tokens, documents) for o in (stored(*made), live))
        assert got.tokens == asked.tokens
        assert got.total.item() == pytest.approx(asked.total.item(), rel=2e-3)


@pytest.mark.parametrize("call", [3, 5, 8])
def test_a_killed_run_goes_on_bit_for_bit_from_stored_logits(call, chat, tmp_path):
    """Killed in each length, and in the first step of the second."""
    blocks, _, vocab = chat
    caches(tmp_path / "cache", blocks, SETTINGS, vocab, model(vocab, 5), keep="top-4")

    def objective():
        return stored(*caches(tmp_path / "cache", blocks, SETTINGS, vocab, keep="top-4"))

    want, losses = trained(tmp_path / "whole", objective(), blocks, vocab)
    with pytest.raises(UserError, match="stopped"):
        trained(tmp_path / "run", Watched(objective(), call), blocks, vocab)
    with heard() as said:
        found, again = trained(tmp_path / "run", objective(), blocks, vocab)
    assert any("going on after" in one for one in said)
    assert again == losses
    for name, value in want.items():
        assert torch.equal(found[name], value), name


def test_only_what_a_length_takes_is_asked_for(tmp_path, monkeypatch):
    """Shards of a few blocks; another batch later on; an epoch that ends within a length."""
    monkeypatch.setattr("minipuzzle.training.offline.SHARD_BYTES", 64 * 20)
    blocks, teacher = text(80, length=256), model(61, 5)
    found = caches(tmp_path, blocks, SETTINGS, 61, keep="sampled-4")
    rows = [cache.rows for cache in found]
    assert rows == [1, 1, 1]
    assert [cache.missing()[0] for cache in found] == [0, 8, 6]
    assert [cache.missing()[-1] for cache in found] == [22, 14, 8]
    for cache in found:
        cache.fill(teacher, cache.missing(), alone(torch.device("cpu")), 8)
    again = caches(tmp_path, blocks, SETTINGS, 61, keep="sampled-4")
    assert [cache.missing() for cache in again] == [[], [], []]
    settings = replace(SETTINGS, batch=4)
    with pytest.raises(UserError, match="stopped"):
        trained(tmp_path / "run", Watched(stored(*again), 5), blocks, 61)
    trained(tmp_path / "run", stored(*again), blocks, 61, settings)
    longer = replace(SETTINGS, tokens=4 * len(blocks) * 256)
    every = [len(blocks) * n for n in (4, 2, 1)]
    for cache, count in zip(
        caches(tmp_path / "b", blocks, longer, 61, keep="top-4"), every, strict=True
    ):
        assert cache.missing() == list(range(count))


def test_a_folder_of_other_blocks_is_refused(chat, tmp_path):
    blocks, _, vocab = chat
    caches(tmp_path, blocks, SETTINGS, vocab, model(vocab, 5), keep="top-4")
    other = replace(blocks, shorter=tuple(replace(b, fingerprint="o") for b in blocks.shorter))
    with pytest.raises(UserError, match="not those of this run") as error:
        caches(tmp_path, other, SETTINGS, vocab, keep="top-4")
    assert "data o" in error.value.allowed
    (tmp_path / "64").rename(tmp_path / "other")
    (tmp_path / "128").rename(tmp_path / "64")
    with pytest.raises(UserError, match="not those of this run") as error:
        caches(tmp_path, blocks, SETTINGS, vocab, keep="top-4")
    assert "block_length 64" in error.value.allowed
