"""Mixtures of experts are trained as other models are, by the command line from end to end too."""

import json
from copy import deepcopy
from functools import partial

import pytest
import torch
from conftest import save, shaken, tiny
from helpers import FAST, TEXT, run
from world import CPU, STEP, distil, text

from minipuzzle.checkpoint import Checkpoint
from minipuzzle.errors import UserError
from minipuzzle.kernels import choose, grouped
from minipuzzle.model import HybridLM, init_model, load_model
from minipuzzle.model.fp8_weights import fp8_model
from minipuzzle.model.norm import RMSNorm
from minipuzzle.ranks import alone
from minipuzzle.records import Adapted, Distilled, load_log
from minipuzzle.rundir import RunDir
from minipuzzle.runs.checks import check_adapter
from minipuzzle.settings import AdapterSettings, Training
from minipuzzle.training import distillation, next_token, train
from minipuzzle.training.expert_load import expert_load
from minipuzzle.training.log import LOG
from minipuzzle.training.optimizers import make_optimizer
from minipuzzle.training.trained import choose_trained, trained_count

CORRECTION = "blocks.1.router.correction"
RECIPE = """
model: {model_type: nemotron_h, vocab_size: 4096, hidden_size: 32,
        hybrid_override_pattern: ME*-, intermediate_size: 64,
        num_attention_heads: 4, num_key_value_heads: 2, head_dim: 8,
        mamba_num_heads: 8, mamba_head_dim: 8, n_groups: 2,
        ssm_state_size: 8, chunk_size: 16,
        n_routed_experts: 8, num_experts_per_tok: 2, moe_intermediate_size: 16,
        moe_shared_expert_intermediate_size: 32}
tokenizer: embedded
device: cpu
data: {train: TEXT, validation: TEXT, length: 64}
training: {tokens: 6000, learning_rate: 3.0e-3, batch: 8}
"""
FEW = ("--tokens", 1024, "--length", 64, "--batch", 4, "--device", "cpu")


def test_pretrain_adapt_merge_eval(tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("TEXT", str(TEXT)))
    run("pretrain", tmp_path / "recipe.yaml", "--run", tmp_path / "run")
    model = Checkpoint.open(tmp_path / "run/model")
    assert model.tensor(CORRECTION).dtype == torch.float32
    assert json.loads((tmp_path / "run/model/training.json").read_text())["train_loss"] < 8
    run("adapt", model.path, "--run", tmp_path / "adapt", "--data", TEXT, "--rank", 2, *FEW)
    adapter = tmp_path / "adapt/adapter/adapter.safetensors"
    run("merge", model.path, adapter, "--out", tmp_path / "merged")
    capsys.readouterr()
    run(
        "eval",
        tmp_path / "merged",
        "--parent",
        model.path,
        "--run",
        tmp_path / "eval",
        *FAST["eval"],
    )
    rows = json.loads((tmp_path / "eval/eval.json").read_text())["rows"]
    losses = [row["loss"] for row in rows]
    assert losses[1] < losses[0]
    written = [
        json.loads((tmp_path / "run/model/training.json").read_text()),
        RunDir(tmp_path / "adapt").stage(Adapted).json(),
    ]
    for facts in written:
        assert facts["expert_load"].keys() == {"1"}
        assert 1 <= facts["expert_load"]["1"]["max_over_mean"] <= 4


