"""Where no CUDA graph can be captured, training says so and goes on with the same numbers."""

import torch
from conftest import tiny

from minipuzzle.model import init_model
from minipuzzle.training.captured import EAGER, Backward
from minipuzzle.training.objectives import next_token


def test_a_capture_that_fails_is_said_and_changes_nothing(said):
    model = init_model(tiny(), 0)
    backward = Backward(model, next_token, captures=True)
    plain = Backward(model, next_token, captures=False)
    tokens = torch.randint(
        0, model.architecture.vocab_size, (2, 16), generator=torch.Generator().manual_seed(0)
    )
    for step in range(EAGER + 2):
        results = []
        for one in (backward, plain):
            model.zero_grad(set_to_none=True)
            loss = one(tokens, None)
            results.append((loss.total, [p.grad.clone() for p in model.parameters()]))
        torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)
        assert len(said) == (step >= EAGER)
    assert "not as a CUDA graph" in said[0]
