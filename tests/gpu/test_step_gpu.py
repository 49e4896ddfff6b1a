"""The optimiser's one pass on a GPU: the kernel against float64, and training with the BF16 copies
that it writes against training without them.
"""

import pytest
import torch
from test_adamw import at_once, check_kernel, kernel_steps
from test_captured_gpu import architecture, trained

from minipuzzle.kernels.adamw import plain_adamw
from minipuzzle.model import frozen, init_model
from minipuzzle.training import distillation, loop

pytestmark = pytest.mark.gpu


def launch(tensors, scale, betas):
    from minipuzzle.kernels.adamw_cuda import prepared  # Triton is there on a GPU alone

    at_once(prepared)(tensors, scale, betas)


def test_the_kernel():
    """Copies are the weights rounded to BF16, to the last bit."""
    check_kernel(launch, "cuda", 0)
    ours, plain = (kernel_steps(step, "cuda")[0] for step in (launch, plain_adamw))
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_tensors_that_it_would_misread():
    def one(weight, first):
        def step(tensors, scale, betas):
            tensors[0].__dict__.update(weight=weight, first=first, gradient=torch.ones_like(weight))
            launch(tensors[:1], scale, betas)

        return step

    whole = torch.ones(4, 6, device="cuda")
    for weight, first in ((whole.t(), whole.t()), (whole, whole[:2]), (whole.half(), whole)):
        with pytest.raises(ValueError, match="cannot be stepped"):
            kernel_steps(one(weight, first), "cuda")


@pytest.mark.parametrize(
    ("precision", "eager", "more"),
    [
        ("bf16", 1 << 30, {}),
        ("bf16", 3, {"clip": 1e-3}),
        ("bf16", 3, {"micro_batch": 2}),
        ("fp8", 3, {}),
    ],
    ids=str,
)
def test_copies_change_nothing(precision, eager, more, tmp_path, monkeypatch):
    """Step by step and captured, clipped or not, with summed micro-batches, in FP8, whose codes are
    of the copies then: losses of 24 steps are those without copies.
    """
    objective = distillation(frozen(init_model(architecture(8), 1, device="cuda")))
    kept, found = [], []
    keep = loop.keep_copies

    def kept_copies(*words):
        kept.append(keep(*words))
        return kept[-1]

    for name, copies in (("with", kept_copies), ("without", lambda *words: {})):
        monkeypatch.setattr(loop, "keep_copies", copies)
        torch.cuda.reset_peak_memory_stats()
        losses, said, ms = trained(
            tmp_path / name, precision, objective, eager, monkeypatch, **more
        )
        assert not [line for line in said if "CUDA graph" in line], said
        found.append((losses, ms, torch.cuda.max_memory_allocated() / 2**20))
    assert kept[0]
    print(f"\n{precision}, {eager}, {more}: losses, ms a step, MiB {found[0]}, without {found[1]}")
    assert found[0][0] == pytest.approx(found[1][0], rel=2e-3 if precision == "bf16" else 5e-3)
