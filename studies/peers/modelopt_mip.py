"""nvidia-modelopt's run_mip on given instances. Runs in its own environment: request.json
answer.json.

request: {"instances": [{"damage": [[...]], "costs": [[[...]]], "limits": [...]}], "seconds": limit
of each} answer: {"version", "solutions": [{"choices": [...] or null, "seconds", "cpu_seconds",
"error"}]}
"""

import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path

from modelopt.torch.puzzletron.mip.mip_with_multi_layer_replacements import run_mip

request = json.loads(Path(sys.argv[1]).read_text())
solutions = []
for instance in request["instances"]:
    names = [f"cost{k}" for k in range(len(instance["limits"]))]
    replacements = {
        f"{block}/{choice}": {
            "parent_layer_indices": [block],
            "layer_replacements": [],
            "block": block,
            "choice": choice,
            "metrics": {"damage": damage},
            "stats": dict(zip(names, costs, strict=True)),
        }
        for block, (damages, all_costs) in enumerate(
            zip(instance["damage"], instance["costs"], strict=True)
        )
        for choice, (damage, costs) in enumerate(zip(damages, all_costs, strict=True))
    }
    limits = {f"stats.{name}": limit for name, limit in zip(names, instance["limits"], strict=True)}
    started, cpu = time.monotonic(), sum(os.times()[:4])
    try:
        found = run_mip(
            replacements,
            "metrics.damage",
            limits,
            False,
            max_seconds_per_solution=request["seconds"],
        )
        error = None if found else "returned []"
    except AssertionError as raised:
        found, error = [], str(raised)
    spent, cpu = time.monotonic() - started, sum(os.times()[:4]) - cpu
    chosen = {r["block"]: r["choice"] for r in found[0]["chosen_replacements"]} if found else {}
    choices = [chosen[block] for block in range(len(instance["damage"]))] if found else None
    solutions.append({"choices": choices, "seconds": spent, "cpu_seconds": cpu, "error": error})
answer = {"version": version("nvidia-modelopt"), "pulp": version("pulp"), "solutions": solutions}
Path(sys.argv[2]).write_text(json.dumps(answer))
