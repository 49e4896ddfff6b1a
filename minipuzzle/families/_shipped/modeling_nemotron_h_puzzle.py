"""transformers' Nemotron-H with each block built from its own config."""

import transformers.models.nemotron_h.modeling_nemotron_h as nemotron_h
from torch import nn
from transformers import NemotronHForCausalLM

from .configuration_nemotron_h_puzzle import NemotronHPuzzleConfig

try:  # experts lie one by one in the file, as servers read them, and stacked in transformers' memory
    from transformers import conversion_mapping
except ImportError:  # before transformers 5 there are no stacks
    pass
else:
    conversion_mapping.register_checkpoint_conversion_mapping(
        NemotronHPuzzleConfig.model_type,
        conversion_mapping.get_checkpoint_conversion_mapping("nemotron_h"),
        overwrite=True,
    )


class _Init:
    config_class = NemotronHPuzzleConfig

    def _init_weights(self, module):
        whole = self.config
        try:
            if isinstance(module, nemotron_h.NemotronHMamba2Mixer):
                self.config = module.config
            super()._init_weights(module)
        finally:
            self.config = whole


class NemotronHPuzzleModel(_Init, nemotron_h.NemotronHModel):
    def __init__(self, config):
        nemotron_h.NemotronHPreTrainedModel.__init__(self, config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            nemotron_h.NemotronHBlock(config.get_nemotron_h_config_for_layer(i), layer_idx=i)
            for i in range(config.num_hidden_layers)
        )
        self.norm_f = nemotron_h.NemotronHRMSNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.post_init()


class NemotronHPuzzleForCausalLM(_Init, NemotronHForCausalLM):
    def __init__(self, config):
        nemotron_h.NemotronHPreTrainedModel.__init__(self, config)
        self.model = NemotronHPuzzleModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()
