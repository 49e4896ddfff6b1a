"""The roofline by pencil: operations at the data sheet's peak, bytes at its bandwidth, whichever
takes longer.
"""

import pytest
from conftest import tiny

from minipuzzle.arch import Architecture
from minipuzzle.cost.flops import flops_per_token
from minipuzzle.cost.latency import model_ms
from minipuzzle.cost.roofline import Roofline
from minipuzzle.errors import UserError
from minipuzzle.kinds import Attention, FeedForward
from minipuzzle.memory import CARDS
from minipuzzle.settings import Generation

WORK = Generation(batch=3, prompt=100, output=20)
SHEETS = {"h100": (989, 3.35), "h200": (989, 4.8), "a100": (312, 2.039), "rtx5090": (209.5, 1.792)}
"""NVIDIA's data sheets: dense BF16 TFLOP/s, TB/s."""


@pytest.mark.parametrize(("device", "sheet"), SHEETS.items())
def test_the_data_sheets(device, sheet):
    card = CARDS[device]
    assert (card.bf16 / 1e12, card.bandwidth / 1e12) == pytest.approx(sheet, rel=3e-3)


def test_a_feed_forward_by_pencil():
    d, f = 1024, 4096
    block = FeedForward(hidden=d, intermediate=f)
    parent = Architecture(vocab_size=512, hidden=d, blocks=(block,))
    weights = 2 * d * f + d  # two matrices and the norm
    tokens = 3 * 100
    operations, moved = Roofline(device="h100").needs(block, "prefill", WORK, parent)
    assert operations == tokens * 2 * 2 * d * f
    assert moved == 2 * (weights + 2 * tokens * d)  # BF16; the stream in and out
    operations, moved = Roofline(device="h100").needs(block, "decode", WORK, parent)
    assert operations == 3 * 2 * 2 * d * f
    assert moved == 2 * (weights + 2 * 3 * d)
    # 3,000 tokens are 50 GFLOP, 51 us, and 29 MB, 9 us; a decoding step of 3 tokens waits for its
    # weights
    line, long = Roofline(device="H100"), Generation(batch=3, prompt=1000, output=20)
    assert line.ms(block, "prefill", long, parent) == pytest.approx(3000 * 4 * d * f / 989e12 * 1e3)
    assert line.ms(block, "decode", WORK, parent) == pytest.approx(
        2 * (weights + 6 * d) / 3.35e12 * 1e3
    )
    prefill, step = (line.ms(block, phase, WORK, parent) for phase in ("prefill", "decode"))
    assert line.ms(block, "total", WORK, parent) == pytest.approx(prefill + 20 * step)


def test_attention_reads_its_cache_and_sees_half_the_prompt():
    d = 64
    block = Attention(hidden=d, q_heads=4, kv_heads=2, attn_head_dim=16)
    parent = Architecture(vocab_size=512, hidden=d, blocks=(block,))
    matrices = d * 64 * 2 + 2 * d * 32  # q and o, k and v
    kv = 2 * 2 * 16
    operations, moved = Roofline(device="h100").needs(block, "prefill", WORK, parent)
    assert operations == 300 * (
        2 * matrices + 4 * 4 * 16 * 50
    )  # a causal prompt of 100 sees 50.5 on average, cut to 50
    assert moved == 2 * (matrices + d + 3 * kv * 100 + 2 * 300 * d)
    operations, moved = Roofline(device="h100").needs(block, "decode", WORK, parent)
    assert operations == 3 * (2 * matrices + 4 * 4 * 16 * 110)  # the middle of 20 new tokens
    assert moved == 2 * (matrices + d + 3 * kv * 110 + 2 * 3 * d)


def test_mamba_reads_and_writes_its_states():
    parent = tiny("M", vocab=48)
    block = parent.blocks[0]
    bare = Architecture(vocab_size=48, hidden=32, blocks=())
    operations, moved = Roofline(device="h100").needs(block, "decode", WORK, parent)
    states = 8 * 8 * 8 + (64 + 2 * 2 * 8) * 3  # heads x head_dim x state, channels x (kernel - 1)
    assert moved == 2 * (parent.parameters - bare.parameters + 3 * 2 * states + 2 * 3 * 32)
    assert operations == 3 * (flops_per_token(parent, 110).total - flops_per_token(bare, 110).total)


@pytest.mark.parametrize("tied", [False, True])
def test_around_the_blocks_only_the_last_position_meets_the_head(tied):
    d, vocab = 64, 512
    parent = Architecture(
        vocab_size=vocab, hidden=d, blocks=(FeedForward(hidden=d, intermediate=8),), tied_head=tied
    )
    for phase in ("prefill", "decode"):
        operations, moved = Roofline(device="h100").needs(None, phase, WORK, parent)
        assert operations == 3 * 2 * vocab * d
        assert moved == 2 * (
            vocab * d + d + 2 * 3 * d
        )  # the head and the norm once, whether tied or not


def test_a_model_is_the_sum_of_its_parts():
    parent, line = tiny("M-M*-", vocab=48), Roofline(device="h200")
    parts = [line.ms(block, "decode", WORK, parent) for block in (*parent.blocks, None)]
    assert model_ms(line, parent, "decode", WORK) == pytest.approx(sum(parts))
    assert (line.margin, "estimate" in line.source) == (0, True)
    with pytest.raises(UserError, match="no roofline"):
        Roofline(device="h999")
