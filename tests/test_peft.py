"""Against Hugging Face's PEFT on transformers' NemotronH: the same training, the same logits from
exported adapters.
"""

import json
from types import SimpleNamespace

import pytest
import torch
from adapted_models import MASKS, saved_of, shake
from conftest import tiny
from peft import LoraConfig, PeftModel, get_peft_model, inject_adapter_in_model
from safetensors.torch import load_file, save_file
from test_model import theirs_of

from minipuzzle.adapters import attach, export_peft, import_peft, make_plan, merge, open_adapter
from minipuzzle.adapters.peft_names import usual
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.data import pack
from minipuzzle.errors import UserError
from minipuzzle.model import load_model
from minipuzzle.settings import Training
from minipuzzle.training import next_token, train

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)  # PEFT asks for it
PROJECTIONS = [
    "in_proj",
    "out_proj",
    "up_proj",
    "down_proj",
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
]
FIELDS = {"hybrid_override_pattern": "M-*M-*"}


@pytest.fixture
def base(tmp_path):
    """transformers' model, and its folder opened by us."""
    theirs = theirs_of(FIELDS)
    theirs.save_pretrained(tmp_path / "base")
    # PEFT refuses Mamba's out_proj by model_type, because a fused CUDA kernel would skip it; on a
    # CPU it computes
    theirs.config.model_type = "nemotron_h_unfused"
    return theirs, Checkpoint.open(tmp_path / "base")


def tokens_of(seed=1, shape=(2, 24)):
    return torch.randint(0, 120, shape, generator=torch.Generator().manual_seed(seed))


def with_adapter(checkpoint, mask, dtype=torch.float32, target="all", rank=4, alpha=None):
    model = load_model(checkpoint, dtype=dtype)
    attach(model, make_plan(model.architecture, mask, rank=rank, target=target, alpha=alpha)).to(
        dtype
    )
    shake(model.adapters, 0.1)
    return model


def test_untied_training_equals_peft(base, tmp_path):
    """Same start, same data, 20 steps of AdamW in FP32: the loss of every step to 1e-5."""
    theirs, checkpoint = base
    ours = load_model(checkpoint)
    attach(ours, make_plan(ours.architecture, "lora", rank=4, alpha=8.0))
    export_peft(saved_of(ours), checkpoint, tmp_path / "start")
    tuned = PeftModel.from_pretrained(theirs, tmp_path / "start", is_trainable=True)
    text = (
        torch.randint(0, 120, (80 * 32,), generator=torch.Generator().manual_seed(5))
        .numpy()
        .astype("uint32")
    )
    blocks = pack([text], block_length=32, vocab_size=120, seed=0, fingerprint="x", text_bytes=1)
    settings = Training(
        tokens=20 * 4 * 32,
        batch=4,
        learning_rate=1e-2,
        warmup=0.0,
        final_ratio=1.0,
        weight_decay=0.0,
        clip=1e9,
    )
    losses = []

    def recorded(model, tokens, documents):
        batch = next_token(model, tokens, documents)
        losses.append(batch.total.item() / batch.tokens)
        return batch

    train(ours, recorded, blocks, settings, tmp_path / "run", identity="x")
    optimizer = torch.optim.AdamW(
        [p for p in tuned.parameters() if p.requires_grad],
        lr=1e-2,
        betas=(0.9, 0.95),
        eps=1e-8,
        weight_decay=0.0,
    )
    for step in range(20):
        tokens = torch.from_numpy(blocks.batch(step, 4, settings.seed)[0])
        loss = tuned(input_ids=tokens, labels=tokens, use_cache=False).loss
        assert loss.item() == pytest.approx(losses[step], abs=1e-5), step
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0] - 0.02


@pytest.mark.parametrize("mask", MASKS[:6])
def test_exported_adapters_compute_the_same_in_peft(mask, base, tmp_path):
    """Every preset and mask, on attention (q, k, v fused), Mamba and FFN projections: on
    transformers' model in FP32, and with PEFT's layers inside our model in float64 (transformers
    computes norms in FP32 whatever the dtype).
    """
    theirs, checkpoint = base
    ours = with_adapter(checkpoint, mask, target="qkv,o,mamba,mlp", alpha=6.0)
    export_peft(saved_of(ours), checkpoint, tmp_path / "fp32")
    tuned = PeftModel.from_pretrained(theirs, tmp_path / "fp32").eval()
    want, got = ours(tokens_of()), tuned(tokens_of(), use_cache=False).logits
    assert (want - got).abs().max() <= 1e-5 * want.abs().max()
    ours = with_adapter(checkpoint, mask, torch.float64, target="qkv,o,mamba,mlp", alpha=6.0)
    export_peft(saved_of(ours), checkpoint, tmp_path / "fp64")
    want, got = ours(tokens_of()), injected(checkpoint, tmp_path / "fp64")(tokens_of())
    assert (want - got).abs().max() <= 1e-12 * want.abs().max()


