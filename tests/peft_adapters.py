"""An adapter of PEFT on a tiny Llama, and copies of it that tests edit."""

import json
import shutil

import torch
from family_models import LAYERS, theirs_of
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

Q1 = "model.layers.1.self_attn.q_proj"


def peft_base(folder):
    """A tiny Llama of transformers in ``base``, and an adapter of PEFT on it in ``plain``."""
    theirs_of("llama", {**LAYERS, "num_hidden_layers": 2}).save_pretrained(folder / "base")
    theirs = AutoModelForCausalLM.from_pretrained(folder / "base")
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=["q_proj", "up_proj"],
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(0)
    get_peft_model(theirs, config).save_pretrained(folder / "plain")
    return folder


def editor(base, tmp_path):
    """What makes a copy of the adapter with other fields and tensors."""

    def edit(change=None, without=(), tensors=None):
        folder = tmp_path / "adapter"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(base / "plain", folder)
        config = json.loads((folder / "adapter_config.json").read_text()) | (change or {})
        config = {name: value for name, value in config.items() if name not in without}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        if tensors is not None:
            file = folder / "adapter_model.safetensors"
            save_file({n: t.contiguous() for n, t in tensors(load_file(file)).items()}, file)
        return folder

    return edit
