"""Every field of PEFT's adapter_config.json: applied as PEFT's reload does, or refused by name."""

import copy
import math
from dataclasses import fields
from functools import lru_cache

import pytest
import torch
from peft import LoraConfig, PeftModel
from peft_adapters import Q1, editor, peft_base
from transformers import AutoModelForCausalLM

from minipuzzle.adapters import import_peft
from minipuzzle.adapters.peft_config import DEFAULTS
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.errors import UserError
from minipuzzle.model import load_model
from minipuzzle.settings import AdapterSettings

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's, on fields that it ignores
TOKENS = torch.randint(0, 119, (2, 16), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return peft_base(tmp_path_factory.mktemp("peft"))


@pytest.fixture
def edited(base, tmp_path):
    return editor(base, tmp_path)


@lru_cache
def parent(base):
    return AutoModelForCausalLM.from_pretrained(base / "base")


@torch.no_grad()
def theirs_with(base, folder):
    """The logits that PEFT's reload gives."""
    model = copy.deepcopy(parent(base))
    return PeftModel.from_pretrained(model, folder).eval()(TOKENS, use_cache=False).logits


@torch.no_grad()
def ours_with(base, folder):
    """Ours, with every B A added to its weight."""
    checkpoint = Checkpoint.open(base / "base")
    model = load_model(checkpoint).eval()
    parameters = dict(model.named_parameters())
    for lora in import_peft(folder, checkpoint).loras():
        parameters[f"{lora.module}.weight"].add_(lora.b @ lora.a * (lora.alpha / lora.rank))
    return model(TOKENS)


def difference(base, folder):
    """From PEFT's reload, as a part of the largest logit; None where one of the two refuses."""
    try:
        got = ours_with(base, folder)
    except UserError:
        return None
    try:
        want = theirs_with(base, folder)
    except Exception:  # PEFT's checks are of a dozen types
        return None
    return ((got - want).abs().max() / want.abs().max()).item()


READ = [
    {},
    {"lora_alpha": 7.5},
    {"lora_alpha": -4},
    {"lora_alpha": 0},
    {"use_rslora": True},
    {"alpha_pattern": {"q_proj": 3}},
    {"alpha_pattern": {r"layers\.[01]\.self_attn\.q_proj": 3}},
    {"alpha_pattern": {f"^{Q1}": 3}},
    {"alpha_pattern": {"proj": 3}},
    {"alpha_pattern": {}},
    {"alpha_pattern": {"q_proj": 3, Q1: 3}},
    {"alpha_pattern": {"up_proj": 3}, "use_rslora": True},
    {"rank_pattern": {"v_proj": 2}},
    {"target_modules": [Q1, "layers.0.self_attn.q_proj", "up_proj"]},
    {"target_modules": r".*\.(q_proj|up_proj)"},
    {"layers_to_transform": [0, 1]},
    {"layers_to_transform": []},
    {"layers_to_transform": [0, 1], "layers_pattern": "layers"},
    {"exclude_modules": ["v_proj"]},
    {"exclude_modules": r".*\.down_proj"},
    {"fan_in_fan_out": True},
    {"init_lora_weights": "gaussian"},
    {"init_lora_weights": True},
    {"task_type": None},
    {"lora_dropout": 0.5},
    {"inference_mode": False},
    {"base_model_name_or_path": "elsewhere"},
    {"revision": "x"},
    {"modules_to_save": []},
    {"trainable_token_indices": None},
]


@pytest.mark.parametrize("change", READ, ids=str)
def test_what_is_read_computes_as_peft_s_reload(change, base, edited):
    assert difference(base, edited(change)) < 1e-5


def test_absent_fields_have_peft_s_defaults(base, edited):
    plain = LoraConfig()
    for name, ours in DEFAULTS.items():
        if name not in ("peft_type", "rank_pattern", "alpha_pattern"):
            assert ours == getattr(plain, name), name
    for name in ("lora_alpha", "use_rslora", "bias", "init_lora_weights", "rank_pattern"):
        assert difference(base, edited({"r": 4}, without=[name])) < 1e-5, name
    with pytest.raises(UserError, match="not the rank"):  # PEFT's 8 does not fit these factors
        import_peft(edited(without=["r"]), Checkpoint.open(base / "base"))


REFUSED = {
    "more than plain LoRA": [
        {"use_dora": True},
        {"bias": "lora_only"},
        {"modules_to_save": ["lm_head"]},
        {"lora_bias": True},
        {"layer_replication": [[0, 2], [0, 2]]},
        {"use_qalora": True},
        {"alora_invocation_tokens": [1]},
        {"trainable_token_indices": [1]},
        {"target_parameters": ["mlp.up_proj.weight"]},
        {"megatron_config": {"a": 1}},
        {"arrow_config": {"top_k": 2}},
        {"kasa_config": {"beta": 1.0}},
        {"use_bdlora": {"nblocks": 2}},
        {"monteclora_config": {"num_samples": 2}},
        {"velora_config": {"num_groups": 2}},
        {"ensure_weight_tying": True},
        {"peft_type": "VERA"},
        {"peft_type": "ADALORA"},
        {"peft_type": None},
        {"task_type": "SEQ_CLS"},
        {"projection_prng_key": 0, "save_projection": True, "d_initial": 0.1},
        {"a_field_of_tomorrow": "on"},
        {"another": 0.5},
        {"init_lora_weights": "orthogonal"},
        *(
            {"init_lora_weights": s}
            for s in ("pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga", "mica")
        ),
    ],
    "does not hold what it should": [
        {"r": "4"},
        {"r": 0},
        {"r": -1},
        {"r": 4.0},
        {"r": None},
        {"r": True},
        {"lora_alpha": "8"},
        {"lora_alpha": None},
        {"lora_alpha": math.nan},
        {"lora_alpha": math.inf},
        {"lora_alpha": [8]},
        {"alpha_pattern": "abc"},
        {"alpha_pattern": ["q_proj"]},
        {"alpha_pattern": {"q_proj": "3"}},
        {"alpha_pattern": {"q_proj": math.nan}},
        {"rank_pattern": {"q_proj": 0}},
        {"rank_pattern": 4},
        {"use_rslora": "false"},
        {"use_rslora": 1},
        {"target_modules": None},
        {"target_modules": 3},
        {"target_modules": [3]},
        {"layers_to_transform": "0"},
        {"layers_to_transform": [0.5]},
        {"layers_pattern": 3},
        {"exclude_modules": 7},
    ],
    "says 2 values for one module": [{"alpha_pattern": {"q_proj": 3, Q1: 4}}],
    "no regular expression": [
        {"alpha_pattern": {"(": 3}},
        {"target_modules": "(q_proj"},
        {"exclude_modules": "*"},
        {"layers_to_transform": [1], "layers_pattern": "("},
    ],
    "leaves out what the file adapts": [
        {"target_modules": ["q_proj"]},
        {"layers_to_transform": [1]},
        {"layers_to_transform": 1},
        {"exclude_modules": ["q_proj"]},
        {"target_modules": ".*q_proj"},
        {"target_modules": []},
        {"layers_to_transform": [0, 1], "layers_pattern": "blocks"},
        {"target_modules": ["elsewhere"]},
    ],
    "names what the file does not adapt": [
        {"target_modules": "all-linear"},
        {"target_modules": ["q_proj", "up_proj", "v_proj"]},
        {"target_modules": ".*_proj"},
    ],
    "not the rank": [{"r": 8}, {"rank_pattern": {"q_proj": 2}}],
    "needs a list": [{"target_modules": ".*(q_proj|up_proj)", "layers_to_transform": [0, 1]}],
}


@pytest.mark.parametrize("says", REFUSED)
def test_what_is_not_applied_is_refused_by_name(says, base, edited):
    checkpoint = Checkpoint.open(base / "base")
    for change in REFUSED[says]:
        with pytest.raises(UserError, match=says) as caught:
            import_peft(edited(change), checkpoint)
        assert caught.value.next
        assert says != "more than plain LoRA" or next(iter(change)) in caught.value.got


def test_no_field_of_peft_is_missed(base, edited):
    """Each of LoraConfig's fields with odd values: PEFT's logits, or an error of ours."""
    checkpoint, read = Checkpoint.open(base / "base"), 0
    for field in fields(LoraConfig):
        for value in (True, 3, "x", ["q_proj"], {"q_proj": 3}):
            folder = edited({field.name: value})
            try:
                import_peft(folder, checkpoint)
            except UserError:
                continue
            read += 1
            apart = difference(base, folder)
            assert apart is None or apart < 1e-5, (field.name, value)
    assert read > 30


@pytest.mark.parametrize(
    "change",
    [
        {"rank": 0},
        {"rank": -3},
        {"rank": 10**20},
        {"rank": 8.0},
        {"rank": True},
        {"rank": "8"},
        {"alpha": math.nan},
        {"alpha": math.inf},
        {"alpha": -1.0},
        {"alpha": "16"},
        {"alpha": None},
        {"kind": 3},
        {"target": None},
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused_in_four_parts(change):
    with pytest.raises(UserError) as caught:
        AdapterSettings(**change)
    assert str(next(iter(change.values()))) in caught.value.got.replace(",", "")
    assert caught.value.allowed
    assert caught.value.next
