"""Two GPUs write completions and learn from them: NCCL, decoding as CUDA graphs."""

import json
from pathlib import Path

import pytest
import torch
from conftest import save, shaken, tiny
from on_policy_world import STEPS, written
from safetensors.torch import load_file
from test_fsdp_gpu import SIZES, column, launch

from minipuzzle.ranks import alone

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs 2 GPUs"),
]
WORLD = Path(__file__).parent.parent / "on_policy_world.py"


def test_two_gpus_learn_what_one_does(tmp_path):
    """Tokens are drawn from BF16 logits, whose last bits differ with the number of rows: so a row
    may differ from some token on, and what is learned from few rows by some per cent.
    """
    save(shaken(tiny("M-*-", **SIZES), 0), tmp_path / "student", tokenizer=False)
    save(shaken(tiny("M-*-M-", **SIZES), 1), tmp_path / "teacher", tokenizer=False)
    done, seconds = launch(tmp_path, "cards", world=WORLD)
    assert done.returncode == 0, done.stderr[done.stderr.find("Traceback") :][:6000]
    written(tmp_path, alone(torch.device("cuda")), "one")
    one, two = (column(tmp_path, run, "loss") for run in ("one", "two"))
    off = max(abs(a / b - 1) for a, b in zip(two, one, strict=True))
    parts = [json.loads((tmp_path / f"two.{rank}.json").read_text()) for rank in (0, 1)]
    assert [len(part) for part in parts] == [STEPS // 2] * 2
    whole = json.loads((tmp_path / "one.0.json").read_text())
    pairs = [
        pair
        for step, said in whole.items()
        for pair in zip(parts[0][step]["rows"] + parts[1][step]["rows"], said["rows"], strict=True)
    ]
    same = sum(a == b for a, b in pairs) / len(pairs)
    print(
        f"two GPUs: {seconds:.0f} s; {same:.0%} of {len(pairs)} rows are one GPU's, losses within"
        f" {off:.2%}"
    )
    assert same > 0.5
    assert off < 0.15
    trained, resumed = (load_file(tmp_path / f"{run}.safetensors") for run in ("two", "resumed"))
    again = max((trained[n] - resumed[n]).abs().max().item() for n in trained)
    print(f"resumed: parameters within {again:.1e} of the uninterrupted run's")
    assert again < 1e-3
