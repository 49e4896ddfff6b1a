"""config.json, read without torch: enough for ``inspect`` and for the enumeration of a search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minipuzzle import families
from minipuzzle.arch import Architecture
from minipuzzle.artifacts import read_json
from minipuzzle.checkpoint.doors import RESTORE, opened
from minipuzzle.checkpoint.heads import settled
from minipuzzle.errors import UserError

LARGEST = 1 << 24


def read_config(path: Path) -> tuple[dict[str, Any], Architecture]:
    """(config.json's fields, the architecture it means).

    Where the weights lie beside it and hold another head than a tied one, the architecture has a
    head of its own. Raises: UserError where config.json is missing or makes no sense, and for
    broken weights of a tied head.
    """
    if not (path / "config.json").is_file():
        raise UserError(
            "There is no checkpoint here.",
            got=path,
            allowed="a folder with a config.json",
            next="Check the path; a checkpoint is what transformers' save_pretrained writes.",
        )
    file = opened(path, "config.json", LARGEST)
    config: dict[str, Any] = read_json(file, dict[str, Any], next=RESTORE)
    family = families.of(config)
    return config, settled(path, config, family, family.architecture(config))
