"""The whole pipeline on CUDA: the demo's recipe, and its numbers beside a CPU forward."""

import json

import pytest
import torch
from helpers import run

from minipuzzle import embedded
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.model import load_model

pytestmark = pytest.mark.gpu


def test_demo_on_cuda(tmp_path, capsys):
    capsys.readouterr()
    run("demo", "--run", tmp_path / "demo", "--device", "cuda", "--json")
    result = json.loads(capsys.readouterr().out)
    teacher, pruned, student = result["rows"]
    with capsys.disabled():
        for row in result["rows"]:
            print(
                f"demo on {result['device']}: {row['name']:<8} loss {row['loss']:.4f} KL"
                f" {row['kl']:.4f} {row['tokens_per_second']:,.0f} tokens/s"
            )
    assert pruned["loss"] > student["loss"] > teacher["loss"]
    assert student["kl"] < 0.5 * pruned["kl"]
    assert (tmp_path / "demo/report.html").exists()


def test_teacher_logits_on_cuda_equal_the_cpu():
    checkpoint = Checkpoint.open(embedded.teacher_path())
    tokens = torch.randint(0, 4096, (2, 300), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        cpu = load_model(checkpoint).eval()(tokens)
        gpu = load_model(checkpoint, device="cuda").eval()(tokens.cuda()).cpu()
        agreement = (cpu.argmax(-1) == gpu.argmax(-1)).float().mean().item()
    error = ((cpu - gpu).norm() / cpu.norm()).item()
    print(
        f"embedded teacher, CUDA against CPU: relative logit error {error:.1e}, same greedy token"
        f" {agreement:.2%}"
    )
    assert error < 5e-3
    assert agreement > 0.99
