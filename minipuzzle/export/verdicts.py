"""Which engines load a checkpoint, and why not: rules over its architecture, each with where it was
seen. No torch.

"ran" is said only of a family, and of a form of experts, that a committed run covers
(``ran.json``); "read" that we read it in that project's source.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from minipuzzle.checkpoint import held
from minipuzzle.checkpoint.config import read_config
from minipuzzle.checkpoint.held import Quantised
from minipuzzle.checkpoint.quantised import MODELOPT
from minipuzzle.export.engines import find
from minipuzzle.export.engines.base import Answer, Asked, Engine, apart, no, unproven
from minipuzzle.export.ran import ran
from minipuzzle.registry import ENGINES

NOT_LOOKED_AT = "not run, not read"
UNKNOWN = "unknown"
"""A format that no engine's ``formats`` has."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether an engine loads a checkpoint: "yes", "no" or "unproven"; how, or why not; the shell
    command that serves it, "" where it does not load.
    """

    engine: str
    loads: str
    how: str
    source: str
    command: str


def verdicts(path: Path) -> list[Verdict]:
    """The verdict on each engine for the checkpoint in ``path``, from its config.json; weights are
    not needed, but where they are there, their headers say whether they are quantised.

    Raises: UserError for a config.json or weights that cannot be read.
    """
    config, architecture = read_config(path)
    asked = Asked(path=path, family=str(config["model_type"]), architecture=architecture)
    quantised = held.quantised(path, config)
    found = sorted(((find(name), name) for name in ENGINES.names()), key=lambda e: e[0].place)
    return [_verdict(engine, name, asked, quantised) for engine, name in found]


def _verdict(engine: Engine, name: str, asked: Asked, quantised: Quantised | None) -> Verdict:
    answer, form = engine.answer(asked), None
    if quantised is not None and engine.gguf:
        # what we write has no scales, so it depends on whether we can read it
        readable = quantised.read or (bool(quantised.bytes) and quantised.seen is None)
        answer = answer if readable else no(_unknown(quantised).how)
    elif quantised is not None:
        form = quantised.form or UNKNOWN
        answer = _quantised(engine, answer, quantised)
    return Verdict(
        engine=engine.label,
        loads=answer.loads,
        how=answer.how,
        source=_source(engine, name, asked, form),
        command=engine.command(asked.path, answer),
    )


def _source(engine: Engine, name: str, asked: Asked, form: str | None) -> str:
    run = ran(name, asked.family, apart(asked.architecture), form)
    if run is not None:
        return f"ran: {run['version']}, {run['date']}, {run['where']}"
    known = asked.family in engine.families and (form is None or form in engine.formats)
    return f"read: {engine.read}" if known else NOT_LOOKED_AT


def _quantised(engine: Engine, whole: Answer, found: Quantised) -> Answer:
    """The answer for quantised weights, where that for ``whole`` ones is known."""
    if found.bytes and found.seen is None:
        return no(f"{_claim(found)}, and they are not: take that out")
    if whole.loads == "no":
        return whole
    answer = engine.formats.get(found.form or UNKNOWN)
    if answer is None or whole.loads == "unproven":
        return _unknown(found)
    cache = [] if found.kv is None else [engine.cache]
    return replace(whole, loads=answer.loads, how="; ".join([answer.how, *cache, whole.how]))


def _unknown(found: Quantised) -> Answer:
    if not found.bytes:
        return unproven(f"{_claim(found)}: not tried")
    return unproven(f"quantised weights ({found.said or found.seen}): not tried")


def _claim(found: Quantised) -> str:
    return f"config.json (or {MODELOPT}) says that weights are quantised ({found.said})"
