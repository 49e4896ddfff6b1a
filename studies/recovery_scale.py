"""The two sizes at which studies/recovery.py puts its questions, and what a question compares."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minipuzzle import embedded
from minipuzzle.data.files import OPENERS

CARRIED = Path(".carry/recovery")
"""Texts of ``larger``, a folder for each use."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large a question is put: tokens that the teacher reads in recovery, tokens of a block and
    of a completion, blocks of a step and of its parts (0: no parts), what scores and searches read;
    characters of each validation text.
    """

    device: str
    carried: bool
    domains: tuple[str, str, str]
    tokens: int
    length: int
    batch: int
    micro_batch: int
    completion: int
    rates: tuple[float, ...]
    score: dict[str, int]
    search: dict[str, int]
    characters: int

    def checkpoint(self, folder: Path) -> str:
        """The teacher."""
        return str(folder / "teacher" / "model") if self.carried else "embedded"

    def text(self, use: str, domain: str) -> Path:
        """A file of text."""
        if self.carried:
            return CARRIED / use / f"{domain}.txt.xz"
        return embedded.text_path(use) / f"{domain}.txt.bz2"

    def read(self, use: str, domain: str) -> str:
        """What is in it."""
        path = self.text(use, domain)
        with OPENERS[path.suffix](path) as whole:
            return whole.read().decode()

    def only(self, domain: str) -> dict[str, Any]:
        """Scores and recovery on one domain's text."""
        names = {use: str(self.text(use, domain)) for use in ("calibration", "train")}
        return {"data": names, "search": {"budget": "83%"}}

    def half(self, share: float) -> dict[str, Any]:
        """Such a share of the steps on the student's own text, as many tokens for the teacher."""
        tokens = self.tokens / (1 - share + share * self.completion / self.length)
        policy = {"on_policy": share, "prompts": "PROMPTS", "completion": self.completion}
        return {
            "search": {"budget": "83%"},
            "distill": {**policy, "training": {"tokens": round(tokens)}},
        }

    def ways(self, question: str) -> dict[str, dict[str, Any]]:
        """What a question compares; what two questions do is one run."""
        if question == "steps":
            return {
                f"{number} at {budget}": {"search": {"budget": budget}, **steps}
                for budget in ("60%", "50%")
                for number, steps in (("one step", {}), ("three steps", {"steps": 3}))
            }
        if question == "texts":
            single = {f"{domain} only": self.only(domain) for domain in self.domains}
            return {"all three": {"search": {"budget": "83%"}}, **single}
        return {"all three": {"search": {"budget": "83%"}}, "half on": self.half(0.5)}


QUESTIONS = ("steps", "texts", "on-policy")
SCALES = {
    "embedded": Scale(
        device="cpu",
        carried=False,
        domains=("code", "docs", "speeches"),
        tokens=40_000,
        length=256,
        batch=4,
        micro_batch=0,
        completion=128,
        rates=(5e-4, 1e-3),
        score={"samples": 32, "block_samples": 16},
        search={"candidates": 12, "validation_blocks": 24},
        characters=40_000,
    ),
    "larger": Scale(
        device="cuda",
        carried=True,
        domains=("code", "docs", "prose"),
        tokens=4_000_000,
        length=512,
        batch=32,
        micro_batch=16,  # many ways side by side: 8 GB each, 14 with the batch whole
        completion=256,
        rates=(1.5e-4, 5e-4),
        score={"samples": 256, "block_samples": 32, "batch": 16},
        search={"candidates": 24, "validation_blocks": 48},
        characters=400_000,
    ),
}
