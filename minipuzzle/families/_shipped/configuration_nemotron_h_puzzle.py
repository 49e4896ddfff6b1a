"""Nemotron-H with sizes of its own for each block (``block_configs``)."""

import copy

from transformers import NemotronHConfig

_LETTERS = {"mamba": "M", "attention": "*", "mlp": "-", "moe": "E"}


class NemotronHPuzzleConfig(NemotronHConfig):
    model_type = "nemotron_h_puzzle"

    def __post_init__(self, block_configs=None, mtp_block_configs=None, **kwargs):
        self.__dict__["block_configs"] = [dict(b) for b in (block_configs or [])]
        self.__dict__["mtp_block_configs"] = [dict(b) for b in (mtp_block_configs or [])]
        if block_configs:
            kwargs["hybrid_override_pattern"] = "".join(_LETTERS[b["block_type"]] for b in block_configs)
            self.layers_block_type = None
        super().__post_init__(**kwargs)

    def get_nemotron_h_config_for_layer(self, layer_index):
        """The config of one layer; vLLM's and NVIDIA's code call it by this name."""
        config = copy.copy(self)
        for key, value in self.block_configs[layer_index].items():
            if key != "block_type" and value is not None:
                setattr(config, key, value)
        return config
