"""Which engines load a checkpoint, and why not: rules over its architecture, each with where it was
seen. No torch.

"ran" is said only of a family, and of a form of experts, that a committed run covers
(``ran.json``); "read" that we read it in that project's source.
"""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether an engine loads a checkpoint: "yes", "no" or "unproven"; how it is started, or why it
    does not load.
    """

    engine: str
    loads: str
    how: str
    source: str


def verdicts(path: Path) -> list[Verdict]:
    """The verdict on each engine for the checkpoint in ``path``, from its config.json; weights are
    not needed, but where they are there, their headers say whether they are quantised.

    Raises: UserError for a config.json or weights that cannot be read.
    """
    config, architecture = read_config(path)
    asked = Asked(path=path, family=str(config["model_type"]), architecture=architecture)
    quantised = _answer(held.quantised(path, config))
    found = sorted(((find(name), name) for name in ENGINES.names()), key=lambda e: e[0].place)
    return [_verdict(engine, name, asked, quantised) for engine, name in found]


def _verdict(
    engine: Engine, name: str, asked: Asked, quantised: tuple[Answer, bool] | None
) -> Verdict:
    if quantised is None:
        answer, source = engine.answer(asked), _source(engine, name, asked)
    else:
        answer, readable = quantised
        source = NOT_LOOKED_AT
        if engine.gguf:  # what we write has no scales, so it depends on whether we can read it
            answer = engine.answer(asked) if readable else no(answer.how)
            source = _source(engine, name, asked)
    return Verdict(engine=engine.label, loads=answer.loads, how=answer.how, source=source)


def _source(engine: Engine, name: str, asked: Asked) -> str:
    run = ran(name, asked.family, apart(asked.architecture))
    if run is not None:
        return f"ran: {run['version']}, {run['date']}, {run['where']}"
    return f"read: {engine.read}" if asked.family in engine.families else NOT_LOOKED_AT


def _answer(found: Quantised | None) -> tuple[Answer, bool] | None:
    """(the answer of engines that read the checkpoint itself, whether minipuzzle reads the weights)
    where config.json or the weights say that they are quantised; None where nothing does.
    """
    if found is None:
        return None
    claim = f"config.json (or {MODELOPT}) says that weights are quantised ({found.said})"
    if not found.bytes:
        return unproven(f"{claim}: not tried"), found.read
    if found.seen is None:
        return no(f"{claim}, and they are not: take that out"), True
    return unproven(f"quantised weights ({found.said or found.seen}): not tried"), found.read
