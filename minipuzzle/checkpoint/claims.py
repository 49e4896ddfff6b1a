"""Each tensor of an architecture is in the files exactly once, in the right shape; where not, what
the files are instead.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from minipuzzle import families
from minipuzzle.arch import Architecture
from minipuzzle.checkpoint.header import Entry
from minipuzzle.checkpoint.heads import EMBEDDING, HEAD, TORCH_DTYPES
from minipuzzle.checkpoint.pieces import RESTORE, check_pieces, placed, whole
from minipuzzle.checkpoint.quantised import (
    ACTIVATIONS,
    CODES,
    QUANTISED,
    Fp8,
    declared,
    fp8_of,
    refused,
)
from minipuzzle.checkpoint.scales import scale_name
from minipuzzle.checkpoint.stored import Stored
from minipuzzle.errors import UserError
from minipuzzle.families import Family, Name, names_of

SPEEDS = {"RoPE's speeds": re.compile(r"\.rotary_emb\.inv_freq$")}
MTP = {"multi-token prediction (mtp.*), of which config.json says nothing,": re.compile(r"^mtp\.")}
WRAPPERS = {
    "module": "DataParallel",
    "_orig_mod": "torch.compile",
    "_fsdp_wrapped_module": "FSDP",
    "_checkpoint_wrapped_module": "gradient checkpointing",
    "base_layer": "PEFT",
    "base_model": "PEFT",
}
FINE = "tensors named as transformers' save_pretrained names them"


def claim(
    path: Path,
    config: dict[str, Any],
    family: Family,
    architecture: Architecture,
    entries: dict[str, Entry],
) -> dict[str, Stored]:
    """Canonical name -> where it lies in the files, for each tensor of ``architecture``.

    Raises: UserError where one is missing, there under two names or of another shape, there in some
    of its pieces only, where there is one too many, and where weights are quantised: with what the
    files seem to be, if that can be told.
    """
    names = family.names(architecture)
    if architecture.tied_head:  # transformers ties both ways: a file may have the one or the other
        head = family.names(replace(architecture, tied_head=False))[HEAD]
        names[EMBEDDING] = tuple(n for n in names[EMBEDDING] if whole(n, entries)) or (
            *names[EMBEDDING],
            *head,
        )
        tied = {n for name in head for n in names_of(name)}
    else:
        tied = set()
    present = {
        canonical: [n for n in accepted if whole(n, entries)]
        for canonical, accepted in names.items()
    }
    claimed = {canonical: found[0] for canonical, found in present.items() if found}
    used = [n for name in claimed.values() for n in names_of(name)]
    skipped = ignored(architecture)
    others = entries.keys() - set(used) - tied - set(copied(family, entries))
    extra = sorted(n for n in others if not _matched(n, skipped))
    missing = [canonical for canonical, found in present.items() if not found]
    said = declared(path, config)
    fp8 = fp8_of(said)
    beside = _quantised(said, fp8, entries, used, extra)
    extra = [name for name in extra if name not in beside]
    for canonical, accepted in names.items():
        check_pieces(path, accepted, claimed.get(canonical), entries)
    if missing:
        hint = _extra(extra)
        if hint is None and family.architecture({**config, "tie_word_embeddings": True}).tied_head:
            hint = 'If its head is tied, write "tie_word_embeddings": true into config.json.'
        raise _missing(
            path,
            architecture,
            names,
            entries,
            missing,
            hint or "Take the checkpoint with the model's head.",
        )
    for canonical, found in present.items():
        if len(found) > 1:
            raise UserError(
                f"Tensor {names[canonical][0]} is twice in {path}.",
                got=", ".join(map(str, found)),
                allowed="one of these names",
                next=RESTORE,
            )
    if extra:
        raise UserError(
            f"There are {len(extra)} tensors that the architecture has no place for.",
            got=", ".join(extra[:3]),
            allowed="the tensors that config.json describes",
            next=_extra(extra) or "Check that config.json belongs to these weights.",
        )
    plain = _plain(config, entries[names_of(claimed[EMBEDDING])[0]])
    return {
        tensor.name: placed(tensor, claimed[tensor.name], entries, fp8, plain)
        for tensor in architecture.file_tensors()
    }


def _plain(config: dict[str, Any], embedding: Entry) -> str:
    """The dtype, as safetensors names it, in which weights that FP8 codes mean are given: the
    config's, or else the embedding's.
    """
    said = config.get("dtype") or config.get("torch_dtype")
    known = {theirs: ours for ours, theirs in TORCH_DTYPES.items() if not ours.startswith("F8")}
    return known.get(str(said)) or (
        embedding.dtype if embedding.dtype in known.values() else "BF16"
    )


def copied(family: Family, entries: dict[str, Entry]) -> list[str]:
    """The tensors that are no part of the text."""
    return [name for name in entries if name.startswith(families.copied(family))]


def ignored(architecture: Architecture) -> dict[str, re.Pattern[str]]:
    """The tensors that transformers does not load, and neither do we, by what they are called:
    it computes the speeds, and has no multi-token prediction.
    """
    return SPEEDS if architecture.mtp else SPEEDS | MTP


def _matched(name: str, patterns: dict[str, re.Pattern[str]]) -> bool:
    return any(pattern.search(name) for pattern in patterns.values())


def _quantised(
    said: Any, fp8: Fp8 | None, entries: dict[str, Entry], used: list[str], extra: list[str]
) -> list[str]:
    """The tensors that belong to FP8 codes: their scales, and those of activations and caches.

    Raises: UserError for every other quantisation.
    """
    codes = [name for name in used if fp8 and entries[name].dtype == CODES]
    beside = {scale_name(name, entries) for name in codes} | {
        name for name in extra if codes and ACTIVATIONS.search(name)
    }
    scales = [name for name in extra if QUANTISED.search(name) and name not in beside]
    weights = {name: entries[name].dtype for name in used if name not in codes}
    odd = [
        name
        for name, dtype in weights.items()
        if dtype not in TORCH_DTYPES or (said and dtype.startswith("F8"))
    ]
    if scales or odd:
        raise refused(said, scales[0] if scales else f"{odd[0]} in {weights[odd[0]]}", entries)
    return [name for name in extra if name in beside]


def _missing(
    path: Path,
    architecture: Architecture,
    names: dict[str, tuple[Name, ...]],
    entries: dict[str, Entry],
    missing: list[str],
    headless: str,
) -> UserError:
    """What the files are, where tensors are missing."""
    accepted = names[missing[0]]
    what = f"Tensor {accepted[0]} is missing from {path}."
    if any(".lora_A." in n or ".lora_B." in n for n in entries):
        return UserError(
            "These are the weights of an adapter, not of a model.",
            got=next(iter(entries)),
            allowed=FINE,
            next="Merge it into its base: minipuzzle merge BASE ADAPTER.",
        )
    if missing == [HEAD]:
        return UserError(
            f"{what} By config.json the model has a head of its own, and the weights have none.",
            got=f"{len(entries)} tensors, no head",
            allowed=" or ".join(map(str, accepted)),
            next=headless,
        )
    bare = {".".join(part for part in n.split(".") if part not in WRAPPERS) for n in entries}
    makers = sorted(
        {tool for n in entries for part, tool in WRAPPERS.items() if part in n.split(".")}
    )
    if makers and all(any(whole(n, bare) for n in choices) for choices in names.values()):
        example = next(n for n in sorted(entries) if set(n.split(".")) & WRAPPERS.keys())
        return UserError(
            f"The tensors have names that {' and '.join(makers)} put around the model's.",
            got=example,
            allowed=FINE,
            next="Save the model inside (model.module, model._orig_mod) with save_pretrained.",
        )
    for prefix in sorted(
        {
            n.removesuffix(a)
            for a in (names_of(choice)[0] for choice in accepted)
            for n in entries
            if n.endswith(f".{a}")
        }
    ):
        inner = {n.removeprefix(prefix) for n in entries if n.startswith(prefix)}
        if all(any(whole(a, inner) for a in names[m]) for m in missing):
            return UserError(
                f"The tensors' names begin with {prefix!r}: the model is a part of another one.",
                got=f"{prefix}{accepted[0]}",
                allowed=FINE,
                next="Save that part alone with save_pretrained.",
            )
    body = {n for a in names.values() for n in names_of(a[0]) if n.count(".") > 1}
    if body and {n.partition(".")[2] for n in body} <= entries.keys():
        root = next(iter(body)).partition(".")[0]
        return UserError(
            f"The tensors have no {root!r} before their names: the model was saved without what "
            "holds its head (AutoModel).",
            got=", ".join(sorted(entries)[:2]),
            allowed=FINE,
            next="Take the checkpoint of the whole model. If its head is "
            "tied or in the file, AutoModelForCausalLM reads it: from_pretrained, save_pretrained.",
        )
    blocks = sorted(
        {architecture.blocks[int(n.split(".")[1])].kind for n in missing if n.startswith("blocks.")}
    )
    where = f" of {', '.join(blocks)} blocks" if blocks else ""
    there = ", ".join(sorted(entries)[:2]) or "none"
    return UserError(
        what,
        got=f"{len(missing)} tensors{where} missing, {len(entries)} others such as {there}",
        allowed=" or ".join(map(str, accepted)),
        next=RESTORE,
    )


def _extra(extra: list[str]) -> str | None:
    if extra and all(n.endswith(".bias") for n in extra):
        return "config.json says that these layers have no bias; restore both from one place."
    if any(".experts." in n for n in extra):
        return "config.json has fewer experts than the files, or none; restore both from one place."
    if any(".lora_A." in n or ".lora_B." in n for n in extra):
        return "Merge the adapter into its base: minipuzzle merge BASE ADAPTER."
    if any(n.split(".")[0] in ("score", "classifier") for n in extra):
        return "This is a classifier; take the language model it was made from."
    return None
