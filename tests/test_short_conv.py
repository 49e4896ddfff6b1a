"""Gated short convolutions as a kind: a formula in float64 is their oracle, in whole sequences, in
packed documents and piece by piece over a cache. Families compare them with transformers.
"""

import pytest
import torch
from conftest import shaken

from minipuzzle.arch import Architecture
from minipuzzle.cost.flops import flops_per_token
from minipuzzle.importance.estimators.magnitude import block_magnitudes
from minipuzzle.kinds import ShortConv
from minipuzzle.model.base import Context
from minipuzzle.model.cache import Room

CHANNELS, LENGTH = 24, 9


def made(kernel):
    """A block that has other channels than the hidden size."""
    block = ShortConv(hidden=16, conv_channels=CHANNELS, conv_kernel=kernel, bias=True)
    return shaken(Architecture(vocab_size=8, hidden=16, blocks=(block,))).blocks[0]


def formula(module, x, documents):
    """[s, hidden] float64 of inputs x [s, hidden], token by token."""
    state = {name: value.double() for name, value in module.state_dict().items()}
    projected = x.double() @ state["in_proj.weight"].T + state["in_proj.bias"]
    gate, out_gate, values = projected.split(CHANNELS, dim=-1)
    kernel = module.block.conv_kernel
    rows = []
    for t in range(len(x)):
        y = state["conv.bias"].clone()
        for back in range(kernel):
            if t >= back and documents[t - back] == documents[t]:
                tap = state["conv.weight"][:, 0, kernel - 1 - back]
                y = y + tap * gate[t - back] * values[t - back]
        rows.append(out_gate[t] * y)
    return torch.stack(rows) @ state["out_proj.weight"].T + state["out_proj.bias"]


@torch.no_grad()
@pytest.mark.parametrize("kernel", [1, 3, 4])
@pytest.mark.parametrize("pieces", [[1, 1, 5, 2], [9]])
def test_it_is_its_formula_in_pieces_and_in_documents(kernel, pieces):
    module = made(kernel)
    x = torch.randn(2, LENGTH, 16, generator=torch.Generator().manual_seed(kernel))
    documents = torch.tensor([0, 0, 0, 1, 2, 2, 2, 2, 2])
    one = torch.zeros(LENGTH)
    for row in range(2):
        packed = module.mixer(x[row : row + 1], Context(documents=documents[None]))[0]
        assert torch.allclose(packed.double(), formula(module, x[row], documents), atol=1e-5)
    cpu, slot_dtype = torch.device("cpu"), torch.float32
    room = Room(batch=2, capacity=LENGTH, device=cpu, kv_dtype=slot_dtype)
    slot, past, got = module.new_slot(module.block, room), 0, []
    slot.window.fill_(7.0)  # whatever a cache held before its first token counts for nothing
    for piece in x.split(pieces, 1):
        got.append(module.mixer(piece, Context(slot=slot, past=past)))
        past += piece.shape[1]
    want = torch.stack([formula(module, row, one) for row in x])
    assert torch.allclose(torch.cat(got, 1).double(), want, atol=1e-5)
    assert slot.nbytes("window") == 2 * 4 * module.block.cache(LENGTH).window


def test_its_flops_are_counted_by_hand():
    """A layer of LFM2 1.2B: 2 x 4 x 2048^2 for its matrices; of each channel two gates, three taps
    and two additions.
    """
    block = ShortConv(hidden=2048, conv_channels=2048)
    flops = flops_per_token(Architecture(vocab_size=8, hidden=2048, blocks=(block,)), 1)
    assert block.flops(1).matmul == 2 * 4 * 2048**2
    assert flops.scan == 2048 * (2 + 3 + 2)


def test_what_backward_keeps_is_what_it_says():
    """What autograd saves of a pass of the mixer, and the stream; weights and padding apart."""
    module, x = made(3), torch.randn(1, LENGTH, 16, requires_grad=True)
    weights = {p.untyped_storage().data_ptr() for p in module.parameters()}
    kept, held = {}, []  # held, so that no storage is given out twice

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        module.mixer(x, Context())
    padding = 4 * 2 * CHANNELS  # two zeros before the first token
    assert sum(kept.values()) - padding == 4 * LENGTH * (module.block.saved_values() - 16)


def test_a_channel_is_made_by_its_rows_of_b_of_c_and_of_x():
    module = made(3)
    rows = module.in_proj.weight.detach().double().view(3, CHANNELS, 16)
    want = rows.square().sum((0, 2)).sqrt().numpy()
    found = block_magnitudes(module.block, module, "conv_channels")
    assert abs(found - want).max() < 1e-6
