"""What the rules of a family let a cut do."""

from dataclasses import replace

import pytest
from family_models import LAYERS

from minipuzzle import families
from minipuzzle.arch import Rules, Selection
from minipuzzle.errors import UserError
from minipuzzle.families._rules import WHOLE_EXPANSION
from minipuzzle.kinds import Attention, FeedForward, Mamba2


def llama():
    return families.find("llama").architecture(LAYERS)


def kept(**sizes):
    """Every block of the Llama above, the last two narrowed."""
    blocks = [{} for _ in range(6)]
    blocks[4] = {a: tuple(range(n)) for a, n in sizes.items() if a in ("q_heads", "kv_heads")}
    blocks[5] = {a: tuple(range(n)) for a, n in sizes.items() if a == "intermediate"}
    return blocks


@pytest.mark.parametrize(
    ("blocks", "rules", "says"),
    [
        (
            [None, *kept()[1:]],
            llama().rules,
            ["single block", "block 1 without block 0", "whole layers"],
        ),
        (kept(intermediate=8), llama().rules, ["differ in size", "2 sizes of mlp"]),
        (
            kept(q_heads=2, kv_heads=1),
            Rules(fixed=("q_heads", "kv_heads")),
            ["the size of q_heads", "2 in block 4", "4"],
        ),
    ],
)
def test_rules_say_what_they_refuse(blocks, rules, says):
    parent = replace(llama(), rules=rules)
    selection = Selection(blocks=tuple(blocks))
    student = selection.student(parent)
    with pytest.raises(UserError) as caught:
        rules.check(parent.blocks, selection.kept_blocks, student.blocks)
    assert "inspect" in caught.value.next
    for words in says:
        assert words in str(caught.value)
    Rules().check(parent.blocks, selection.kept_blocks, student.blocks)


def test_mamba_heads_in_whole_expansions():
    block = Mamba2(hidden=32, heads=8, head_dim=8, groups=2, state=4)
    assert [
        n
        for n in (2, 4, 6, 8)
        if Rules(multiples=(WHOLE_EXPANSION,)).allows(block.resized(heads=n))
    ] == [4, 8]
    assert all(Rules().allows(block.resized(heads=n)) for n in (2, 4, 6, 8))


def test_a_packed_gate_is_cut_with_its_up():
    block = FeedForward(hidden=3, intermediate=5, gated=True, packed=True, bias=True)
    packed = next(w for w in block.weights if w.name == "gate_up_proj.weight")
    assert packed.shape(block.sizes) == (10, 3)
    assert packed.indices(block.sizes, {"intermediate": (1, 4)})[0].tolist() == [1, 4, 6, 9]


def test_layers_are_units():
    assert llama().layer_groups == [(0, 1), (2, 3), (4, 5)]
    assert llama().pattern == "*-*-*-"
    assert replace(llama(), rules=Rules()).layer_groups == [(i,) for i in range(6)]
    assert llama().homogeneous
    assert isinstance(llama().blocks[0], Attention)