def test_distill_leaves_routers_unless_asked(tmp_path):
    save(shaken(tiny("MEE-")), tmp_path / "parent")
    folder = ("--run", tmp_path / "run")
    run("score", tmp_path / "parent", *folder, *FAST["score"], "--estimator", "random")
    run("search", *folder, *FAST["search"], "--top", 1)
    few = [*folder, *FAST["distill"]]
    found = []
    for which in ("auto", "all"):
        run("distill", *few, "--train", which)
        student = Checkpoint.open(tmp_path / "run/student")
        (cut,) = (Checkpoint.open(path) for path in (tmp_path / "run/candidates").iterdir())
        names = [t.name for t in cut.architecture.tensors() if "router." in t.name]
        found.append({n for n in names if not torch.equal(student.tensor(n), cut.tensor(n))})
        assert not torch.equal(student.tensor("head.weight"), cut.tensor("head.weight"))
    assert found == [set(), {n for n in names if n.endswith(".weight")}]
    load = RunDir(tmp_path / "run").stage(Distilled).expert_load
    experts = {str(i): b.experts for i, b in enumerate(cut.architecture.blocks) if b.routers}
    assert load.keys() == experts.keys()
    assert all(1 <= found.max_over_mean <= experts[i] for i, found in load.items())


def test_a_distillation_goes_on_bit_for_bit(tmp_path):
    save(shaken(tiny("ME*", vocab=61), 0), tmp_path / "student", tokenizer=False)
    save(shaken(tiny("ME*-", vocab=61), 1), tmp_path / "teacher", tokenizer=False)
    distil(tmp_path, alone(CPU), "whole")
    distil(tmp_path, alone(CPU), "broken", stop_after=3)
    distil(tmp_path, alone(CPU), "broken")
    whole, broken = ((tmp_path / f"{n}.safetensors").read_bytes() for n in ("whole", "broken"))
    assert whole == broken
    whole, broken = (load_log(tmp_path / n / LOG) for n in ("whole", "broken"))
    assert [row | {"seconds": 0} for row in whole] == [row | {"seconds": 0} for row in broken]


def test_the_correction_stays_fp32(tmp_path):
    """A choice hangs on digits that BF16 has not."""
    checkpoint = Checkpoint.open(save(shaken(tiny("-E")), tmp_path / "model", tokenizer=False))
    want = checkpoint.tensor(CORRECTION)
    assert not torch.equal(want, want.bfloat16().float())
    kernels = choose(CPU)
    stored = fp8_model(
        checkpoint.architecture, checkpoint, device=CPU, dtype=torch.bfloat16, kernels=kernels
    )
    for model in (
        load_model(checkpoint, dtype=torch.bfloat16),
        load_model(checkpoint).bfloat16(),
        load_model(checkpoint).half().float(),
        stored,
    ):
        assert torch.equal(model.get_buffer(CORRECTION), want)
    assert (
        init_model(checkpoint.architecture, 0, dtype=torch.bfloat16).get_buffer(CORRECTION).dtype
        == torch.float32
    )
    assert load_model(checkpoint).to("meta").get_buffer(CORRECTION).is_meta


def test_what_waits_for_the_device_is_not_captured(monkeypatch):
    """On CUDA experts that run one after another ask it for their sizes: so does a teacher's."""
    monkeypatch.setattr(grouped, "why_never", lambda device: "")
    for sizes, kernels, whole in (
        ({}, "auto", True),
        ({"hidden": 36, "heads": 9, "groups": 1}, "auto", False),
        ({}, "reference", False),
    ):
        model = HybridLM(tiny("ME", **sizes), kernels=choose(CPU, kernels))
        assert model.capturable == whole
        assert distillation(model).capturable == whole
        model.blocks[1].parallel = object()  # divided experts
        assert not model.capturable
        assert HybridLM(tiny("M", **sizes), kernels=choose(CPU, kernels)).capturable
    assert next_token.capturable


