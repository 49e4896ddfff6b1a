"""A config of each family whose fields tests change, and the fields that have no default."""

from family_models import FORMS

NAMES = sorted(FORMS)
BASE = {name: next(iter(forms.values())) for name, forms in FORMS.items()}
BASE["granitemoehybrid"] = FORMS["granitemoehybrid"]["rope, tied"]
NO_DEFAULT_HERE = {
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "mamba_num_heads",
    "n_routed_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "moe_shared_expert_intermediate_size",
}
