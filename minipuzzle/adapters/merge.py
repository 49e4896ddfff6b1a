"""W + (alpha/r) diag(v) B diag(u) A as an ordinary checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch

from minipuzzle.adapters.peft import import_peft
from minipuzzle.adapters.peft_config import CONFIG
from minipuzzle.adapters.saved import SavedAdapter, read_adapter
from minipuzzle.checked import require
from minipuzzle.checkpoint import Checkpoint, write_checkpoint
from minipuzzle.errors import UserError

MARK = "minipuzzle_merged"
"""The entry of a merged config.json: fingerprints of the adapters that are in the weights. Other
readers ignore it.
"""


def open_adapter(path: Path, base: Checkpoint) -> SavedAdapter:
    """The adapter of ours, or of PEFT, in ``path``, checked against ``base``.

    Raises: UserError as ``read_adapter`` and ``import_peft``, and where it was trained on another
    checkpoint.
    """
    saved = import_peft(path, base) if (path / CONFIG).is_file() else read_adapter(path)
    saved.check(base.architecture)
    return saved


def merge(base: Checkpoint, saved: SavedAdapter, target: Path) -> float:
    """Write ``base`` with the adapter in its weights to ``target``; how much of Delta W the file's
    dtype rounded away.

    The sum is made in float64 and rounded once to the dtype of the file. The result is |written -
    (W + Delta W)| over
    |Delta W|, Frobenius norms over all adapted weights: in BF16 a Delta W far below W/256 is mostly
    lost. Raises: UserError where the adapter is in these weights already, belongs to another
    checkpoint, or takes a weight beyond the dtype of the file.
    """
    _check_base(base, saved)
    saved.check(base.architecture)
    loras = {lora.weight: lora for lora in saved.loras()}
    lost = added = 0.0

    def tensor(name: str) -> torch.Tensor:
        nonlocal lost, added
        weight = base.tensor(name)
        if name not in loras:
            return weight
        lora, result = loras[name], torch.empty_like(weight)
        whole = (result, weight, lora.a, lora.b)
        # a stack's matrices one after another: float64 takes four times BF16's memory
        one_by_one = zip(*(t if lora.a.ndim == 3 else t[None] for t in whole), strict=True)
        for written, before, a, b in one_by_one:
            delta = (b.double() @ a.double()) * (lora.alpha / lora.rank)
            exact = before.double() + delta.cpu()
            written.copy_(exact)
            if not written.float().isfinite().all():
                raise UserError(
                    f"The adapter takes {name} beyond what {weight.dtype} holds.",
                    got=f"{exact.abs().max().item():.3g} at the largest",
                    allowed=f"at most {torch.finfo(weight.dtype).max:.3g}",
                    next="Look at lora_alpha, or merge into a wider dtype.",
                )
            lost += (written.double() - exact).square().sum().item()
            added += delta.square().sum().item()
        return result

    config = {**base.config, MARK: [*_merged(base), saved.fingerprint]}
    extra = base.family.extra_files(base.architecture)
    write_checkpoint(target, base.architecture, tensor, source=base, config=config, extra=extra)
    return (lost / added) ** 0.5 if added else 0.0


def _check_base(base: Checkpoint, saved: SavedAdapter) -> None:
    merged = _merged(base)
    if saved.fingerprint in merged:
        raise UserError(
            "This adapter is in these weights already.",
            got=base.path,
            allowed="each adapter once",
            next="Use the checkpoint as it is.",
        )
    if saved.base is not None and saved.base != base.fingerprint:
        raise UserError(
            "The adapter was trained on another checkpoint.",
            got=(
                f"{base.path} (fingerprint"
                f" {base.fingerprint}{', with an adapter merged' if merged else ''})"
            ),
            allowed=f"the checkpoint of fingerprint {saved.base}",
            next="Name the checkpoint that adapt was given.",
        )


def _merged(base: Checkpoint) -> list[str]:
    """The fingerprints of the adapters in these weights."""
    listed: list[str] = require(
        base.config.get(MARK, []),
        list[str],
        what=f"{base.path / 'config.json'}: {MARK}",
        next="Restore config.json.",
    )
    return listed
