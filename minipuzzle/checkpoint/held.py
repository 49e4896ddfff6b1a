"""In what form a checkpoint's files hold weights, from config.json and headers alone. No torch."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minipuzzle.checkpoint.quantised import cache_of, declared, form_of, fp8_of, named, scaled
from minipuzzle.checkpoint.shards import read_entries, weight_files


@dataclass(frozen=True, kw_only=True)
class Quantised:
    """``said``: what the quantisation is called, where config.json (or ModelOpt's file) says one;
    ``form``: what engines know it by (``form_of``). ``seen``: a tensor that shows it. ``read``:
    whether minipuzzle reads such weights. ``kv``: "fp8" where engines are to cache keys and values
    so. ``bytes`` of the files' tensors by dtype, largest first;
    empty where weights are not all there.
    """

    said: str | None
    form: str | None
    seen: str | None
    read: bool
    kv: str | None
    bytes: dict[str, int]


def quantised(path: Path, config: dict[str, Any]) -> Quantised | None:
    """How the weights of the checkpoint in ``path`` are quantised; None where nothing says that
    they are. Raises: UserError for files that cannot be read.
    """
    said = declared(path, config)
    fp8 = fp8_of(said)
    name, form = named(said) if fp8 is None else str(fp8), form_of(said)
    kv = cache_of(said)
    files = weight_files(path, config)
    if not files or not all((path / file).is_file() for file in files):
        if not said:
            return None
        return Quantised(said=name, form=form, seen=None, read=fp8 is not None, kv=kv, bytes={})
    entries = read_entries(path, config)[0]
    scales = scaled(entries)
    narrow = [tensor for tensor, entry in entries.items() if entry.dtype.startswith("F8")]
    seen = next(iter([*scales, *narrow]), None)
    if seen is None and not said:
        return None
    read = seen is None or fp8 is not None or not (scales or said)
    sizes: Counter[str] = Counter()
    for entry in entries.values():
        sizes[entry.dtype] += entry.nbytes
    return Quantised(
        said=name, form=form, seen=seen, read=read, kv=kv, bytes=dict(sizes.most_common())
    )
