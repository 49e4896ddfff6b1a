"""What a scoring will hold in memory, term by term, before it begins: printed, and refused where it
cannot fit.

Peak = two neighbouring blocks (one computes, the next is read) + the streams' activations + the
working set of a block's forward, whatever the number of blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch

from minipuzzle.arch import Architecture
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.checkpoint.reader import PIECE_BYTES
from minipuzzle.errors import UserError
from minipuzzle.importance.collect import footprint_hooks
from minipuzzle.importance.curves import variants
from minipuzzle.importance.ends import CHUNK_VALUES
from minipuzzle.importance.metrics import find
from minipuzzle.kinds import Block
from minipuzzle.machine import available_bytes, free_gpu_bytes, resident_bytes
from minipuzzle.model.base import ResidualBlock
from minipuzzle.model.footprint import forward_bytes
from minipuzzle.model.prefetch import held_dtype
from minipuzzle.settings import ScoreSettings

GIB = 1 << 30
LARGE_BLOCK = GIB
READING = 3 * PIECE_BYTES
"""A piece of a tensor on its way from disk, and what checking it for NaN takes."""
CUDA_LIBRARIES = 3 * GIB // 4
"""CPU memory that CUDA's libraries and compiled kernels take once they are used (0.745 and 0.755
GiB on an H100).
"""
COMPARING = 6 * 4 * CHUNK_VALUES
"""Hidden states or logits of the parent and of a variant, and their difference or logarithms."""
HELD_BACK = 0.02
"""Share of the free memory of a GPU that is left to its allocator's rounding."""


@dataclass(frozen=True, kw_only=True)
class Peak:
    """Bytes by term on the computing device, and in CPU memory where that is another."""

    device: dict[str, int]
    host: dict[str, int]
    home: torch.device
    dtype: torch.dtype
    reason: str

    @property
    def device_bytes(self) -> int:
        """All terms on the device."""
        return sum(self.device.values())

    def __str__(self) -> str:
        text = (
            f"score will take {_gib(self.device_bytes)} of {'GPU ' if self.host else ''}memory:"
            f" {_terms(self.device)}"
        )
        if self.host:
            text += f"; and {_gib(sum(self.host.values()))} of CPU memory: {_terms(self.host)}"
        return f"{text} (computes in {str(self.dtype).removeprefix('torch.')}: {self.reason})"


def compute_dtype(checkpoint: Checkpoint, device: torch.device) -> tuple[torch.dtype, str]:
    """(the dtype of weights and activations while scoring, why).

    BF16 on CUDA. On a CPU FP32, unless the checkpoint is in BF16 and its largest block in FP32
    takes over 1 GiB.
    """
    if device.type == "cuda":
        return torch.bfloat16, "CUDA"
    largest = max(
        (block_bytes(block, torch.float32) for block in checkpoint.architecture.blocks), default=0
    )
    if checkpoint.dtype == "BF16" and largest > LARGE_BLOCK:
        return torch.bfloat16, "blocks over 1 GiB in FP32"
    return torch.float32, "CPU"


def block_bytes(block: Block, dtype: torch.dtype) -> int:
    """The bytes of a block's weights when it computes in ``dtype``."""
    return sum(
        prod(w.shape(block.sizes)) * held_dtype(w.name, len(w.dims), dtype).itemsize
        for w in block.weights
    )


