"""config.json, read without torch: enough for ``inspect`` and for the enumeration of a search."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from minipuzzle import families
from minipuzzle.arch import Architecture
from minipuzzle.errors import UserError


def read_config(path: Path) -> tuple[dict[str, Any], Architecture]:
    """(config.json's fields, the architecture it means). Raises: UserError where it is missing or makes no sense."""
    file = path / "config.json"
    if not file.is_file():
        raise UserError(
            "There is no checkpoint here.", got=path, allowed="a folder with a config.json",
            next="Check the path; a checkpoint is the folder that transformers' save_pretrained writes.",
        )  # fmt: skip
    try:
        config = json.loads(file.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not JSON.", got=error, allowed="JSON", next="Restore the file.") from error
    if not isinstance(config, dict):
        raise UserError(f"{file} is not a JSON object.", got=type(config).__name__, allowed="an object",
                        next="Restore the file.")  # fmt: skip
    return config, families.find(str(config.get("model_type", ""))).architecture(config)
