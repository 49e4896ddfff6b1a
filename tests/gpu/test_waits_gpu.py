"""The CPU queues a scoring's batches without a wait for the GPU in between."""

import pytest
import torch
from test_captured_gpu import architecture

from minipuzzle.importance.collect import Collector, HiddenCollector
from minipuzzle.importance.curves import kept, variants
from minipuzzle.kernels import choose
from minipuzzle.model import init_model, mixed_precision
from minipuzzle.model.base import Context

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("estimator", ["minitron", "flap"])
def test_batches_and_masks_of_a_scoring_do_not_wait(estimator):
    device = torch.device("cuda")
    choose(device)
    model = init_model(architecture(3), 1, device="cuda")
    x = torch.randn(2, 512, 512, device=device)
    for index, (block, module) in enumerate(
        zip(model.architecture.blocks, model.blocks, strict=True)
    ):
        scores = None
        for mode in ("default", "error"):  # kernels are tuned at first, which waits
            with (
                torch.no_grad(),
                mixed_precision(device),
                Collector(block, module, estimator) as found,
                HiddenCollector(block, module),
            ):
                torch.cuda.set_sync_debug_mode(mode)
                try:
                    for _ in range(2):
                        module.branch(x, Context())
                    for variant in variants(model.architecture, index, curves=scores is not None):
                        chosen = kept(block, variant, scores) if variant.axis else None
                        if chosen is not None:
                            with module.masked(chosen):
                                module.branch(x, Context())
                finally:
                    torch.cuda.set_sync_debug_mode("default")
            scores = found.scores()
