"""A model over the GPUs of one torchrun: parameters, gradients and optimiser states in shards
(FSDP2, HSDP).

Every block gathers its parameters when its turn comes. The embedding is a group of its own; final
norm and head are gathered with the root and stay so until backward has passed them, so that the
loss reads the head as an ordinary tensor. An adapter is attached after that and stays outside: each
process holds all of it, and ``update`` averages its gradients.

Processes that share a sequence (``context_parallel``) hold shards of parameters like all others:
their gradients are summed with the rest. Experts that are divided (``expert_parallel``) are never
gathered: their tokens come to them (``model.expert_parallel``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor

from minipuzzle.arch import Architecture
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.errors import UserError
from minipuzzle.machine import available_bytes, free_gpu_bytes
from minipuzzle.model import HybridLM, reshard
from minipuzzle.model.base import ResidualBlock
from minipuzzle.model.context_parallel import ContextParallel
from minipuzzle.model.expert_parallel import ExpertParallel
from minipuzzle.ranks import Ranks
from minipuzzle.settings import Training
from minipuzzle.units import bytes_

USUAL = Training()


def shard(model: HybridLM, ranks: Ranks, settings: Training = USUAL, offload: bool = False) -> None:
    """Split ``model`` in place over all processes, even one; with ``replicas`` R of the settings
    each 1/R of them holds a whole model (HSDP). With ``expert_parallel`` N each N neighbours hold
    all experts together, whatever the replicas. With ``offload`` the shards of parameters and of
    their gradients lie in the CPU's memory, whatever the device is.

    On CUDA the parameters of a model that is trained are gathered in BF16 and gradients summed in
    FP32; those of a frozen one as they are held, so that it computes what it does on one GPU.
    Raises: UserError where either does not divide the processes.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import (
        CPUOffloadPolicy,
        MixedPrecisionPolicy,
        OffloadPolicy,
        fully_shard,
        register_fsdp_forward_method,
    )

    check_groups(ranks, settings)
    kind, replicas = ranks.device.type, settings.replicas
    shape = (ranks.world,) if replicas == 1 else (replicas, ranks.world // replicas)
    mesh = init_device_mesh(kind, shape, mesh_dim_names=("replicate", "shard")[-len(shape) :])
    trained = any(parameter.requires_grad for parameter in model.parameters())
    half = torch.bfloat16 if kind == "cuda" and trained else None
    policy = MixedPrecisionPolicy(
        param_dtype=half, reduce_dtype=torch.float32 if half else None, cast_forward_inputs=False
    )
    # pinned memory is copied from and to beside the GPU's work
    where = CPUOffloadPolicy(pin_memory=kind == "cuda") if offload else OffloadPolicy()
    left = set[torch.nn.Parameter]()
    if settings.expert_parallel > 1:
        experts = ExpertParallel(_mesh_of(ranks, settings.expert_parallel))
        left = {p for block in model.blocks for p in cast(ResidualBlock, block).divide(experts)}
    each: dict[str, Any] = {"mesh": mesh, "mp_policy": policy, "offload_policy": where}
    each["ignored_params"] = left
    for block in model.blocks:
        fully_shard(block, **each)
    if not model.architecture.tied_head:
        fully_shard(model.embeddings, **each)
    fully_shard(model, **each, reshard_after_forward=False)
    for name in ("hidden_states", "hidden_states_of_each"):
        register_fsdp_forward_method(model, name)


def check_groups(
    ranks: Ranks, settings: Training, models: Sequence[Architecture] | None = None
) -> None:
    """Raises: UserError where replicas, or groups that share experts, do not divide the processes;
    where experts are to be shared and none of the ``models`` has any.
    """
    if ranks.world % settings.replicas:
        raise UserError(
            "The processes cannot be divided into replicas.",
            got=f"{ranks.world} processes, {settings.replicas} replicas",
            allowed=f"a divisor of {ranks.world}",
            next="Change training.replicas.",
        )
    together = settings.expert_parallel
    if ranks.world % together:
        raise UserError(
            "The processes cannot be divided into groups that share experts.",
            got=f"{ranks.world} processes, training.expert_parallel {together}",
            allowed=f"a divisor of {ranks.world}",
            next="Change training.expert_parallel, or start another number of processes.",
        )
    if together > 1 and settings.offload:
        raise UserError(
            "Experts that are shared stay on their GPUs.",
            got=f"training.expert_parallel {together}, training.offload",
            allowed="one of them",
            next="Leave training.offload out: every GPU holds and trains a share of the experts.",
        )
    if together > 1 and models and not any(b.stacks for m in models for b in m.blocks):
        raise UserError(
            "This model has no experts to share.",
            got=f"training.expert_parallel {together}, layers {models[0].pattern}",
            allowed="a mixture of experts, or 1",
            next="Leave training.expert_parallel out: FSDP shards all weights.",
        )


def context_parallel(ranks: Ranks, size: int) -> ContextParallel | None:
    """This process's part of each sequence where ``size`` neighbours share it, which divides the
    processes (``update.check_batch``); None for 1.
    """
    if size == 1:
        return None
    group = _mesh_of(ranks, size).get_group(1)
    return ContextParallel(rank=ranks.rank % size, world=size, group=group)


def _mesh_of(ranks: Ranks, size: int) -> Any:
    """All processes [groups, members], ``size`` neighbours in a group."""
    import torch.distributed as dist

    return _mesh(dist.group.WORLD, ranks.device.type, ranks.world // size, size)


@lru_cache(maxsize=4)
def _mesh(world: Any, kind: str, groups: int, size: int) -> Any:
    """Made once for the process group ``world``: runs of one command share its connections."""
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(kind, (groups, size), mesh_dim_names=("group", "member"))


def load_sharded(
    model: HybridLM,
    checkpoint: Checkpoint,
    ranks: Ranks,
    settings: Training = USUAL,
    offload: bool = False,
) -> HybridLM:
    """``model``, made on "meta", sharded and filled: each process reads and holds its own rows
    only.

    Raises: as ``shard``, and UserError for NaN or infinite weights.
    """
    shard(model, ranks, settings, offload)
    model.to_empty(device="cpu" if offload else ranks.device)
    for module in model.modules():  # buffers stay where the model computes
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(ranks.device))
    for name, tensor in model.state_dict().items():
        # buffers are small, and whole on every process
        local, first = local_rows(tensor) if hasattr(tensor, "to_local") else (tensor, 0)
        if local.numel():
            checkpoint.read_into(name, local, first)
    return model.eval()


def gather(model: HybridLM, name: str) -> Tensor:
    """A parameter or buffer whole and on the CPU; in sharded models every process must ask for the
    same ones in the same order.
    """
    module, _, last = name.rpartition(".")
    value: Any = getattr(model.get_submodule(module), last).detach()
    result: Tensor = (value.full_tensor() if hasattr(value, "full_tensor") else value).cpu()
    return result


@torch.no_grad()
def whole(model: HybridLM, ranks: Ranks) -> HybridLM:
    """``model``; where it is in shards, a copy of it that this process holds all of, so that its
    forward passes wait for no other process. All of them must ask together.

    Raises: UserError, in every process, where one has no room for it.
    """
    if ranks.world == 1:
        return model
    held = model.state_dict()  # in shards: FSDP frees first what it has gathered
    needed = sum(tensor.numel() * tensor.element_size() for tensor in held.values())
    on_gpu = ranks.device.type == "cuda"
    free = ranks.least(free_gpu_bytes(ranks.device) if on_gpu else available_bytes())
    if needed > free:
        raise UserError(
            "The student's weights do not fit one device, where it writes completions.",
            got=f"{bytes_(needed)} of weights, {bytes_(free)} free",
            allowed="a student of which every process can hold all weights",
            next="Leave distill.on_policy out, or take GPUs with more memory.",
        )
    copy = HybridLM(model.architecture, device="meta", kernels=model.kernels)
    if hasattr(model, "adapters"):
        cast(Any, model.adapters).again(copy)
    copy.requires_grad_(False).load_state_dict(
        {
            name: value.full_tensor() if hasattr(value, "full_tensor") else value
            for name, value in held.items()
        },
        assign=True,
    )
    return copy


def write_gathered(
    model: HybridLM, ranks: Ranks, write: Callable[[Callable[[str], Tensor]], None]
) -> None:
    """Call ``write(tensor by name)`` in the first process, which must ask for
    ``architecture.tensors()`` in their order.

    Raises: UserError, in every process, where it does.
    """
    reshard(model)

    def mine() -> None:
        if ranks.rank == 0:
            write(lambda name: gather(model, name))
        else:
            for tensor in model.architecture.tensors():
                gather(model, tensor.name)

    ranks.together(mine)


def local_rows(value: Any) -> tuple[Tensor, int]:
    """(this process's rows of a sharded tensor, the number of the first); FSDP cuts rows as
    ``torch.chunk`` does.
    """
    shards, place = (
        value.device_mesh.size(-1),
        value.device_mesh.get_local_rank(value.device_mesh.ndim - 1),
    )
    step = -(-value.shape[0] // shards)
    return value.to_local(), min(place * step, value.shape[0])
