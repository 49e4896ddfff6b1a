"""Adapters of Hugging Face's PEFT, out and in: ordinary LoRA a layer, which vLLM reads as well.
PEFT is not imported.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from minipuzzle.adapters.peft_config import CONFIG, PeftConfig, read_peft_config
from minipuzzle.adapters.peft_names import Way, joined, usual, ways
from minipuzzle.adapters.plan import AdapterPlan, Group, Site, parse_mask
from minipuzzle.adapters.saved import Lora, SavedAdapter
from minipuzzle.artifacts import write_atomic, write_json
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.errors import UserError

WEIGHTS = "adapter_model.safetensors"
KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<factor>[AB])\.weight")
REFUSED = {"nemotron_h": "out_proj", "mamba2": "out_proj"}
"""The projection that PEFT 0.21 loads no LoRA for, by model_type: transformers' fused Mamba kernel
reads its weight past the module.
"""

TAKEN_FOR_EXPERTS = ("qwen3_moe", "qwen3_next")
"""model_types of which PEFT 0.21 takes gate_proj, up_proj and down_proj for those of the experts
wherever they stand, loads what a dense layer or a shared expert has nowhere, and says nothing.
"""
SWIGLU = {"gate_proj", "up_proj", "gate_up_proj", "down_proj"}


def export_peft(saved: SavedAdapter, base: Checkpoint, folder: Path) -> str:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors`` of a LoRA that computes the
    same.

    Modules have transformers' names; ``rank_pattern`` and ``alpha_pattern`` say where groups
    differ. The config is written last: without it PEFT finds nothing. Returns the projection that
    PEFT will refuse ("" for none). Raises: UserError where the adapter is for another model, where
    it is for experts, and where PEFT would lose a part of it.
    """
    saved.check(base.architecture)
    _check_no_stack(saved.plan)
    _check_none_lost(saved.plan, str(base.config["model_type"]))
    theirs = usual(base)
    tensors: dict[str, Tensor] = {}
    ranks, alphas = {}, {}
    for lora in saved.loras():
        for name, rows in theirs[lora.module].items():
            tensors[f"base_model.model.{name}.lora_A.weight"] = lora.a.contiguous().clone()
            tensors[f"base_model.model.{name}.lora_B.weight"] = lora.b[rows].clone()
            ranks[name], alphas[name] = lora.rank, lora.alpha
    rank, alpha = next(iter(ranks.values())), next(iter(alphas.values()))
    write_atomic(folder / WEIGHTS, save(tensors, metadata={"format": "pt"}))
    write_json(
        folder / CONFIG,
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": str(base.path),
            "r": rank,
            "lora_alpha": _plain(alpha),
            "lora_dropout": 0.0,
            "target_modules": _targets(set(ranks), {n for way in theirs.values() for n in way}),
            "bias": "none",
            "fan_in_fan_out": False,
            "use_rslora": False,
            "use_dora": False,
            "init_lora_weights": True,
            "inference_mode": True,
            "rank_pattern": {n: r for n, r in ranks.items() if r != rank},
            "alpha_pattern": {n: _plain(a) for n, a in alphas.items() if a != alpha},
        },
    )
    return refused(saved.plan, base)


def _check_no_stack(plan: AdapterPlan) -> None:
    stacks = [site for group in plan.groups for site in group.sites if site.stack]
    if stacks:
        raise UserError(
            "An adapter of experts cannot be exported for PEFT.",
            got=f"blocks.{stacks[0].block}.{stacks[0].projections[0]}, {stacks[0].stack} matrices",
            allowed="adapters of projections",
            next=(
                "Merge it: minipuzzle merge writes an ordinary checkpoint. Or adapt without"
                " experts: name projections with adapter.target."
            ),
        )


def _check_none_lost(plan: AdapterPlan, model_type: str) -> None:
    sites = (site for group in plan.groups for site in group.sites)
    names = {name for site in sites for name in site.projections}
    lost = sorted(name for name in names if name.removeprefix("shared_") in SWIGLU)
    if lost and model_type in TAKEN_FOR_EXPERTS:
        raise UserError(
            "PEFT would lose a part of this adapter without a word.",
            got=f"{', '.join(lost)} of {model_type}, which it takes for those of experts",
            allowed=f"adapters of other projections of {model_type}",
            next=(
                "Merge it: minipuzzle merge writes an ordinary checkpoint. Or adapt without these:"
                " name projections with adapter.target."
            ),
        )


def refused(plan: AdapterPlan, base: Checkpoint) -> str:
    """The projection of a plan that PEFT will refuse on ``base``; "" for none."""
    projection = REFUSED.get(str(base.config["model_type"]), "")
    sites = (site for group in plan.groups for site in group.sites)
    return projection if any(projection in site.projections for site in sites) else ""


def import_peft(folder: Path, base: Checkpoint) -> SavedAdapter:
    """The LoRA that PEFT saved in ``folder``, as an untied adapter of ``base``.

    Raises: UserError for a damaged folder, another method than LoRA, parts that are not plain LoRA
    (DoRA, biases, whole modules), and modules that the model does not have.
    """
    config = read_peft_config(folder)
    try:
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{folder / WEIGHTS} cannot be read.",
            got=error,
            allowed="a safetensors file of PEFT",
            next="Save the adapter again with save_pretrained.",
        ) from error
    return _untied(_loras(config, tensors, base), base)


