"""minipuzzle merge: an adapter into the weights, or into PEFT's files, or PEFT's into ours."""

from __future__ import annotations

from minipuzzle.commands._shared import out, print_json
from minipuzzle.errors import UserError
from minipuzzle.settings.merge import MergeCommand


def run(line: MergeCommand) -> None:
    """Write what was asked for, and print what was lost to rounding."""
    from minipuzzle.adapters import export_peft, open_adapter
    from minipuzzle.adapters import merge as merge_weights
    from minipuzzle.adapters.saved import NAME
    from minipuzzle.checkpoint import Checkpoint

    _check_target(line)
    base = Checkpoint.open(line.checkpoint)
    saved = open_adapter(line.adapter, base)
    facts: dict[str, object] = {"path": str(line.target), "form": line.form}
    if line.form == "checkpoint":
        facts["lost_to_rounding"] = merge_weights(base, saved, line.target)
        note = f"{facts['lost_to_rounding']:.2%} of Delta W was lost to rounding to {base.dtype}"
    elif line.form == "peft":
        refused = export_peft(saved, base, line.target)
        note = "an ordinary LoRA a layer" + (
            f"; PEFT refuses its {refused}, vLLM takes it" if refused else ""
        )
    else:
        saved.write(line.target / NAME)
        note = f"{(line.target / NAME).stat().st_size:,} bytes"
    if line.as_json:
        print_json({**facts, "note": note})
    else:
        for remark in base.notes:
            out.print(f"note: {remark}", soft_wrap=True)
        out.print(f"{line.form}: {line.target}  {note}", soft_wrap=True)


def _check_target(line: MergeCommand) -> None:
    """Raises: UserError where the result would replace what it is made of, or lie in a checkpoint,
    which transformers would then load with it.
    """
    replaces = line.target.resolve() == line.checkpoint.resolve()
    if replaces or (line.form != "checkpoint" and (line.target / "config.json").exists()):
        what = "the checkpoint to merge into" if replaces else "a checkpoint"
        raise UserError(
            f"{line.target} is {what}.",
            got=line.target,
            allowed="another folder",
            next="Change merge.target.",
        )
