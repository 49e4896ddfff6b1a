"""Small checkpoints of transformers' whose config.json, weights or index are changed afterwards."""

import json
import shutil
import tempfile
from pathlib import Path

import torch
from family_models import FORMS, theirs_of, unclamped
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from minipuzzle.checkpoint import Checkpoint
from minipuzzle.model import load_model

EMBEDDING, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
INDEX, ONE, TWO = (
    "model.safetensors.index.json",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
)
TOKENS = torch.randint(0, 119, (2, 20), generator=torch.Generator().manual_seed(1))
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}


_ONCE = tempfile.TemporaryDirectory()


def made(folder, family="llama", **fields):
    once = Path(_ONCE.name, family, json.dumps(fields))
    if not once.exists():
        form = FORMS[family].get("plain", next(iter(FORMS[family].values())))
        theirs_of(family, {**form, **fields}).save_pretrained(once)
    return shutil.copytree(once, folder, dirs_exist_ok=True)


def say(folder, **fields):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def weights(folder, change):
    file = folder / "model.safetensors"
    values = change(load_file(file))
    save_file(
        {name: value.clone() for name, value in values.items()}, file, metadata={"format": "pt"}
    )


def shards(folder, placed=lambda where: where, total=1):
    """Two shards and an index in place of the one file; ``placed`` changes what the index says."""
    values = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(values)
    where = {name: ONE if i < len(names) // 2 else TWO for i, name in enumerate(names)}
    for shard in (ONE, TWO):
        save_file(
            {n: v for n, v in values.items() if where[n] == shard},
            folder / shard,
            metadata={"format": "pt"},
        )
    (folder / INDEX).write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": placed(where)})
    )
    return values


@torch.no_grad()
def apart(folder):
    """The largest difference of our logits and transformers', relative to the largest."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    theirs = unclamped(model)(TOKENS, use_cache=False).logits
    return (
        (load_model(Checkpoint.open(folder)).eval()(TOKENS) - theirs).abs().max()
        / theirs.abs().max()
    ).item()


def fp8(folder):
    narrow = {"mlp.up_proj.weight", "mlp.down_proj.weight"}

    def change(values):
        names = [n for n in values if n.split(".", 3)[-1] in narrow]
        return (
            values
            | {n: values[n].to(torch.float8_e4m3fn) for n in names}
            | {f"{n}_scale_inv": torch.ones(1) for n in names}
        )

    weights(folder, change)
