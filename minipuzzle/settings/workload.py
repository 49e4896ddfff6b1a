"""What is timed: prompts of so many tokens, continued by so many. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from minipuzzle.errors import UserError
from minipuzzle.settings.counts import malformed, parse_count

MOST_TOKENS = 10**12
"""In all sequences of a workload together: their caches' bytes still fit the int64 of the grid."""

Phase = Literal["prefill", "decode", "total"]


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What is timed: ``batch`` sequences of ``prompt`` tokens that are each continued by ``output``
    tokens.

    prefill reads the prompt; decode makes one token at a context of prompt + output / 2; total =
    prefill + output x decode.
    """

    batch: int = 1
    prompt: int = 512
    output: int = 64

    def __post_init__(self) -> None:
        check_tokens(self.batch, self.prompt + self.output, str(self))

    @property
    def context(self) -> int:
        """Tokens in the cache half-way."""
        return self.prompt + self.output // 2

    def __str__(self) -> str:
        return f"b{self.batch},p{self.prompt},o{self.output}"


def check_tokens(batch: int, length: int, shown: str) -> None:
    """Raises: UserError for a workload without a token, or with more than any machine holds."""
    if batch < 1 or length < 1 or batch * length > MOST_TOKENS:
        raise UserError(
            "No machine runs such a workload.",
            got=shown,
            allowed=(
                f"at least one sequence of one token, and at most {MOST_TOKENS:,} tokens in all of"
                " them"
            ),
            next="Change the batch, or the tokens of a sequence.",
        )


def parse_work(text: str, default: Generation | None = None) -> Generation:
    """A workload such as "b32,p64k,o1k". Raises: UserError for anything else."""
    return with_work(text, text, default or Generation())


def with_work(text: str, suffix: str, default: Generation) -> Generation:
    fields = {"batch": default.batch, "prompt": default.prompt, "output": default.output}
    for part in filter(None, suffix.split(",")):
        name = {"b": "batch", "p": "prompt", "o": "output"}.get(part.strip()[:1].lower())
        if name is None:
            raise malformed(text, "a workload such as b8,p8k,o1k (batch, prompt, output)")
        rest = part.strip()[1:]
        fields[name] = 0 if name == "output" and rest == "0" else parse_count(rest)
    return Generation(**fields)
