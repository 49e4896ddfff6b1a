"""What may be read from a checkpoint's folder, and what of it travels: names are checked before
they become paths.
"""

from __future__ import annotations

import re
from pathlib import Path

from minipuzzle.checked import is_plain_name
from minipuzzle.errors import UserError

RESTORE = "Copy or download the file again, and see that you may read it (ls -l)."

COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "tokenizer.model.v1",
    "tokenizer.model.v2",
    "tokenizer.model.v3",
    "tekken.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
)
"""Files that a pruned model needs as its parent did. A list of names: a pattern takes scripts,
pickles and archives along.
"""
LEGAL = re.compile(
    r"(licen[sc]e|notice|copying|use_policy)([-_ ][\w -]+)?(\.(txt|md|rst|pdf))?", re.IGNORECASE
)
TEMPLATES = "additional_chat_templates"


def shard_name(name: object) -> str:
    """``name`` where it is that of a safetensors file in the same folder. Raises: UserError for
    every other.
    """
    if not isinstance(name, str) or not is_plain_name(name) or not name.endswith(".safetensors"):
        raise UserError(
            "The index names a file outside of the checkpoint, or none that holds weights.",
            got=ascii(name)[:200],
            allowed="names of .safetensors files in the same folder",
            next="Take the checkpoint from a source you trust.",
        )
    return name


def inside(folder: Path, file: Path) -> bool:
    """Whether ``file`` lies in ``folder`` when links are followed, or where Hugging Face's cache
    keeps this model's files.

    There ``models--x/snapshots/REVISION/FILE`` is a link to ``models--x/blobs/HASH``.
    """
    home, real = folder.resolve(), file.resolve()
    return real.is_relative_to(home) or (
        home.parent.name == "snapshots" and real.parent == home.parent.parent / "blobs"
    )


def opened(folder: Path, name: str, largest: int | None = None) -> Path:
    """The path of the file ``name`` of ``folder``, which is there. Raises: UserError where it is a
    link out of it, or of more than ``largest`` bytes.
    """
    file = folder / name
    if not inside(folder, file):
        raise UserError(
            f"{name} is a link to a file outside of the checkpoint.",
            got=file.resolve(),
            allowed="files of the folder itself, or of its model in Hugging Face's cache",
            next="Copy the file into the folder, if you trust it.",
        )
    if largest is not None and (size := file.stat().st_size) > largest:
        raise UserError(
            f"{file} is too large to be what its name says.",
            got=f"{size:,} bytes",
            allowed=f"at most {largest:,}",
            next=RESTORE,
        )
    return file


def travelling(folder: Path) -> tuple[list[Path], list[Path]]:
    """(the files beside the weights that a checkpoint made from this one takes along, links that it
    must not follow).
    """
    names = sorted(p.name for p in folder.iterdir() if p.name in COPIED or LEGAL.fullmatch(p.name))
    found = [folder / name for name in names]
    if (folder / TEMPLATES).is_dir():
        found += sorted((folder / TEMPLATES).glob("*.jinja"))
    files = [file for file in found if file.is_file()]
    return [f for f in files if inside(folder, f)], [f for f in files if not inside(folder, f)]
