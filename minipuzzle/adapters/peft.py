"""Adapters of Hugging Face's PEFT, out and in: ordinary LoRA a layer, which vLLM reads as well. PEFT is not imported."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from minipuzzle.adapters.plan import AdapterPlan, Group, Site, parse_mask, projections
from minipuzzle.adapters.saved import Lora, SavedAdapter
from minipuzzle.artifacts import read_json, write_atomic, write_json
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.errors import UserError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<factor>[AB])\.weight")
NOT_READ = {"use_dora": False, "bias": "none", "modules_to_save": None, "lora_bias": False, "layer_replication": None}
REFUSED = {"nemotron_h": ("mamba", "out_proj"), "mamba2": ("mamba", "out_proj")}
"""What PEFT 0.21 loads no LoRA for, by model_type: transformers' fused Mamba kernel reads that weight past the module."""
DROPPED = ("use_qalora", "alora_invocation_tokens")


def export_peft(saved: SavedAdapter, base: Checkpoint, folder: Path) -> str:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors`` of a LoRA that computes the same.

    Modules have transformers' names; ``rank_pattern`` and ``alpha_pattern`` say where groups differ. The config is
    written last: without it PEFT finds nothing. Returns the projection that PEFT will refuse ("" for none).
    Raises: UserError where the adapter is for another model.
    """
    saved.check(base.architecture)
    theirs = module_names(base)
    tensors: dict[str, Tensor] = {}
    ranks, alphas = {}, {}
    for lora in saved.loras():
        name = theirs[lora.module]
        tensors[f"base_model.model.{name}.lora_A.weight"] = lora.a.contiguous().clone()
        tensors[f"base_model.model.{name}.lora_B.weight"] = lora.b.clone()
        ranks[name], alphas[name] = lora.rank, lora.alpha
    rank, alpha = next(iter(ranks.values())), next(iter(alphas.values()))
    write_atomic(folder / WEIGHTS, save(tensors, metadata={"format": "pt"}))
    write_json(folder / CONFIG, {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(base.path), "r": rank,
        "lora_alpha": _plain(alpha), "lora_dropout": 0.0, "target_modules": _targets(set(ranks), set(theirs.values())),
        "bias": "none", "fan_in_fan_out": False, "use_rslora": False, "use_dora": False, "init_lora_weights": True,
        "inference_mode": True, "rank_pattern": {n: r for n, r in ranks.items() if r != rank},
        "alpha_pattern": {n: _plain(a) for n, a in alphas.items() if a != alpha},
    })  # fmt: skip
    kind, projection = REFUSED.get(str(base.config["model_type"]), ("", ""))
    return projection if any(group.name.startswith(f"{kind}-{projection}-") for group in saved.plan.groups) else ""


def import_peft(folder: Path, base: Checkpoint) -> SavedAdapter:
    """The LoRA that PEFT saved in ``folder``, as an untied adapter of ``base``.

    Raises: UserError for a damaged folder, another method than LoRA, parts that are not plain LoRA (DoRA, biases, whole
    modules), and modules that the model does not have.
    """
    config = read_json(folder / CONFIG)
    _check_plain(folder, config)
    try:
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder / WEIGHTS} cannot be read.", got=error, allowed="a safetensors file of PEFT",
                        next="Save the adapter again with save_pretrained.") from error  # fmt: skip
    return _untied(_loras(folder, config, tensors, base), base)


def _loras(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor], base: Checkpoint) -> list[Lora]:
    ours = {name: module for module, names in _all_names(base).items() for name in names}
    pairs: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in tensors.items():
        match = KEY.fullmatch(key)
        if match is None or match["module"] not in ours:
            raise UserError(
                f"{folder} adapts something that this model does not have.", got=key,
                allowed="lora_A and lora_B of its projections", next="Name the model it was trained on.",
            )  # fmt: skip
        pairs[match["module"]][match["factor"]] = tensor
    loras = []
    for name, pair in pairs.items():
        if set(pair) != {"A", "B"}:
            raise UserError(f"{folder} has half of a pair.", got=f"{name}: lora_{''.join(pair)}",
                            allowed="lora_A and lora_B", next="Save the adapter again.")  # fmt: skip
        rank = len(pair["A"])
        alpha = float(_matching(config.get("alpha_pattern") or {}, name, config["lora_alpha"]))
        alpha *= rank**0.5 if config.get("use_rslora") else 1.0  # rslora divides by sqrt(r)
        loras.append(Lora(module=ours[name], rank=rank, alpha=alpha, a=pair["A"], b=pair["B"]))
    return loras


def module_names(base: Checkpoint) -> dict[str, str]:
    """Canonical module name -> transformers' name, of every projection; ``model.`` is the root of today's transformers."""
    return {
        module: next((name for name in names if name.startswith("model.")), names[0])
        for module, names in _all_names(base).items()
    }


def _all_names(base: Checkpoint) -> dict[str, tuple[str, ...]]:
    named = base.family.names(base.architecture)
    modules = [f"blocks.{i}.{name}" for i, block in enumerate(base.architecture.blocks) for name in projections(block)]
    return {module: tuple(n.removesuffix(".weight") for n in named[f"{module}.weight"]) for module in modules}


def _targets(adapted: set[str], all_modules: set[str]) -> list[str]:
    """The last parts of the names where they mean exactly the adapted modules, else the whole names."""
    short = {name.rsplit(".", 1)[1] for name in adapted}
    meant = {name for name in all_modules if name.rsplit(".", 1)[1] in short}
    return sorted(short if meant == adapted else adapted)


def _untied(loras: list[Lora], base: Checkpoint) -> SavedAdapter:
    found: dict[str, list[Lora]] = defaultdict(list)
    for lora in sorted(loras, key=lambda lora: int(lora.module.split(".")[1])):
        _, block, projection = lora.module.split(".")
        name = f"{base.architecture.blocks[int(block)].kind}-{projection}-{lora.a.shape[1]}x{len(lora.b)}"
        found[f"{name}-r{lora.rank}-a{lora.alpha:g}".replace(".", "_")].append(lora)
    groups, tensors = [], {}
    for name, members in found.items():
        first = members[0]
        sites = tuple(_site(lora) for lora in members)
        groups.append(Group(name=name, d_in=first.a.shape[1], d_out=len(first.b), rank=first.rank, alpha=first.alpha,
                            sites=sites))  # fmt: skip
        tensors[f"{name}.A"] = torch.stack([lora.a for lora in members])
        tensors[f"{name}.B"] = torch.stack([lora.b for lora in members])
    saved = SavedAdapter(plan=AdapterPlan(mask=parse_mask("lora"), groups=tuple(groups)), tensors=tensors, base=None)
    saved.check(base.architecture)
    return saved


def _site(lora: Lora) -> Site:
    _, block, projection = lora.module.split(".")
    return Site(block=int(block), projections=(projection,), rows=(len(lora.b),))


def _matching(pattern: dict[str, Any], name: str, default: Any) -> Any:
    """A value of rank_pattern or alpha_pattern, whose keys are ends of names or regular expressions (PEFT's rule)."""
    for key, value in pattern.items():
        if re.match(rf"(.*\.)?({key})$", name):
            return value
    return default


def _check_plain(folder: Path, config: dict[str, Any]) -> None:
    unlike = [key for key, plain in NOT_READ.items() if config.get(key, plain) not in (plain, [])]
    wrong = [f"{key}: {json.dumps(config[key])}" for key in [*unlike, *(key for key in DROPPED if config.get(key))]]
    wrong += [] if config.get("peft_type") == "LORA" else [f"peft_type: {config.get('peft_type')}"]
    if wrong:
        raise UserError(f"{folder} is more than plain LoRA.", got=", ".join(wrong),
                        allowed="peft_type LORA without DoRA, biases or whole modules",
                        next="Merge it with PEFT and use the merged model.")  # fmt: skip


def _plain(number: float) -> int | float:
    return int(number) if float(number).is_integer() else number
