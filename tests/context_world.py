"""Distillation with each sequence divided among the processes (gloo, on the CPU), step by step:

    python tests/context_world.py FOLDER LENGTH
    torchrun --nproc-per-node 2 tests/context_world.py FOLDER LENGTH

The first writes losses and gradients to FOLDER, the second those of its own and says how far both
are apart.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from conftest import shaken, tiny
from safetensors.torch import load_file, save_file
from torch import Tensor

from minipuzzle.arch import Architecture
from minipuzzle.data import TokenBlocks
from minipuzzle.kinds import Attention, ShortConv
from minipuzzle.kinds.rope import Rope
from minipuzzle.ranks import Ranks, ranks
from minipuzzle.settings import Training
from minipuzzle.training import answers_only, distillation, next_token
from minipuzzle.training.captured import Backward
from minipuzzle.training.optimizers import make_optimizer
from minipuzzle.training.parallel import context_parallel, shard
from minipuzzle.training.update import micro_batches

VOCAB, BATCH, STEPS = 61, 2, 4
LOSS = "forward-kl+0.3*cross-entropy+0.1*cosine"


def every_kind(pattern: str = "MD*C-E*") -> Architecture:
    """A block of each kind, and attention with a window, a gate, and a RoPE that asks how long the
    sequence is.
    """
    made = tiny(pattern.replace("C", "-"), hidden=16, heads=4, head_dim=4, vocab=VOCAB)
    blocks, more = list(made.blocks), Rope(dim=8, kind="dynamic", factor=2.0, original=16)
    for i, letter in enumerate(pattern):
        if letter == "C":
            blocks[i] = ShortConv(hidden=16, conv_channels=24)
        if letter == "*" and i > 2:
            assert isinstance(blocks[i], Attention)
            blocks[i] = replace(blocks[i], rope=more, sliding_window=13, output_gate=True)
    return replace(made, blocks=tuple(blocks))


def text(length: int, blocks: int = 10) -> TokenBlocks:
    """Blocks with documents of all lengths; one begins at the middle of the first, one is all of
    the second block.
    """
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, VOCAB, (blocks, length), generator=generator)
    begins = torch.rand(blocks, length, generator=generator) < 3 / length
    begins[0, length // 2], begins[1] = True, False
    begins[:, 0] = False
    return TokenBlocks(
        tokens=tokens.numpy().astype("uint32"),
        documents=begins.cumsum(1).to(torch.int32).numpy(),
        fingerprint="text",
        text_bytes=1,
    )


def steps(
    group: Ranks,
    length: int,
    together: int,
    *,
    count: int = STEPS,
    spans: bool = False,
    taught: bool = True,
    shape: Callable[[], Architecture] = every_kind,
    **more,
) -> dict[str, Tensor]:
    """The loss of each step and the gradients of all weights, of the mean over all tokens; as many
    processes as ``together`` share a sequence. With ``spans`` every second document carries the
    loss; not ``taught`` is the next token's. ``more`` are settings of the training.
    """
    settings = Training(batch=BATCH, learning_rate=1e-3, context_parallel=together, **more)
    student, teacher = (shaken(shape(), seed) for seed in (0, 1))
    if group.world > 1:
        shard(student, group, settings)
        shard(teacher.requires_grad_(False), group, settings)
    objective = answers_only() if spans else next_token
    if taught:
        objective = distillation(teacher.requires_grad_(False), LOSS, spans=spans)
    blocks = text(length)
    if spans:
        blocks = replace(blocks, documents=2 * blocks.documents + blocks.documents % 2, spans=True)
    parallel = context_parallel(group, together)
    backward = Backward(student, objective, captures=False, parallel=parallel)
    if settings.activation_checkpointing == "on":
        student.recomputed = frozenset(block.kind for block in student.architecture.blocks)
    optimizer, found = make_optimizer(student.train(), settings), {}
    for step in range(count):
        total, count = 0.0, 0
        for batch in micro_batches(blocks, settings, step * BATCH, group, group.device):
            part = backward(*batch)
            total, count = total + float(part.total), count + part.tokens
        total, count = group.sum(torch.tensor([total, count]).double().numpy())
        found[f"{step} loss"] = torch.tensor([total / count])
        for name, parameter in student.named_parameters():
            gradient = parameter.grad.mul_(group.world / count)
            whole = gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient
            found[f"{step} {name}"] = whole.clone()
        optimizer.step()
        optimizer.zero_grad()
    return found


def apart(one: dict[str, Tensor], other: dict[str, Tensor]) -> tuple[float, float]:
    """The largest differences of losses and of gradients; both have the same names."""
    off = {name: (value - other[name]).abs().max().item() for name, value in one.items()}
    assert one.keys() == other.keys()
    assert not any(value.isnan().any() for value in one.values())
    losses = max(value for name, value in off.items() if name.endswith(" loss"))
    return losses, max(value for name, value in off.items() if not name.endswith(" loss"))


def same_steps(name: str, one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """What ``steps`` of one process and of several found."""
    largest = max(value.abs().max().item() for value in one.values())
    losses, gradients = apart(one, other)
    print(f"{name}: losses differ by {losses:.1e}, gradients by {gradients:.1e} of {largest:.2g}")
    assert losses < 1e-6
    assert gradients < 1e-6 * max(1, largest)


def main(folder: Path, length: int) -> None:
    with ranks(torch.device("cpu")) as group:
        found = steps(group, length, group.world, isolate_documents=True)
        if group.rank == 0:
            save_file(found, folder / f"{group.world}.safetensors")
            if group.world > 1:
                one = load_file(folder / "1.safetensors")
                largest = max(value.abs().max().item() for value in one.values())
                losses, gradients = apart(one, found)
                print(
                    f"{length:,} tokens in {group.world} parts, {STEPS} steps: losses differ by"
                    f" {losses:.1e}, gradients by {gradients:.1e} of up to {largest:.2g}"
                )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]))
