"""Which kernels run, and why. A kernel that is asked for and cannot run is an error, never a silent
fallback.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minipuzzle.errors import UserError
from minipuzzle.kernels import delta, grouped, reference
from minipuzzle.kernels import experts as reference_experts
from minipuzzle.kernels.part import import_parts_of
from minipuzzle.kernels.tuning import keep_tuning
from minipuzzle.kinds import Block


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """The operations of a Mamba-2 block (signatures: ``minipuzzle.kernels.reference``), their name
    and the reason; how experts run, and the gated delta rule.

    ``mix``, where there is one, does convolution, scan and gated norm at once and keeps less for
    the backward pass. ``run_experts`` takes a ``minipuzzle.kernels.experts.Call``;
    ``experts`` says which it is and why, ``experts_wait`` whether it always asks the device for
    sizes. ``delta_rule`` and ``delta_step`` have the signatures of ``minipuzzle.kernels.delta``,
    ``delta`` says which they are and why.
    """

    name: str
    reason: str
    causal_conv: Callable[..., Any]
    causal_conv_step: Callable[..., Any]
    scan: Callable[..., Any]
    scan_step: Callable[..., Any]
    gated_norm: Callable[..., Any]
    run_experts: Callable[..., Tensor]
    experts: str
    experts_wait: bool
    delta_rule: Callable[..., Any]
    delta_step: Callable[..., Any]
    delta: str
    mix: Any = None
    mix_multiple: int = 1

    def describe(self, blocks: Iterable[Block]) -> str:
        """What runs and why, for a log: of an operation of their own where blocks have one."""
        own = {"experts": self.experts, "delta rule": self.delta}
        said = [f"{self.name} ({self.reason})"]
        said += [
            f"{name}: {own[name]}" for name in dict.fromkeys(b.operation for b in blocks) if name
        ]
        return "; ".join(said)

    def captures_experts(self, device: torch.device, dtype: torch.dtype, *sizes: int) -> bool:
        """Whether ``run_experts`` on matrices of these sizes never waits for the device."""
        return not self.experts_wait and grouped.fits(device, dtype, *sizes)

    def can_mix(self, *sizes: int) -> bool:
        """Whether ``mix`` is there and takes projections and convolutions of these sizes."""
        return self.mix is not None and not any(size % self.mix_multiple for size in sizes)


def choose(device: torch.device, requested: str = "auto") -> Kernels:
    """The kernels for a device: "auto", "reference" or "mamba-ssm"; on a GPU what Triton tunes is
    kept from now on. Raises: UserError where they cannot run.
    """
    missing = [p for p in ("mamba_ssm", "causal_conv1d") if importlib.util.find_spec(p) is None]
    why_not = (
        "no CUDA device"
        if device.type != "cuda"
        else f"not installed: {', '.join(missing)}"
        if missing
        else ""
    )
    if requested not in ("auto", "reference", "mamba-ssm") or (
        requested == "mamba-ssm" and why_not
    ):
        raise UserError(
            f"The kernels {requested!r} cannot run here.",
            got=why_not or requested,
            allowed="auto, reference, mamba-ssm",
            next=(
                "pip install minipuzzle[gpu] on a machine with an NVIDIA GPU, or leave the choice"
                " to auto."
            ),
        )
    if device.type == "cuda":
        keep_tuning()
    others = {**_experts(device, requested), **_delta(device, requested)}
    if requested == "reference" or why_not:
        return _bundle(reference, "reference", why_not or "requested", others)
    import_parts_of("mamba_ssm")
    from minipuzzle.kernels import cuda

    version = importlib.metadata.version("mamba_ssm")
    reason = f"mamba-ssm {version} on {torch.cuda.get_device_name(device)}"
    return _bundle(cuda, "mamba-ssm", reason, others)


def _experts(device: torch.device, requested: str) -> dict[str, Any]:
    """How experts run, and what to say of it."""
    why_not = "requested" if requested == "reference" else grouped.why_never(device)
    if why_not:
        said = f"one after another ({why_not})"
        return {"run_experts": reference_experts.run_experts, "experts": said, "experts_wait": True}
    takes = "BF16" if device.type == "cuda" else "BF16 and FP32"
    said = (
        f"torch's grouped_mm in {takes}; one after another in other dtypes and where a size is no"
        f" multiple of {grouped.ALIGNMENT} bytes"
    )
    return {"run_experts": grouped.run_experts, "experts": said, "experts_wait": False}


def _delta(device: torch.device, requested: str) -> dict[str, Any]:
    """How the gated delta rule runs, and what to say of it."""
    why_not = "requested" if requested == "reference" else ""
    if not why_not and device.type != "cuda":
        why_not = "no CUDA device"
    if not why_not and importlib.util.find_spec("fla") is None:
        why_not = "not installed: fla"
    if why_not:
        rule, step, said = delta.delta_rule, delta.delta_step, f"reference ({why_not})"
    else:
        rule, step = _when_called("delta_rule"), _when_called("delta_step")
        said = f"fla-core {importlib.metadata.version('fla-core')} in BF16, reference in FP32"
    return {"delta_rule": rule, "delta_step": step, "delta": said}


def _when_called(name: str) -> Callable[..., Any]:
    """A function of ``delta_cuda``, which imports fla, 5 to 7 s: most models never call it."""

    def call(*args: Any, **keywords: Any) -> Any:
        from minipuzzle.kernels import delta_cuda

        return getattr(delta_cuda, name)(*args, **keywords)

    return call


def _bundle(module: Any, name: str, reason: str, others: dict[str, Any]) -> Kernels:
    return Kernels(
        name=name,
        reason=reason,
        **others,
        causal_conv=module.causal_conv,
        causal_conv_step=module.causal_conv_step,
        scan=module.scan,
        scan_step=module.scan_step,
        gated_norm=module.gated_norm,
        mix=getattr(module, "mix", None),
        mix_multiple=getattr(module, "CHANNEL_MULTIPLE", 1),
    )
