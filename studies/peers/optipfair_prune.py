"""optipfair, depth: blocks ranked by its analyze_layer_importance (cosine distance), the least
important removed.
"""

import torch
from common import answer, batches, load, parameters, request
from optipfair import prune_model
from optipfair.pruning.depth import analyze_layer_importance

asked = request()
model = load(asked["teacher"])
loader = [
    {"input_ids": batch, "attention_mask": torch.ones_like(batch)}
    for batch in batches(asked["calibration"])
]
scores = analyze_layer_importance(model, loader, layers_path="model.layers", show_progress=False)
students = {}
for name, budget in asked["budgets"].items():
    model = load(asked["teacher"])
    sizes, left, gone = (
        [parameters(layer) for layer in model.base_model.layers],
        parameters(model),
        [],
    )
    for index in sorted(scores, key=scores.get):
        if left > budget:
            gone.append(index)
            left -= sizes[index]
    pruned = prune_model(
        model, pruning_type="DEPTH", layer_indices=sorted(gone), show_progress=False
    )
    pruned.save_pretrained(f"{asked['out']}/{name}")
    students[name] = {"checkpoint": f"{asked['out']}/{name}", "removed": sorted(gone)}
answer(("optipfair", "transformers", "torch"), students=students, scores=scores)
