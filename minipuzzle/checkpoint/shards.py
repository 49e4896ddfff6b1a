"""Which files of a folder hold its weights, and which tensor lies where: what transformers takes,
or an error.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minipuzzle.artifacts import read_json
from minipuzzle.checkpoint.doors import RESTORE, opened, shard_name
from minipuzzle.checkpoint.header import MAX_HEADER, Entry, read_header
from minipuzzle.errors import UserError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


def weight_files(path: Path, config: dict[str, Any]) -> list[str]:
    """The names of the files with the weights of the checkpoint in ``path``; none where there are
    none.

    Where there is a whole file and an index, transformers reads the whole file, and so do we.
    Raises: UserError for a broken index, and where config.json names other weights (its
    ``transformers_weights`` goes before both).
    """
    named = config.get("transformers_weights")
    taken = next((name for name in (SINGLE, INDEX) if (path / name).is_file()), None)
    if named is not None and named != taken:
        raise UserError(
            "config.json names other weights (transformers_weights), which transformers reads.",
            got=ascii(named)[:200],
            allowed=f"no such field, or {taken or SINGLE}",
            next="Take the field away, or save the model anew.",
        )
    if taken != INDEX:
        return [SINGLE] if taken else []
    return sorted(set(_weight_map(path).values()))


def read_entries(path: Path, config: dict[str, Any]) -> tuple[dict[str, Entry], tuple[str, ...]]:
    """(each tensor's place by its name in the file, sentences on what was found beside it and not
    read).

    Raises: UserError for a missing or broken shard, a tensor in two of them, an index that places a
    tensor where it is not, and where there are no weights or only pickled ones.
    """
    names = weight_files(path, config)
    if not names:
        others = ("*.bin", "*.pt", "*.pth", "*.gguf")
        found = sorted(file.name for pattern in others for file in path.glob(pattern))
        raise UserError(
            f"There are no safetensors weights in {path}.",
            got=", ".join(found[:8]) or "no weights",
            allowed=f"{SINGLE} or {INDEX} with its shards "
            "(pickled weights can run code and are never read; GGUF is only written)",
            next="Save the model with safe_serialization=True, or check the path.",
        )
    missing = [name for name in names if not (path / name).is_file()]
    if missing:
        raise UserError(
            f"The shard {missing[0]} is missing.",
            got=f"{len(names) - len(missing)} of {len(names)} shards",
            allowed="every shard that the index names",
            next="Copy or download the file again.",
        )
    entries: dict[str, Entry] = {}
    for name in names:
        header = read_header(opened(path, name))
        twice = sorted(header.keys() & entries.keys())
        if twice:
            raise UserError(
                "A tensor is in two shards.",
                got=f"{twice[0]} in {entries[twice[0]].file.name} and {name}",
                allowed="each tensor once",
                next="Restore the checkpoint.",
            )
        entries |= header
    return entries, _beside(path, entries) if (path / INDEX).is_file() else ()


def _beside(path: Path, found: dict[str, Entry]) -> tuple[str, ...]:
    if (path / SINGLE).is_file():
        others = set(_weight_map(path).values()) - {SINGLE}
        return (
            (f"{SINGLE} is read, as transformers does; {INDEX} and its shards are not",)
            if others
            else ()
        )
    placed = _weight_map(path)
    wrong = sorted(
        name
        for name, shard in placed.items()
        if name not in found or found[name].file.name != shard
    )
    if wrong:
        where = found[wrong[0]].file.name if wrong[0] in found else "no shard"
        raise UserError(
            f"The index and the shards disagree on {len(wrong)} tensors.",
            got=f"{wrong[0]} is in {where}",
            allowed=f"in {placed[wrong[0]]}, as {INDEX} says",
            next="The files are of two checkpoints, or one is damaged: "
            "copy or download all of them again.",
        )
    unlisted = len(found) - len(placed)
    return (
        (f"{unlisted} tensors are read that {INDEX} does not list, as transformers does",)
        if unlisted
        else ()
    )


def _weight_map(path: Path) -> dict[str, str]:
    """Tensor -> shard. Raises: UserError for a broken index or a shard's name that may not become a
    path.
    """
    said = read_json(opened(path, INDEX, MAX_HEADER), dict[str, Any], next=RESTORE).get(
        "weight_map"
    )
    if not isinstance(said, dict):
        raise UserError(
            f"{INDEX} is damaged.",
            got=f"a weight_map that is {type(said).__name__}",
            allowed="a weight_map: tensor -> shard",
            next="Copy or download the file again.",
        )
    return {name: shard_name(shard) for name, shard in said.items()}
