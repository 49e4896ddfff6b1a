"""Files that hold a tensor in pieces are refused where pieces are missing, of another form or
twice.
"""

import pytest
import torch
from parts_family import files, install, write
from safetensors.torch import save_file

from minipuzzle.checkpoint import Checkpoint
from minipuzzle.errors import UserError


@pytest.fixture(autouse=True)
def _family(monkeypatch):
    install(monkeypatch)


@pytest.fixture
def singles(tmp_path):
    write(tmp_path / "singles")
    return tmp_path / "singles"


PIECE = "layers.0.cells.3.up.weight"


def dropped(*gone):
    return lambda tensors: {n: v for n, v in tensors.items() if n not in gone}


REFUSED = {
    "some only": (dropped(PIECE), [PIECE, "9 of 10", "5 experts"]),
    "the last ones only": (
        dropped("layers.0.cells.4.gate.weight", "layers.0.cells.4.up.weight"),
        ["layers.0.cells.4.gate.weight", "8 of 10", "first of 2"],
    ),
    "gates only": (
        lambda t: {n: v for n, v in t.items() if "layers.0" not in n or ".up." not in n},
        ["layers.0.cells.0.up.weight", "5 of 10"],
    ),
    "one too many": (
        lambda t: t | {"layers.0.cells.5.up.weight": t[PIECE].clone()},
        ["layers.0.cells.5.up.weight", "no place"],
    ),
    "a stack, and some": (
        lambda t: dropped(PIECE)(t) | {"layers.0.cells.gate_up": torch.zeros(5, 8, 6)},
        ["layers.0.cells.gate_up", "9 of 10", "alone"],
    ),
    "a stack, and all": (
        lambda t: t | {"layers.0.cells.gate_up": torch.zeros(5, 8, 6)},
        ["twice", "layers.0.cells.gate_up", "layers.0.cells.4.up.weight"],
    ),
    "half of a packed one": (
        dropped("layers.1.two.weight"),
        ["layers.1.two.weight", "1 of 2 tensors"],
    ),
    "a piece of another shape": (
        lambda t: t | {PIECE: torch.zeros(4, 5, dtype=torch.bfloat16)},
        [PIECE, "(4, 5)", "(4, 6)"],
    ),
    "a piece of another dtype": (lambda t: t | {PIECE: t[PIECE].float()}, [PIECE, "F32 and BF16"]),
    "a stack of another shape": (
        lambda t: (
            {n: v for n, v in t.items() if "layers.0.cells" not in n}
            | {"layers.0.cells.gate_up": torch.zeros(5, 6, 8, dtype=torch.bfloat16)}
        ),
        ["layers.0.cells.gate_up", "(5, 6, 8)", "(5, 8, 6)"],
    ),
    "quantised pieces": (
        lambda t: t | {PIECE: t[PIECE].to(torch.int8)},
        ["quantised", PIECE, "I8"],
    ),
    "pieces in DataParallel": (
        lambda t: {f"module.{n}": v for n, v in t.items()},
        ["DataParallel"],
    ),
    "part of another model": (
        lambda t: {f"text.{n}": v for n, v in t.items()},
        ["'text.'", "part"],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_the_piece(case, singles):
    change, says = REFUSED[case]
    save_file(change(files(singles)), singles / "model.safetensors")
    with pytest.raises(UserError) as caught:
        Checkpoint.open(singles)
    assert [words for words in says if words not in str(caught.value)] == []


def test_a_piece_with_nan_is_named(singles):
    tensors = files(singles)
    tensors[PIECE][2, 1] = float("nan")
    save_file(tensors, singles / "model.safetensors")
    checkpoint = Checkpoint.open(singles)
    name = "blocks.0.cells.gate_up"
    for read in (
        lambda: checkpoint.tensor(name),
        lambda: checkpoint.read_into(name, torch.empty(5, 8, 6)),
        lambda: checkpoint.expert_tensor(name, 3),
    ):
        with pytest.raises(UserError, match=PIECE):
            read()
    assert checkpoint.expert_tensor(name, 2).isfinite().all()
