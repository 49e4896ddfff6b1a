"""Adapters for PEFT of projections that transformers has in pieces or in another order: PEFT
computes what we do, and what it saves is read again.
"""

import pytest
import torch
from adapted_models import saved_of, shake
from family_models import FORMS, theirs_of
from peft import PeftModel

from minipuzzle.adapters import attach, export_peft, import_peft, make_plan, merge
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.errors import UserError
from minipuzzle.model import load_model

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::RuntimeWarning", "ignore::FutureWarning"
)
FORM = {"olmo_hybrid": "plain", "qwen3_next": "dense", "qwen3_5_text": "plain"}


@pytest.fixture(params=FORM)
def base(request, tmp_path):
    theirs = theirs_of(request.param, FORMS[request.param][FORM[request.param]])
    theirs.save_pretrained(tmp_path / "base")
    return theirs, Checkpoint.open(tmp_path / "base")


TOKENS = torch.randint(1, 118, (2, 24), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_peft_computes_the_same_and_is_read_again(base, tmp_path):
    theirs, checkpoint = base
    ours = load_model(checkpoint).eval()
    whole = ours(TOKENS)
    target = "attention,delta_net"
    attach(ours, make_plan(ours.architecture, "lora", rank=4, alpha=6.0, target=target))
    shake(ours.adapters, 0.1)
    export_peft(saved_of(ours), checkpoint, tmp_path / "out")
    want = ours(TOKENS)
    assert (want - whole).abs().max() > 0.1
    tuned = PeftModel.from_pretrained(theirs, tmp_path / "out")
    assert (tuned(input_ids=TOKENS, use_cache=False).logits - want).abs().max() < 1e-4
    for name, parameter in tuned.named_parameters():  # pieces of one have factors of their own
        if "lora_A" in name and ".k_proj" in name:
            parameter.mul_(-2)
    other = tuned(input_ids=TOKENS, use_cache=False).logits
    assert (other - want).abs().max() > 1e-3
    tuned.save_pretrained(tmp_path / "again")
    merge(checkpoint, import_peft(tmp_path / "again", checkpoint), tmp_path / "merged")
    merged = load_model(Checkpoint.open(tmp_path / "merged")).eval()
    assert (merged(TOKENS) - other).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("family", "form", "target"),
    [("qwen3_next", "dense", "mlp"), ("qwen3_next", "plain", "attention,shared_down")],
)
def test_what_peft_would_lose_is_refused(family, form, target, tmp_path):
    """It takes a dense SwiGLU of Qwen3-Next, and the shared expert, for experts."""
    theirs_of(family, FORMS[family][form]).save_pretrained(tmp_path / "base")
    checkpoint = Checkpoint.open(tmp_path / "base")
    ours = load_model(checkpoint)
    attach(ours, make_plan(ours.architecture, "lora", rank=4, target=target))
    with pytest.raises(UserError, match="PEFT would lose") as caught:
        export_peft(saved_of(ours), checkpoint, tmp_path / "out")
    assert "down_proj" in str(caught.value)
    assert not (tmp_path / "out").exists()
