"""minipuzzle export: which engines load a checkpoint, and the file that llama.cpp reads."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

from minipuzzle.checked import table
from minipuzzle.commands._shared import command, out, print_json, student
from minipuzzle.settings.export import ExportCommand
from minipuzzle.settings.verbs import in_words_of
from minipuzzle.units import bytes_, sized


def run(line: ExportCommand) -> None:
    """Print a row an engine, or write the GGUF file."""
    from minipuzzle.embedded import checkpoint_path

    path = checkpoint_path(line.checkpoint) if line.checkpoint else student(line.run)
    with nullcontext() if line.checkpoint else command(line.run):
        if line.gguf is None:
            _engines(path, line.as_json)
        else:
            _gguf(path, line.gguf, line)


def _gguf(path: Path, target: Path, line: ExportCommand) -> None:
    from minipuzzle.bars import progress_bar
    from minipuzzle.checkpoint import Checkpoint
    from minipuzzle.runs.export import run_export

    opened = Checkpoint.open(path)
    with progress_bar("export", opened.parameters, "weights") as bar:
        written = run_export(
            opened,
            target,
            line.dtype,
            data=line.data,
            samples=line.samples,
            device=line.device,
            progress=bar,
        )
    if line.as_json:
        print_json(table(written))
        return
    for note in (*opened.notes, *written.notes):
        out.print(f"note: {in_words_of('export', note)}", soft_wrap=True)
    types = ", ".join(f"{count} {name}" for name, count in written.types.items())
    out.print(
        f"gguf: {target}  {sized(written.parameters, written.active)}, {bytes_(written.bytes)},"
        f" {written.dtype.upper()} (tensors: {types})    next: llama-cli -m {target}",
        soft_wrap=True,
    )


def _engines(path: Path, as_json: bool) -> None:
    from minipuzzle.export.verdicts import verdicts
    from minipuzzle.report.engines import engines_table

    rows = verdicts(path)
    if as_json:
        engines = [asdict(verdict) for verdict in rows]
        print_json({"checkpoint": str(path), "engines": engines})
    else:
        out.print(engines_table(f"engines that load {path}", rows))
        for row in rows:
            if row.command:
                out.print(f"{row.engine}: {row.command}", soft_wrap=True, markup=False)
