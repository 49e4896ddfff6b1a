"""Objectives of training: cross-entropy, answers alone, and what they refuse."""

import pytest
import torch
from conftest import shaken, tiny

from minipuzzle.errors import UserError
from minipuzzle.training.objectives import (
    Objective,
    answers_only,
    check_vocabularies,
    distillation,
    next_token,
)


def test_cross_entropy_of_the_next_token_is_torchs():
    model = shaken(tiny("-", vocab=61))
    tokens = torch.randint(0, 61, (3, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = model(tokens)[:, :-1].double().reshape(-1, 61)
    want = torch.nn.functional.cross_entropy(logits, tokens[:, 1:].reshape(-1), reduction="sum")
    found = next_token(model, tokens, None)
    assert found.total.item() == pytest.approx(want.item(), rel=1e-5)
    assert found.tokens == 24


def test_vocabularies_must_be_the_same():
    check_vocabularies(100, 100)
    with pytest.raises(UserError, match="different vocabularies"):
        check_vocabularies(100, 101)


def test_only_answers_are_trained_and_only_their_predictions_meet_the_head():
    model, teacher = shaken(tiny("M-", vocab=61), 0), shaken(tiny("M-", vocab=61), 1)
    tokens = torch.randint(0, 61, (2, 12), generator=torch.Generator().manual_seed(0))
    segments = torch.tensor(
        [[0, 0, 0, 1, 1, 2, 2, 3, 3, 3, 3, 3], [0, 1, 1, 1, 1, 1, 1, 2, 2, 2, 3, 3]]
    )
    found = answers_only()(model, tokens, segments)
    with torch.no_grad():
        logits = model(tokens, segments // 2)[:, :-1].log_softmax(-1)
    picked = segments[:, 1:] % 2 == 1
    want = -logits.gather(-1, tokens[:, 1:, None])[..., 0][picked].double().sum()
    assert found.total.item() == pytest.approx(want.item(), rel=1e-5)
    assert found.tokens == int(picked.sum()) == 15
    with torch.no_grad():
        target = teacher(tokens, segments // 2)[:, :-1].log_softmax(-1)
    kl = (target.exp() * (target - logits)).sum(-1)[picked].double().sum()
    assert distillation(teacher, spans=True)(model, tokens, segments).total.item() == pytest.approx(
        kl.item(), rel=1e-4
    )
    with pytest.raises(ValueError, match="marks"):
        answers_only()(model, tokens, None)


def test_what_may_be_captured_says_so():
    assert next_token.capturable
    assert distillation(shaken(tiny("-", vocab=61))).capturable
    assert not answers_only().capturable
    assert not type("Own", (Objective,), {"__call__": None})().capturable


def test_cosine_of_other_hidden_sizes_is_refused():
    wide, narrow = shaken(tiny("-", vocab=61)), shaken(tiny("-", vocab=61, hidden=24))
    tokens = torch.zeros(1, 12, dtype=torch.int64)
    with pytest.raises(UserError, match="one size"):
        distillation(wide, "cosine")(narrow, tokens, None)
    assert distillation(wide, "cosine")(shaken(tiny("-", vocab=61), 1), tokens, None).tokens == 12
