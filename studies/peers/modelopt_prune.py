"""nvidia-modelopt as in Puzzletron: channel hooks, KL of replacing one block, run_mip over all of
it.

FFN channels by IndependentChannelContributionHook on down_proj; every block's choices (FFN widths,
no block) realised alone and scored by KL to the parent; run_mip picks one choice a block within the
parameters. Realising its choice is left to the caller: modelopt's own writer has no match for
Nemotron-H's names (KeyError backbone.embedding.weight).
"""

import torch
from common import answer, batches, kind, load, parameters, request
from modelopt.torch.prune.importance_hooks.base_hooks import IndependentChannelContributionHook
from modelopt.torch.puzzletron.mip.mip_with_multi_layer_replacements import run_mip

SHARES = (0.875, 0.75, 0.625, 0.5, 0.375, 0.25)


def ranked_channels(model, tokens):
    """FFN block -> its channels, the most important first."""
    hooks, handles = {}, []
    for i, layer in enumerate(model.base_model.layers):
        if kind(layer) == "mlp":
            hooks[i] = IndependentChannelContributionHook(layer.mixer.down_proj)
            handles.append(layer.mixer.down_proj.register_forward_hook(hooks[i]))
    for batch in tokens:
        model(batch, use_cache=False)
    for handle in handles:
        handle.remove()
    return {i: hook.accumulate().argsort(descending=True).tolist() for i, hook in hooks.items()}


def divergence(model, tokens, expected):
    """KL of the parent's distribution to the model's, nats a token."""
    total, count = 0.0, 0
    for batch, log_p in zip(tokens, expected, strict=True):
        log_q = model(batch, use_cache=False).logits.log_softmax(-1)
        total += float((log_p.exp() * (log_p - log_q)).sum())
        count += batch.numel()
    return total / count


def choices(model, order, tokens):
    """Every block's (what it keeps or None, KL, parameters)."""
    expected = [model(batch, use_cache=False).logits.log_softmax(-1) for batch in tokens]
    found = []
    for i, layer in enumerate(model.base_model.layers):
        size = parameters(layer)
        options = [({}, 0.0, size)]
        forward = layer.forward
        layer.forward = lambda hidden_states, *args, **kwargs: hidden_states
        options.append((None, divergence(model, tokens, expected), 0))
        layer.forward = forward
        if i in order:
            whole = layer.mixer.down_proj.weight.clone()
            for width in [int(share * whole.shape[1]) for share in SHARES]:
                layer.mixer.down_proj.weight[:, order[i][width:]] = 0
                kept = {"intermediate": sorted(order[i][:width])}
                spared = 2 * whole.shape[0] * (whole.shape[1] - width)
                options.append((kept, divergence(model, tokens, expected), size - spared))
                layer.mixer.down_proj.weight.copy_(whole)
        found.append(options)
    return found


def choose(found, budget):
    """run_mip's choice for a budget of the blocks' parameters."""
    replacements = {
        f"{block}/{choice}": {
            "parent_layer_indices": [block],
            "layer_replacements": [],
            "block": block,
            "choice": choice,
            "metrics": {"kl": kl},
            "stats": {"params": size},
        }
        for block, options in enumerate(found)
        for choice, (_, kl, size) in enumerate(options)
    }
    out = run_mip(
        replacements, "metrics.kl", {"stats.params": budget}, False, max_seconds_per_solution=60
    )
    if not out:
        return {"error": "run_mip returned []: no choice fits"}
    picked = {r["block"]: r["choice"] for r in out[0]["chosen_replacements"]}
    return {
        "selection": [options[picked[block]][0] for block, options in enumerate(found)],
        "predicted": out[0]["total_value"],
    }


@torch.no_grad()
def main():
    """Score once, choose for every budget."""
    asked = request()
    model = load(asked["teacher"])
    tokens = batches(asked["calibration"])
    order = ranked_channels(model, tokens)
    found = choices(model, order, batches(asked["calibration"], count=asked["replace_blocks"]))
    outside = parameters(model) - sum(parameters(layer) for layer in model.base_model.layers)
    students = {name: choose(found, budget - outside) for name, budget in asked["budgets"].items()}
    answer(("nvidia-modelopt", "transformers", "torch"), students=students)


main()
