"""The loop."""

import pytest
import torch
from conftest import shaken, tiny
from helpers import Watched

from minipuzzle.data import TokenBlocks, pack
from minipuzzle.errors import UserError
from minipuzzle.settings import Training
from minipuzzle.training import distillation, next_token, train
from minipuzzle.training.schedule import learning_rate


def test_schedule():
    settings = Training(tokens=1, learning_rate=1.0, warmup=0.1, final_ratio=0.1)
    rates = [learning_rate(settings, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert rates[-1] == pytest.approx(0.1, abs=1e-3)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def text_blocks(vocab=61, blocks=12, length=32) -> TokenBlocks:
    generator = torch.Generator().manual_seed(0)
    tokens = (
        torch.randint(0, vocab, (blocks * length,), generator=generator).numpy().astype("uint32")
    )
    return pack(
        [tokens], block_length=length, vocab_size=vocab, seed=0, fingerprint="test", text_bytes=1
    )


def test_distillation_recovers_and_never_touches_the_teacher(tmp_path):
    teacher, student = shaken(tiny(vocab=61), 0), shaken(tiny(vocab=61), 1)
    before = [p.clone() for p in teacher.parameters()]
    settings = Training(tokens=32 * 4 * 60, learning_rate=3e-3, batch=4)
    losses = []
    final = train(
        student,
        distillation(teacher.requires_grad_(False)),
        text_blocks(),
        settings,
        tmp_path,
        identity="x",
        progress=Watched(lambda _, loss: losses.append(loss)),
    )
    assert final < 0.5 * losses[1]
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.parameters(), strict=True))


def test_documents_are_isolated_on_request(tmp_path):
    results = []
    for isolate in (False, True):
        model = shaken(tiny(vocab=61))
        settings = Training(
            tokens=32 * 4 * 10, learning_rate=1e-3, batch=4, isolate_documents=isolate
        )
        pieces = text_blocks().tokens.reshape(-1, 16)
        blocks = pack(
            list(pieces), block_length=32, vocab_size=61, seed=0, fingerprint="x", text_bytes=1
        )
        train(model, next_token, blocks, settings, tmp_path / str(isolate), identity="x")
        results.append(model.head.weight.detach().clone())
    assert not torch.equal(*results)


def test_state_of_another_run_and_a_broken_loss_are_refused(tmp_path):
    settings = Training(tokens=32 * 4 * 10, learning_rate=1e-3, batch=4)
    train(shaken(tiny(vocab=61)), next_token, text_blocks(), settings, tmp_path, identity="one")
    with pytest.raises(UserError, match="another run"):
        train(shaken(tiny(vocab=61)), next_token, text_blocks(), settings, tmp_path, identity="two")
    broken = shaken(tiny(vocab=61))
    with torch.no_grad():
        broken.final_norm.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="no longer a number"):
        train(broken, next_token, text_blocks(), settings, tmp_path / "nan", identity="x")
