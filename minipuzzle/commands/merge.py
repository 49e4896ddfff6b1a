"""minipuzzle merge: an adapter into the weights, or into PEFT's files, or PEFT's into ours."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from minipuzzle.commands._shared import Json, out, print_json
from minipuzzle.errors import UserError


class Form(StrEnum):
    """What merge can write."""

    checkpoint = "checkpoint"
    peft = "peft"
    compact = "compact"


def merge(
    checkpoint: Annotated[Path, typer.Argument(help="The checkpoint that the adapter is for.")],
    adapter: Annotated[
        Path, typer.Argument(help="adapter.safetensors of ours, or a folder of PEFT.")
    ],
    target: Annotated[Path, typer.Option("--out", help="Folder to write.")] = Path("merged"),
    form: Annotated[
        Form, typer.Option("--export", help="A whole checkpoint, PEFT's LoRA, or our compact file.")
    ] = Form.checkpoint,
    as_json: Json = False,
) -> None:
    """Write W + Delta W as a checkpoint, or the adapter alone for PEFT and vLLM."""
    from minipuzzle.adapters import export_peft, open_adapter
    from minipuzzle.adapters import merge as merge_weights
    from minipuzzle.adapters.saved import NAME
    from minipuzzle.checkpoint import Checkpoint

    _check_target(target, checkpoint, form)
    base = Checkpoint.open(checkpoint)
    saved = open_adapter(adapter, base)
    facts: dict[str, object] = {"path": str(target), "form": form.value}
    if form == Form.checkpoint:
        facts["lost_to_rounding"] = merge_weights(base, saved, target)
        note = f"{facts['lost_to_rounding']:.2%} of Delta W was lost to rounding to {base.dtype}"
    elif form == Form.peft:
        refused = export_peft(saved, base, target)
        note = "an ordinary LoRA a layer" + (
            f"; PEFT refuses its {refused}, vLLM takes it" if refused else ""
        )
    else:
        saved.write(target / NAME)
        note = f"{(target / NAME).stat().st_size:,} bytes"
    if as_json:
        print_json({**facts, "note": note})
    else:
        for remark in base.notes:
            out.print(f"note: {remark}", soft_wrap=True)
        out.print(f"{form.value}: {target}  {note}", soft_wrap=True)


def _check_target(target: Path, checkpoint: Path, form: Form) -> None:
    """Raises: UserError where the result would replace what it is made of, or lie in a checkpoint,
    which transformers would then load with it.
    """
    replaces = target.resolve() == checkpoint.resolve()
    if replaces or (form != Form.checkpoint and (target / "config.json").exists()):
        what = "the checkpoint to merge into" if replaces else "a checkpoint"
        raise UserError(
            f"{target} is {what}.",
            got=target,
            allowed="another folder",
            next="Choose another --out.",
        )