def trained(folder, model, **settings):
    """(the only row of the log, the names of what has moved)."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    more = {"tokens": STEP, "learning_rate": 1e-3, "batch": 6, **settings}
    train(model, next_token, text(), Training(**more), folder, identity="x")
    (row,) = load_log(folder / LOG)
    return row, {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}


def test_only_the_weights_that_are_named_are_trained(tmp_path):
    model = shaken(tiny("MED*", vocab=61))
    every, router = {name for name, _ in model.named_parameters()}, {"blocks.1.router.weight"}
    norms = {f"{name}.weight" for name, m in model.named_modules() if isinstance(m, RMSNorm)}
    norms |= {name for name in every if "norm" in name}
    wanted = {"all": every, "all-but-routers": every - router, "norms": norms, "routers": router}
    for which, names in wanted.items():
        each = deepcopy(model)
        choose_trained(each, which)
        _, moved = trained(tmp_path / which, each)
        assert moved == names
        (state,) = (tmp_path / which / "state").iterdir()
        saved = json.loads((state / "state.json").read_text())["tensors"]
        assert {n.removeprefix("exp_avg.") for n in saved if n.startswith("exp_avg.")} == names
        size = sum(p.numel() for name, p in each.named_parameters() if name in names)
        assert trained_count(each.architecture, which) == size
    with pytest.raises(UserError, match="no routers"):
        choose_trained(shaken(tiny("M*", vocab=61)), "routers")


@pytest.mark.parametrize("checkpointing", ["off", "on"])
def test_load_of_experts_is_logged(tmp_path, checkpointing):
    """That of one step: of the model before it."""
    model = shaken(tiny("ME*E", vocab=61))
    model.get_buffer(CORRECTION)[2] = -10.0  # never chosen
    tokens = torch.from_numpy(text().stream(range(6), 0)[0])
    inputs, handles = {}, []
    for i in (1, 3):
        handles.append(model.blocks[i].watch("branch_input", partial(inputs.__setitem__, i)))
    with torch.no_grad():
        model(tokens)
    for handle in handles:
        handle.remove()
    before = {i: model.blocks[i].router.weight.detach().clone() for i in inputs}
    row, _ = trained(tmp_path, model, activation_checkpointing=checkpointing)
    for i, x in inputs.items():
        router = model.blocks[i].router
        choice = torch.sigmoid(x.flatten(0, 1) @ before[i].t()) + router.correction
        given = choice.argsort(-1)[:, -2:].flatten().bincount(minlength=4)
        assert given.sum() == 2 * STEP
        assert row[f"expert_load.{i}"] == pytest.approx(
            4 * given.max().item() / given.sum().item(), rel=1e-5
        )
        assert row[f"unused_experts.{i}"] == (given == 0).sum() == (i == 1)


def test_counting_begins_anew_with_each_row():
    model = shaken(tiny("ME", vocab=61))
    with expert_load(model, alone(CPU)) as load:
        model(torch.arange(30)[None])
        assert sum(load.given()[0]) == 30 * 2
        assert load.row()["expert_load.1"] >= 1
        assert sum(load.given()[0]) == 0
    model(torch.arange(30)[None])
    assert sum(load.given()[0]) == 0, "no longer counted"


def test_routers_are_trained_where_asked():
    """Beside an adapter they are not: its file has no place for them."""
    adapter, models = AdapterSettings(kind="lora"), [tiny("ME")]
    for which in ("auto", "all-but-routers"):
        check_adapter(Training(train=which), adapter, models)
    for which in ("all", "norms", "routers"):
        check_adapter(Training(train=which), AdapterSettings(kind=""), models)
        with pytest.raises(UserError) as caught:
            check_adapter(Training(train=which), adapter, models)
        assert f"training.train {which}, adapter lora" in caught.value.got


def test_weight_decay_reaches_the_stacks():
    model = init_model(tiny("E"), 0)
    decayed, others = make_optimizer(model, Training(weight_decay=0.1)).param_groups
    names = {p: name.removeprefix("blocks.0.") for name, p in model.named_parameters()}
    stacks = {"experts.up_proj", "experts.down_proj"}
    shared = {"shared_up_proj.weight", "shared_down_proj.weight"}
    top = {"embeddings.weight", "head.weight"}
    assert {names[p] for p in decayed["params"]} == stacks | shared | top
    assert {names[p] for p in others["params"]} == {
        "norm.weight",
        "router.weight",
        "final_norm.weight",
    }
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
