"""A config of each family, or several, whose fields tests change, and the fields that have no
default.
"""

from family_models import FORMS

BASE = {name: next(iter(forms.values())) for name, forms in FORMS.items()}
BASE["granitemoehybrid"] = FORMS["granitemoehybrid"]["rope, tied"]
BASE["granitemoehybrid with experts"] = {
    **FORMS["granitemoehybrid"]["experts"],
    "position_embedding_type": "rope",
}
BASE["nemotron_h with experts"] = FORMS["nemotron_h"]["latent experts in groups, dense too"]
BASE["qwen3_moe with dense layers"] = {
    **FORMS["qwen3_moe"]["dense layers, gates that sum to 1, bias"],
    "num_hidden_layers": 3,
    "mlp_only_layers": None,
}
NAMES = sorted(BASE)
NO_DEFAULT_HERE = {
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "mamba_num_heads",
    "n_routed_experts",
    "num_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "moe_shared_expert_intermediate_size",
}


def type_of(name):
    """The model_type of a base."""
    return name.split()[0]