def injected(checkpoint, folder):
    model = load_model(checkpoint, dtype=torch.float64)
    inject_adapter_in_model(LoraConfig.from_pretrained(folder), model)
    model.to(torch.float64)
    values = load_file(folder / "adapter_model.safetensors")
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for module, way in usual(checkpoint).items():
            (name,) = way
            for factor in "AB":
                value = values.pop(f"base_model.model.{name}.lora_{factor}.weight")
                parameters[f"{module}.lora_{factor}.default.weight"].copy_(value)
    assert not values
    return model


@pytest.mark.parametrize("target", ["attention", "in", "mlp", "attention,in,mlp"])
def test_what_peft_loads_as_it_is(target, base, tmp_path):
    theirs, checkpoint = base
    theirs.config.model_type = "nemotron_h"
    ours = with_adapter(checkpoint, "tl6", target=target)
    export_peft(saved_of(ours), checkpoint, tmp_path / "out")
    tuned = PeftModel.from_pretrained(theirs, tmp_path / "out").eval()
    assert (ours(tokens_of()) - tuned(tokens_of(), use_cache=False).logits).abs().max() < 1e-5


def test_the_config_is_what_vllm_accepts(base, tmp_path):
    """vLLM 0.33 needs r, lora_alpha and target_modules and rejects biases, DoRA, whole modules and
    other starts.
    """
    _, checkpoint = base
    export_peft(saved_of(with_adapter(checkpoint, "tl6", alpha=16.0)), checkpoint, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (4, 16, "LORA")
    assert config["target_modules"] == sorted(PROJECTIONS)
    assert config["bias"] == "none"
    assert config["use_dora"] is False
    assert config["init_lora_weights"] is True
    assert not config.get("modules_to_save")
    names = list(load_file(tmp_path / "adapter_model.safetensors"))
    assert "base_model.model.model.layers.0.mixer.in_proj.lora_A.weight" in names
    assert len(names) == 2 * (2 * 2 + 2 * 2 + 4 * 2)


def test_adapters_of_peft_come_in(base, tmp_path):
    """With a rank and an alpha of their own for some modules; imported, merged and exported again
    they compute the same.
    """
    theirs, checkpoint = base
    torch.manual_seed(0)
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=["in_proj", "q_proj", "up_proj"],
        init_lora_weights=False,
        rank_pattern={"q_proj": 2},
        alpha_pattern={"layers.0.mixer.in_proj": 3},
        use_rslora=True,
        task_type="CAUSAL_LM",
    )
    tuned = get_peft_model(theirs, config).eval()
    tuned.save_pretrained(tmp_path / "theirs")
    want = tuned(tokens_of(), use_cache=False).logits.detach()
    saved = open_adapter(tmp_path / "theirs", checkpoint)
    merge(checkpoint, saved, tmp_path / "merged")
    merged = Checkpoint.open(tmp_path / "merged")
    assert (load_model(merged)(tokens_of()) - want).abs().max() < 1e-5 * want.abs().max()
    with pytest.raises(UserError, match="already"):
        merge(merged, open_adapter(tmp_path / "theirs", merged), tmp_path / "twice")
    export_peft(saved, checkpoint, tmp_path / "again")
    again = PeftModel.from_pretrained(tuned.unload(), tmp_path / "again").eval()
    assert (again(tokens_of(), use_cache=False).logits - want).abs().max() < 1e-5 * want.abs().max()


def test_what_is_not_plain_lora_is_refused(base, tmp_path):
    _, checkpoint = base
    export_peft(saved_of(with_adapter(checkpoint, "lora")), checkpoint, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    for change in (
        {"use_dora": True},
        {"bias": "all"},
        {"peft_type": "VERA"},
        {"modules_to_save": ["lm_head"]},
    ):
        (tmp_path / "adapter_config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(UserError, match="more than plain LoRA") as caught:
            import_peft(tmp_path, checkpoint)
        assert next(iter(change)) in caught.value.got
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    first = next(iter(tensors))
    save_file(
        {name: t for name, t in tensors.items() if name != first},
        tmp_path / "adapter_model.safetensors",
    )
    with pytest.raises(UserError, match="half of a pair"):
        import_peft(tmp_path, checkpoint)
    save_file(
        {**tensors, "base_model.model.other.lora_A.weight": torch.ones(2, 2)},
        tmp_path / "adapter_model.safetensors",
    )
    with pytest.raises(UserError, match="does not have"):
        import_peft(tmp_path, checkpoint)


def test_an_adapter_for_another_shape_is_refused(base, tmp_path):
    _, checkpoint = base
    other = load_model(checkpoint)
    plan = make_plan(tiny("M-*M-*", hidden=32, intermediate=64), "lora", rank=2, target="mlp")
    with pytest.raises(UserError, match="another model"):
        export_peft(saved_of(other_with(other, plan)), checkpoint, tmp_path)


def other_with(model, plan):
    object.__setattr__(model, "adapters", SimpleNamespace(plan=plan, tensors=dict))
    return model
