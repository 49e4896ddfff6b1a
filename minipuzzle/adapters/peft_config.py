"""What PEFT's adapter_config.json says, as far as it is an ordinary LoRA; all else in it is refused
by name.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from minipuzzle.artifacts import read_json
from minipuzzle.checked import Positive, require
from minipuzzle.errors import UserError

CONFIG = "adapter_config.json"
DEFAULTS: dict[str, Any] = {
    "r": 8,
    "lora_alpha": 8,
    "rank_pattern": None,
    "alpha_pattern": None,
    "use_rslora": False,
    "target_modules": None,
    "exclude_modules": None,
    "layers_to_transform": None,
    "layers_pattern": None,
    "peft_type": None,
    "task_type": None,
    "init_lora_weights": True,
    "bias": "none",
}
"""The fields that are read, with LoraConfig's defaults (PEFT 0.21)."""
NO_EFFECT = {
    "auto_mapping",
    "base_model_name_or_path",
    "revision",
    "peft_version",
    "inference_mode",
    "lora_dropout",
    "fan_in_fan_out",
    "megatron_core",
    "runtime_config",
    "qalora_group_size",
    "loftq_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
}
"""Fields that change nothing in a loaded LoRA of linear layers; those of a start only with it."""
STARTS = (True, False, None, "gaussian", "eva")
"""Starts that leave the weights beside the adapter as they are (pissa, olora, corda ... do not)."""


NOTHING: tuple[object, ...] = (None, [], {}, "")
AGAIN = "Save the adapter again with PEFT, or merge it there."
Names = str | list[str]


class Fields(TypedDict):
    """The shapes of the fields that are read."""

    r: Positive
    lora_alpha: int | float
    rank_pattern: dict[str, Positive] | None
    alpha_pattern: dict[str, int | float] | None
    use_rslora: bool
    target_modules: Names
    exclude_modules: Names | None
    layers_to_transform: int | list[int] | None
    layers_pattern: Names | None


@dataclass(frozen=True, kw_only=True)
class PeftConfig:
    """Which modules have a LoRA, of which rank and alpha (patterns: regular expression ->
    value).
    """

    folder: Path
    rank: int
    alpha: float
    ranks: dict[str, int]
    alphas: dict[str, float]
    rslora: bool
    targets: Names
    excluded: Names
    layers: list[int] | None
    layers_pattern: list[str]

    def rank_of(self, module: str) -> int:
        """The rank of a module's factors. Raises: UserError as ``alpha_of``."""
        return int(self._matching("rank_pattern", self.ranks, module, self.rank))

    def alpha_of(self, module: str) -> float:
        """What a module's B A is multiplied with, times its rank.

        Raises: UserError where patterns that match the module differ: PEFT takes the first, and
        sorts them when it saves, so that the file does not say what was trained.
        """
        alpha = float(self._matching("alpha_pattern", self.alphas, module, self.alpha))
        return alpha * (self.rank_of(module) ** 0.5 if self.rslora else 1.0)

    def adapts(self, module: str) -> bool:
        """Whether PEFT puts a LoRA on the module of this name (its
        ``check_target_module_exists``).
        """
        if self._named(self.excluded, module):
            return False
        if isinstance(self.targets, str):
            return self.targets.lower() == "all-linear" or self._named(self.targets, module)
        if module in self.targets or self.layers is None:
            return self._named(self.targets, module)
        return self._named(self.targets, module) and self._layer(module) in self.layers

    def _layer(self, module: str) -> int | None:
        patterns = [rf"(?:^|.*?\.){p}\.(?P<layer>\d+)\." for p in self.layers_pattern]
        for pattern in patterns or [r".*?\.[^.]*\.(?P<layer>\d+)\."]:
            found = self._match(pattern, module)
            if found is not None:
                return int(found["layer"])
        return None

    def _named(self, names: Names, module: str) -> bool:
        if isinstance(names, str):
            return self._match(f"(?:{names})\\Z", module) is not None
        return any(module == name or module.endswith(f".{name}") for name in names)

    def _matching(self, field: str, patterns: dict[str, Any], module: str, default: Any) -> Any:
        values = [v for key, v in patterns.items() if self._match(rf"(.*\.)?({key})$", module)]
        if len(set(values)) > 1:
            raise self.error(
                f"{field} says {len(values)} values for one module.",
                got=f"{module}: {', '.join(map(str, values))}",
                allowed="one pattern for a module",
            )
        return values[0] if values else default

    def _match(self, pattern: str, module: str) -> re.Match[str] | None:
        try:
            return re.match(pattern, module)
        except re.error as error:
            raise self.error(
                "A pattern is no regular expression.",
                got=f"{pattern}: {error}",
                allowed="what Python's re compiles",
            ) from error

    def error(self, what: str, *, got: object, allowed: object) -> UserError:
        """A fault of this folder."""
        return UserError(f"{self.folder}: {what}", got=got, allowed=allowed, next=AGAIN)


def read_peft_config(folder: Path) -> PeftConfig:
    """The config in a folder of PEFT. What is not in it has LoraConfig's default.

    Raises: UserError for a damaged file, a value of a wrong type, another method than LoRA, and any
    field that is neither one of these nor without effect and says anything at all.
    """
    stated = read_json(folder / CONFIG, dict[str, Any])
    _check_plain(folder, stated)
    fields = {name: stated.get(name, default) for name, default in DEFAULTS.items()}
    require(fields, Fields, what=str(folder / CONFIG), next=AGAIN)
    layers, pattern = fields["layers_to_transform"], fields["layers_pattern"] or []
    if isinstance(fields["target_modules"], str) and (layers is not None or pattern):
        raise UserError(
            f"{folder / CONFIG}: layers_to_transform needs a list of target_modules.",
            got=fields["target_modules"][:80],
            allowed="a list, or no layers",
            next=AGAIN,
        )
    return PeftConfig(
        folder=folder,
        rank=fields["r"],
        alpha=fields["lora_alpha"],
        ranks=fields["rank_pattern"] or {},
        alphas=fields["alpha_pattern"] or {},
        rslora=fields["use_rslora"],
        targets=fields["target_modules"],
        excluded=fields["exclude_modules"] or [],
        layers=[layers] if isinstance(layers, int) else layers or None,
        layers_pattern=[pattern] if isinstance(pattern, str) else pattern,
    )


def _check_plain(folder: Path, stated: dict[str, Any]) -> None:
    unread = set(stated) - set(DEFAULTS) - NO_EFFECT
    unset = {name for name in unread if stated[name] is False or stated[name] in NOTHING}
    wrong = sorted(unread - unset)
    start = stated.get("init_lora_weights", True)
    start = start.lower() if isinstance(start, str) else start
    for name, right in (
        ("peft_type", stated.get("peft_type") == "LORA"),
        ("task_type", stated.get("task_type") in (None, "CAUSAL_LM")),
        ("bias", stated.get("bias", "none") == "none"),
        ("init_lora_weights", start in STARTS),
    ):
        wrong += [] if right else [name]
    if wrong:
        got = ", ".join(f"{name}: {json.dumps(stated.get(name))[:80]}" for name in wrong)
        raise UserError(
            f"{folder} is more than plain LoRA.",
            got=got,
            allowed="peft_type LORA for CAUSAL_LM: A and B of whole projections, a"
            " start that leaves their weights, no other option",
            next="Merge it with PEFT and use the merged model.",
        )
