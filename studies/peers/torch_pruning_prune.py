"""Torch-Pruning: FFN channels by its dependency graph and GroupTaylorImportance, one width for all
blocks.

Only FFN: pruning the Mamba blocks' in_proj raises ZeroDivisionError in its graph. The config it
leaves unchanged is edited here, or from_pretrained would fail.
"""

import torch_pruning as tp
from common import answer, batches, kind, load, parameters, request


def prune(path, tokens, budget, out):
    """Narrow every FFN to the widest width that fits and save."""
    model = load(path)
    mixers = [layer.mixer for layer in model.base_model.layers if kind(layer) == "mlp"]
    hidden, width = mixers[0].down_proj.weight.shape
    excess = parameters(model) - budget
    keep = width - -(-excess // (2 * hidden * len(mixers)))
    if keep < 1:
        least = parameters(model) - 2 * hidden * len(mixers) * width
        return {
            "error": (
                f"FFN alone cannot reach it: {least:,} parameters remain without any FFN channel"
            )
        }
    for batch in tokens:
        model(input_ids=batch, labels=batch, use_cache=False).loss.backward()
    graph = tp.DependencyGraph().build_dependency(
        model, tokens[0][:1, :32], output_transform=lambda out: out.logits.sum()
    )
    importance = tp.importance.GroupTaylorImportance()
    for mixer in mixers:
        group = graph.get_pruning_group(
            mixer.up_proj, tp.prune_linear_out_channels, idxs=list(range(width))
        )
        order = importance(group).argsort()
        graph.get_pruning_group(
            mixer.up_proj, tp.prune_linear_out_channels, idxs=order[: width - keep].tolist()
        ).prune()
    model.config.intermediate_size = keep
    model.save_pretrained(out)
    return {"checkpoint": out, "width": keep}


asked = request()
students = {}
for name, budget in asked["budgets"].items():
    tokens = batches(asked["calibration"], size=4, count=asked["replace_blocks"])
    students[name] = prune(asked["teacher"], tokens, budget, f"{asked['out']}/{name}")
answer(("torch-pruning", "transformers", "torch"), students=students)
