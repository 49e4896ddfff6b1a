"""minipuzzle inspect: what a model is and needs, from its config.json alone."""

from __future__ import annotations

from minipuzzle.commands._shared import out, print_json
from minipuzzle.settings.inspect import InspectCommand


def run(line: InspectCommand) -> None:
    """Print the layer pattern, the parameters and the memory."""
    from minipuzzle import families
    from minipuzzle.checkpoint.config import read_config
    from minipuzzle.checkpoint.held import quantised
    from minipuzzle.embedded import checkpoint_path
    from minipuzzle.memory import Workload
    from minipuzzle.report.inspect import inspect_json, inspect_view

    path = checkpoint_path(line.path)
    config, architecture = read_config(path)
    found, copied = quantised(path, config), families.copied(families.of(config))
    asked = line.workload
    workload = Workload(
        context=asked.context,
        batch=asked.batch,
        weights=asked.weights,
        kv=asked.kv,
        state=asked.state,
    )
    if line.as_json:
        print_json(inspect_json(architecture, workload, found, copied))
    else:
        out.print(inspect_view(str(line.path), architecture, workload, found, copied))