def plan_peak(
    checkpoint: Checkpoint,
    settings: ScoreSettings,
    *,
    samples: int,
    shared: int,
    length: int,
    device: torch.device,
    fast: bool,
) -> Peak:
    """The peak of scoring ``samples`` samples, ``shared`` of them in variants. ``fast``: with
    mamba-ssm's kernels.

    On CUDA the activations are planned on the GPU where all fits there, else in pinned CPU memory.
    """
    architecture = checkpoint.architecture
    dtype, reason = compute_dtype(checkpoint, device)
    row = length * architecture.hidden * dtype.itemsize
    visits = _visits(architecture, settings, samples, shared, length, dtype, fast)
    kept = {"parent's last states": shared * row} if settings.iterative > 1 else {}
    if device.type == "cpu":
        # Memory that no stream has reached yet is not resident, so each visit has its own sum.
        def total(visit: dict[str, int]) -> int:
            return sum(visit.values())

        at_head = {
            **_head(architecture, settings, device),
            "activations": visits[-1]["activations"],
        }
        worst = max([*visits, at_head], key=total)
        terms = {"this process": resident_bytes(), **kept, **worst}
        return Peak(device=terms, host={}, home=device, dtype=dtype, reason=reason)
    streams = visits[-1]["activations"]
    phases = [{k: v for k, v in visit.items() if k != "activations"} for visit in visits]
    on_gpu = max(
        [*phases, _head(architecture, settings, device)], key=lambda terms: sum(terms.values())
    )
    whole = {**kept, "activations": streams, **on_gpu}
    cpu = {"this process": resident_bytes(), "CUDA's libraries": CUDA_LIBRARIES, "reading": READING}
    if sum(whole.values()) <= free_gpu_bytes(device) * (1 - HELD_BACK):
        return Peak(device=whole, host=cpu, home=device, dtype=dtype, reason=reason)
    host = {**cpu, **kept, "activations (pinned: too large for the GPU)": streams}
    on_gpu = {**on_gpu, "a batch": settings.batch * row}
    return Peak(device=on_gpu, host=host, home=torch.device("cpu"), dtype=dtype, reason=reason)


def check_peak(peak: Peak, device: torch.device) -> None:
    """Raises: UserError where the device or the CPU's memory is too small for the peak."""
    already = resident_bytes()
    needs: list[tuple[str, dict[str, int], int]] = []
    if device.type == "cuda":
        needs.append(("GPU", peak.device, free_gpu_bytes(device)))
        needs.append(("CPU", peak.host, available_bytes() + already))
    else:
        needs.append(("CPU", peak.device, available_bytes() + already))
    for where, terms, free in needs:
        if sum(terms.values()) > free:
            raise UserError(
                f"Scoring does not fit into the {where}'s memory.",
                got=f"{_gib(sum(terms.values()))}: {_terms(terms)}",
                allowed=f"{_gib(free)}",
                next=(
                    "Lower --block-samples, --samples or --batch, shorten --length, or leave the "
                    "damage curves out with --no-curves."
                ),
            )


def _visits(
    architecture: Architecture,
    settings: ScoreSettings,
    samples: int,
    shared: int,
    length: int,
    dtype: torch.dtype,
    fast: bool,
) -> list[dict[str, int]]:
    """The terms at each block: its weights and the next one's, the streams so far, the forward's
    working set.
    """
    blocks = architecture.blocks
    row = length * architecture.hidden * dtype.itemsize
    working: dict[Block, int] = {}
    streams, result = 0, []
    for i, block in enumerate(blocks):
        streams += len(variants(architecture, i, settings.curves))
        if block not in working:
            working[block] = _working(block, settings, length, dtype, fast)
        pair = sum(block_bytes(b, dtype) for b in blocks[i : i + 2])
        result.append(
            {
                "two blocks": pair,
                "activations": (samples + streams * shared) * row,
                "working set": working[block],
                "reading": READING,
            }
        )
    return result


def _working(
    block: Block, settings: ScoreSettings, length: int, dtype: torch.dtype, fast: bool
) -> int:
    def masked(module: ResidualBlock) -> None:
        channels = module.output.in_features
        module.kept = torch.ones(channels, dtype=torch.bool, device="meta")

    watches = [footprint_hooks(block, settings.estimator), *([masked] if settings.curves else [])]
    return max(
        forward_bytes(
            block, batch=settings.batch, length=length, dtype=dtype, fast=fast, watch=watch
        )
        for watch in watches
    )


def _head(
    architecture: Architecture, settings: ScoreSettings, device: torch.device
) -> dict[str, int]:
    terms = {"comparing": COMPARING, "reading": READING}
    if find(settings.metric).logits:
        itemsize = 2 if device.type == "cuda" else 4  # a CPU multiplies with FP32 logits in FP32
        terms["head"] = architecture.vocab_size * architecture.hidden * itemsize
    return terms


def _gib(count: int) -> str:
    return f"{count / GIB:.2f} GiB"


def _terms(terms: dict[str, int]) -> str:
    return ", ".join(f"{name} {count / GIB:.2f}" for name, count in terms.items())
