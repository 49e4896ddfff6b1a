"""mergekit, negative control: a passthrough merge that leaves out whole blocks; it ends well, but
look at what it wrote.
"""

import subprocess
import sys
from pathlib import Path

import yaml
from common import answer, load, request
from safetensors import safe_open

asked = request()
count = len(load(asked["teacher"]).base_model.layers)
students = {}
for name in asked["budgets"]:
    out = Path(asked["out"]) / name
    slices = [
        {"sources": [{"model": asked["teacher"], "layer_range": span}]}
        for span in ([0, count - 3], [count - 2, count])
    ]
    plan = Path(asked["out"]) / f"{name}.yaml"
    plan.parent.mkdir(parents=True, exist_ok=True)
    plan.write_text(
        yaml.safe_dump({"merge_method": "passthrough", "dtype": "float32", "slices": slices})
    )
    run = [str(Path(sys.executable).parent / "mergekit-yaml"), str(plan), str(out)]
    result = subprocess.run(run, capture_output=True, text=True, check=False)
    if result.returncode:
        students[name] = {"error": result.stderr.strip().splitlines()[-1][:200]}
        continue
    written = 0
    for file in out.glob("*.safetensors"):
        with safe_open(file, framework="np") as opened:
            written += len(opened.keys())
    students[name] = {"checkpoint": str(out), "tensors": written}
answer(("mergekit", "transformers", "torch"), students=students)
