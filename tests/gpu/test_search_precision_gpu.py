"""Search under BF16 products ranks as under FP32's, and measures the same to four parts in ten
thousand; a parent read block by block measures what the whole one does.
"""

from contextlib import nullcontext
from itertools import pairwise

import pytest
import torch
from helpers import TEXT

from minipuzzle import embedded
from minipuzzle.arch import Selection
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.data import Tokenizer, load_blocks
from minipuzzle.metrics import answers
from minipuzzle.model import StreamedLM, load_frozen, load_model
from minipuzzle.runs.parent import masked_qualities

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda")
SAME = 4e-4


def selections(architecture):
    """The parent without each of its blocks in turn, and with narrower feed-forward blocks."""
    count = len(architecture.blocks)
    for gone in range(count):
        yield Selection(blocks=tuple(None if i == gone else {} for i in range(count)))
    for width in (448, 640, 768):
        kept = {"intermediate": tuple(range(width))}
        yield Selection(
            blocks=tuple(kept if block.kind == "mlp" else {} for block in architecture.blocks)
        )


def measured(model, text, all_selections):
    said = answers(model, text)
    return masked_qualities(model, all_selections, text, said)


def test_candidates_are_ranked_as_in_fp32(monkeypatch):
    checkpoint = Checkpoint.open(embedded.teacher_path())
    text = load_blocks(TEXT, Tokenizer.load(checkpoint.path), block_length=256).take(16)
    several = list(selections(checkpoint.architecture))
    narrow = measured(load_frozen(checkpoint, device=CUDA), text, several)
    monkeypatch.setattr("minipuzzle.metrics.mixed_precision", lambda device: nullcontext())
    exact = measured(load_model(checkpoint, device=CUDA).eval(), text, several)
    apart = [abs(a.loss / b.loss - 1) for a, b in zip(narrow, exact, strict=True)]
    print(
        f"loss of {len(several)} candidates, BF16 against FP32: at most {max(apart):.1e} of it"
        " apart"
    )
    assert max(apart) < SAME
    by_kl = sorted(range(len(several)), key=lambda i: exact[i].kl)
    for better, worse in pairwise(by_kl):  # what is closer than the precision has no order
        if exact[worse].kl > exact[better].kl * 1.05 + 1e-3:
            assert narrow[better].kl < narrow[worse].kl


def test_a_parent_read_block_by_block_measures_the_same():
    """In two parts of the text; what kernels of the same shapes compute may differ by an order."""
    checkpoint = Checkpoint.open(embedded.teacher_path())
    text = load_blocks(TEXT, Tokenizer.load(checkpoint.path), block_length=256).take(16)
    several = list(selections(checkpoint.architecture))
    whole = measured(load_frozen(checkpoint, device=CUDA), text, several)
    streamed = StreamedLM(checkpoint, device=CUDA, rows=8 * len(several))
    for one, other in zip(whole, measured(streamed, text, several), strict=True):
        assert other[:4] == pytest.approx(one[:4], rel=1e-4)