def _loras(config: PeftConfig, tensors: dict[str, Tensor], base: Checkpoint) -> list[Lora]:
    every = ways(base)
    ours = {name: (module, way) for module, found in every.items() for way in found for name in way}
    pairs: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in tensors.items():
        match = KEY.fullmatch(key)
        if match is None or match["module"] not in ours:
            raise config.error(
                "adapts something that this model does not have.",
                got=key,
                allowed="lora_A and lora_B of its projections",
            )
        pairs[match["module"]][match["factor"]] = tensor
    if not pairs:
        raise config.error(
            "adapts nothing.", got="a file without factors", allowed="lora_A and lora_B"
        )
    _check_targets(config, set(pairs), every)
    parts: dict[str, list[tuple[Lora, list[int]]]] = defaultdict(list)
    for name, pair in pairs.items():
        module, way = ours[name]
        lora, rows = _lora(config, module, name, pair), way[name]
        whole = len(way) == 1 and rows == sorted(rows)  # of its size ``SavedAdapter.check`` speaks
        if not whole and len(lora.b) != len(rows):
            raise config.error(
                f"{name} has another size.", got=f"{len(lora.b)} rows", allowed=f"{len(rows)} rows"
            )
        parts[module].append((lora, rows))
    return [joined(own, sum(map(len, every[module][0].values()))) for module, own in parts.items()]


def _check_targets(config: PeftConfig, names: set[str], every: dict[str, tuple[Way, ...]]) -> None:
    """Raises: UserError where the file has other modules than the config: PEFT would not load them,
    or leave what it lacks as it starts; or a module under two names.
    """
    alien = sorted(name for name in names if not config.adapts(name))
    if alien:
        raise config.error(
            "target_modules leaves out what the file adapts.",
            got=alien[0],
            allowed="factors of target_modules alone",
        )
    for found in every.values():
        there = [way for way in found if names & way.keys()]
        lacking = [n for way in there or found for n in way if n not in names and config.adapts(n)]
        if lacking:
            raise config.error(
                "target_modules names what the file does not adapt.",
                got=lacking[0],
                allowed="factors of all of them",
            )
        if len(there) > 1:
            raise config.error(
                "adapts a module twice.",
                got=", ".join(sorted(names)[:4]),
                allowed="each module under one name",
            )


def _lora(config: PeftConfig, module: str, name: str, pair: dict[str, Tensor]) -> Lora:
    if set(pair) != {"A", "B"}:
        raise config.error(
            "has half of a pair.", got=f"{name}: lora_{''.join(pair)}", allowed="lora_A and lora_B"
        )
    a, b, rank = pair["A"], pair["B"], config.rank_of(name)
    if a.ndim != 2 or b.ndim != 2 or (len(a), b.shape[1]) != (rank, rank):
        raise config.error(
            f"{name} has not the rank that is announced.",
            got=f"lora_A {tuple(a.shape)}, lora_B {tuple(b.shape)}",
            allowed=f"[{rank}, d_in] and [d_out, {rank}]",
        )
    for factor in (a, b):
        if not factor.is_floating_point() or not factor.float().isfinite().all():
            raise config.error(
                f"{name} holds no finite numbers.",
                got=factor.dtype,
                allowed="finite floating-point numbers",
            )
    return Lora(
        module=module, weight=f"{module}.weight", rank=rank, alpha=config.alpha_of(name), a=a, b=b
    )


def _targets(adapted: set[str], all_modules: set[str]) -> list[str]:
    """The last parts of the names where they mean exactly the adapted modules, else the whole
    names.
    """
    short = {name.rsplit(".", 1)[1] for name in adapted}
    meant = {name for name in all_modules if name.rsplit(".", 1)[1] in short}
    return sorted(short if meant == adapted else adapted)


def _untied(loras: list[Lora], base: Checkpoint) -> SavedAdapter:
    found: dict[str, list[Lora]] = defaultdict(list)
    for lora in sorted(loras, key=lambda lora: int(lora.module.split(".")[1])):
        _, block, projection = lora.module.split(".")
        kind = base.architecture.blocks[int(block)].kind
        name = f"{kind}-{projection}-{lora.a.shape[1]}x{len(lora.b)}"
        # every digit of alpha: what is close is not the same
        found[f"{name}-r{lora.rank}-a{_plain(lora.alpha)!r}".replace(".", "_")].append(lora)
    groups, tensors = [], {}
    for name, members in found.items():
        first = members[0]
        sites = tuple(_site(lora) for lora in members)
        groups.append(
            Group(
                name=name,
                d_in=first.a.shape[1],
                d_out=len(first.b),
                rank=first.rank,
                alpha=first.alpha,
                sites=sites,
            )
        )
        tensors[f"{name}.A"] = torch.stack([lora.a for lora in members])
        tensors[f"{name}.B"] = torch.stack([lora.b for lora in members])
    saved = SavedAdapter(
        plan=AdapterPlan(mask=parse_mask("lora"), groups=tuple(groups)), tensors=tensors, base=None
    )
    saved.check(base.architecture)
    return saved


def _site(lora: Lora) -> Site:
    _, block, projection = lora.module.split(".")
    return Site(block=int(block), projections=(projection,), rows=(len(lora.b),))


def _plain(number: float) -> int | float:
    return int(number) if float(number).is_integer() else number
