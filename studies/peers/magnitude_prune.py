"""Plain magnitude in LLM-Pruner's manner: every structure's score is the L2 norm of its coupled
weights, the same share of FFN channels and Mamba heads cut in every block. LLM-Pruner itself knows
the Llama family only and writes pickles.
"""

import torch
from common import answer, kind, load, parameters, request


def ffn_order(mixer):
    """Channels, the largest first."""
    return (mixer.up_proj.weight.square().sum(1) + mixer.down_proj.weight.square().sum(0)).argsort(
        descending=True
    )


def head_order(mixer, config):
    """[groups, heads a group] heads, the largest first in each group."""
    heads, dim = config.mamba_num_heads, config.mamba_head_dim
    inner = heads * dim
    rows = mixer.in_proj.weight[:inner].square().sum(1) + mixer.in_proj.weight[
        inner : 2 * inner
    ].square().sum(1)
    sums = (rows + mixer.out_proj.weight.square().sum(0)).reshape(heads, dim).sum(1)
    grouped = sums.reshape(config.n_groups, -1)
    return (
        grouped.argsort(dim=1, descending=True)
        + torch.arange(config.n_groups)[:, None] * grouped.shape[1]
    )


def cut(model, share, whole):
    """(selection, parameters) with a share of channels and heads kept."""
    config, selection, total = model.config, [], whole
    for layer in model.base_model.layers:
        kept = {}
        if kind(layer) == "mlp":
            width = round(share * config.intermediate_size)
            kept = {"intermediate": sorted(ffn_order(layer.mixer)[:width].tolist())}
            total -= 2 * config.hidden_size * (config.intermediate_size - width)
        elif kind(layer) == "mamba":
            each = max(1, round(share * config.mamba_num_heads / config.n_groups))
            kept = {"heads": sorted(head_order(layer.mixer, config)[:, :each].flatten().tolist())}
            gone, dim = config.mamba_num_heads - each * config.n_groups, config.mamba_head_dim
            # in_proj: gate, x and dt; out_proj; convolution with bias; norm; A, D and dt bias
            total -= gone * (
                config.hidden_size * (3 * dim + 1) + dim * (config.conv_kernel + 2) + 3
            )
        selection.append(kept)
    return selection, total


with torch.no_grad():
    asked = request()
    model = load(asked["teacher"])
    students = {}
    for name, budget in asked["budgets"].items():
        shares = [n / 448 for n in range(448, 0, -1)]
        fitting = (cut(model, share, parameters(model)) for share in shares)
        students[name] = {
            "selection": next(selection for selection, total in fitting if total <= budget)
        }
    answer(("transformers", "torch"), students=students)
