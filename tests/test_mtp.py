"""Multi-token prediction of Nemotron 3, by hand with the hub's names: read, kept, cut, written and
counted; said where config and weights contradict each other.
"""

import json

import pytest
import torch
from family_models import FORMS, theirs_of, unclamped
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from minipuzzle.arch import Selection
from minipuzzle.checkpoint import Checkpoint, read_config
from minipuzzle.errors import UserError
from minipuzzle.families import nemotron_h
from minipuzzle.memory import Workload
from minipuzzle.model import load_model
from minipuzzle.report.inspect import inspect_json, inspect_view
from minipuzzle.runs.distill import write_student
from minipuzzle.surgery import cut, verify_logits

FIELDS = {**FORMS["nemotron_h"]["latent experts in groups, dense too"], "mlp_bias": False}
H, HEADS, KV, DIM, EXPERTS, WIDTH, SHARED, LATENT = 32, 4, 2, 8, 8, 24, 40, 16
SHAPES = {  # of a step "*E", by name in its two layers: (shape, dimensions of the hidden size)
    "0.enorm.weight": ((H,), (0,)),
    "0.hnorm.weight": ((H,), (0,)),
    "0.eh_proj.weight": ((H, 2 * H), (0, 1)),
    "0.norm.weight": ((H,), (0,)),
    "0.mixer.q_proj.weight": ((HEADS * DIM, H), (1,)),
    "0.mixer.k_proj.weight": ((KV * DIM, H), (1,)),
    "0.mixer.v_proj.weight": ((KV * DIM, H), (1,)),
    "0.mixer.o_proj.weight": ((H, HEADS * DIM), (0,)),
    "1.norm.weight": ((H,), (0,)),
    "1.mixer.gate.weight": ((EXPERTS, H), (1,)),
    "1.mixer.gate.e_score_correction_bias": ((EXPERTS,), ()),
    **{f"1.mixer.experts.{e}.up_proj.weight": ((WIDTH, LATENT), ()) for e in range(EXPERTS)},
    **{f"1.mixer.experts.{e}.down_proj.weight": ((LATENT, WIDTH), ()) for e in range(EXPERTS)},
    "1.mixer.fc1_latent_proj.weight": ((LATENT, H), (1,)),
    "1.mixer.fc2_latent_proj.weight": ((H, LATENT), (0,)),
    "1.mixer.shared_experts.up_proj.weight": ((SHARED, H), (1,)),
    "1.mixer.shared_experts.down_proj.weight": ((H, SHARED), (0,)),
    "1.final_layernorm.weight": ((H,), (0,)),
}


def named(step, name):
    layer, rest = name.split(".", 1)
    return f"mtp.layers.{2 * step + int(layer)}.{rest}"


def predicting(folder, steps=1, **fields):
    """A checkpoint with that many steps of "*E"; what its file holds of them."""
    theirs_of("nemotron_h", FIELDS).save_pretrained(folder)
    said = json.loads((folder / "config.json").read_text())
    said.pop("mtp_layers_block_type", None)
    said |= {"num_nextn_predict_layers": steps, "mtp_hybrid_override_pattern": "*E", **fields}
    (folder / "config.json").write_text(json.dumps(said))
    g = torch.Generator().manual_seed(4)
    added = {
        named(step, name): torch.randn(*shape, generator=g)
        for step in range(steps)
        for name, (shape, _) in SHAPES.items()
    }
    rewritten(folder, lambda held: held | added)
    return added


def rewritten(folder, change):
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def held(folder, prefix="mtp."):
    tensors = load_file(folder / "model.safetensors")
    return {name: value for name, value in tensors.items() if name.startswith(prefix)}


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def same(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("steps", [1, 2])
def test_bit_for_bit(steps, tmp_path):
    predicting(tmp_path / "parent", steps)
    parent = Checkpoint.open(tmp_path / "parent")
    arch = parent.architecture
    assert [[b.letter for b in step] for step in arch.mtp] == steps * [["*", "E"]]
    (note,) = parent.notes
    assert f"({arch.mtp_parameters:,} parameters) is kept" in note
    same(
        held(cut(parent, Selection.everything(arch), tmp_path / "again").path, ""),
        held(parent.path, ""),
    )
    said = config_of(tmp_path / "again")
    assert said["num_nextn_predict_layers"] == steps
    assert said["mtp_hybrid_override_pattern"] == "*E"
    assert "mtp_block_configs" not in said
    counted = {n: v.numel() for n, v in held(parent.path).items() if "correction" not in n}
    assert arch.mtp_parameters == sum(counted.values())
    loaded = unclamped(AutoModelForCausalLM.from_pretrained(tmp_path / "again").eval())
    model = load_model(parent)
    assert sum(p.numel() for p in loaded.parameters()) == arch.parameters == parent.parameters
    tokens = torch.randint(0, 120, (1, 20), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert (loaded(tokens, use_cache=False).logits - model(tokens)).abs().max() < 1e-4


@pytest.mark.parametrize("steps", [1, 2])
def test_cut_with_the_hidden_size(steps, tmp_path):
    """Experts, widths and blocks that go from the model stay in the steps: only the hidden size
    goes from both.
    """
    added = predicting(tmp_path / "parent", steps)
    parent = Checkpoint.open(tmp_path / "parent")
    hidden = tuple(i for i in range(H) if i % 4 in (0, 3))
    blocks = [
        {"experts": (0, 1, 2, 4, 6, 7)} if b.letter == "E" else {}
        for b in parent.architecture.blocks
    ]
    selection = Selection(blocks=(None, *blocks[1:]), hidden=hidden)
    student = cut(parent, selection, tmp_path / "student")
    want = {}
    for step in range(steps):
        for name, (_, dims) in SHAPES.items():
            value = added[named(step, name)]
            for dim in dims:
                twice = value.shape[dim] == 2 * H
                rows = torch.tensor([*hidden, *(H + i for i in hidden)] if twice else hidden)
                value = value.index_select(dim, rows)
            want[named(step, name)] = value
    same(held(student.path), want)
    said = config_of(student.path)
    assert (said["model_type"], said["n_routed_experts"]) == ("nemotron_h", 6)
    assert [b["block_type"] for b in said["mtp_block_configs"]] == ["attention", "moe"] * steps
    assert said["mtp_block_configs"][1]["n_routed_experts"] == EXPERTS
    assert Checkpoint.open(student.path).architecture.mtp == parent.architecture.at_hidden(16).mtp
    tokens = torch.randint(0, 120, (2, 20), generator=torch.Generator().manual_seed(1))
    verify_logits(parent, student, selection, tokens.numpy(), torch.device("cpu"))
    loaded = unclamped(AutoModelForCausalLM.from_pretrained(student.path).eval())
    with torch.no_grad():
        got = loaded(tokens, use_cache=False).logits
        assert (got - load_model(student)(tokens)).abs().max() < 1e-4


def test_the_hidden_size_alone_needs_no_list(tmp_path):
    predicting(tmp_path / "parent")
    parent = Checkpoint.open(tmp_path / "parent")
    whole = Selection.everything(parent.architecture)
    student = cut(parent, Selection(blocks=whole.blocks, hidden=tuple(range(16))), tmp_path / "cut")
    assert "mtp_block_configs" not in config_of(student.path)
    assert student.architecture.mtp[0][1].hidden == 16


def test_steps_of_a_puzzle_are_listed_and_stacks_stay_stacks(tmp_path):
    added = predicting(tmp_path / "parent")
    ours = {}
    for name, value in added.items():
        head, _, tail = name.partition(".experts.")
        number, _, rest = tail.partition(".")
        if number.isdigit():
            stack = f"{head}.experts.{rest.removesuffix('.weight')}"
            ours.setdefault(stack, []).append(value)
    stacks = {name: torch.stack(values) for name, values in ours.items()}

    def stacked(tensors):
        singles = {n for n in tensors if n.startswith("mtp.") and ".experts." in n}
        model = {n for n in tensors if ".mixer.experts." in n} - singles
        found = {n: v for n, v in tensors.items() if n not in singles | model}
        for base in sorted({n.partition(".experts.")[0] for n in model}):
            for part in ("up_proj", "down_proj"):
                rows = [tensors[f"{base}.experts.{e}.{part}.weight"] for e in range(EXPERTS)]
                found[f"{base}.experts.{part}"] = torch.stack(rows)
        return found | stacks

    rewritten(tmp_path / "parent", stacked)
    parent = Checkpoint.open(tmp_path / "parent")
    blocks = [{} for _ in parent.architecture.blocks]
    blocks[parent.architecture.indices("moe")[0]] = {
        "top_k": (0,),
        "shared_width": tuple(range(16)),
    }
    student = cut(parent, Selection(blocks=tuple(blocks)), tmp_path / "student")
    said = config_of(student.path)
    assert said["model_type"] == "nemotron_h_puzzle"
    assert said["mtp_block_configs"][1]["moe_shared_expert_intermediate_size"] == SHARED
    same({n: v for n, v in held(student.path).items() if ".experts." in n}, stacks)
    assert Checkpoint.open(student.path).architecture == student.architecture
    assert student.architecture.mtp == parent.architecture.mtp


def test_training_leaves_them_as_they_are(tmp_path):
    added = predicting(tmp_path / "parent")
    student = Checkpoint.open(tmp_path / "parent")
    model = load_model(student)
    state = {name: value + 1 for name, value in model.state_dict().items()}
    write_student(student, state.__getitem__, tmp_path / "trained")
    same(held(tmp_path / "trained"), added)
    assert not torch.equal(
        Checkpoint.open(tmp_path / "trained").tensor("head.weight"), student.tensor("head.weight")
    )


def test_config_and_weights_that_contradict_each_other(tmp_path):
    predicting(tmp_path / "a")
    rewritten(tmp_path / "a", lambda h: {n: v for n, v in h.items() if not n.startswith("mtp.")})
    bare = Checkpoint.open(tmp_path / "a")
    assert bare.architecture.mtp == ()
    assert "promises multi-token prediction" in bare.notes[0]
    whole = Selection.everything(bare.architecture)
    assert config_of(cut(bare, whole, tmp_path / "b").path)["num_nextn_predict_layers"] == 0
    predicting(tmp_path / "c", num_nextn_predict_layers=0)
    (note,) = Checkpoint.open(tmp_path / "c").notes
    assert f"{len(SHAPES)} tensors of multi-token prediction" in note
    assert not held(cut(Checkpoint.open(tmp_path / "c"), whole, tmp_path / "d").path)
    predicting(tmp_path / "e")
    rewritten(tmp_path / "e", lambda h: {n: v for n, v in h.items() if "hnorm" not in n})
    with pytest.raises(UserError, match=r"mtp.layers.0.hnorm.weight is missing"):
        Checkpoint.open(tmp_path / "e")
    rewritten(tmp_path / "e", lambda h: h | {"mtp.layers.0.hnorm.weight": torch.ones(H)})
    rewritten(tmp_path / "e", lambda h: h | {"mtp.layers.2.norm.weight": torch.ones(H)})
    with pytest.raises(UserError, match="no place for"):
        Checkpoint.open(tmp_path / "e")


def test_inspect_shows_them_beside_the_model(tmp_path):
    predicting(tmp_path)
    arch = read_config(tmp_path)[1]
    work = Workload(context=64)
    assert inspect_json(arch, work)["mtp_parameters"] == arch.mtp_parameters
    assert "mtp_parameters" not in inspect_json(nemotron_h.architecture(FIELDS), work)
    said = [str(part) for part in inspect_view("model", arch, work).renderables]
    assert any("1 step of *E" in text and "neither run nor trained" in text for text in said)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"mtp_hybrid_override_pattern": "*X"}, ["'X'", "position 1 of mtp_hybrid"]),
        ({"mtp_layers_block_type": ["moe", "attention"]}, ["contradict each other", "position 0"]),
        ({"mtp_block_configs": [{}]}, ["1 entries", "2"]),
        ({"mtp_block_configs": ["x", "y"]}, ["list of objects"]),
        ({"mtp_block_configs": [{}, {"num_experts_per_tok": 9}]}, ["9 chosen experts"]),
        ({"num_nextn_predict_layers": -1}, ["num_nextn_predict_layers"]),
        ({"num_nextn_predict_layers": 10**6}, ["num_nextn_predict_layers", "at most 100"]),
    ],
)
def test_refused_fields(fields, says):
    base = {**FIELDS, "num_nextn_predict_layers": 1, "mtp_hybrid_override_pattern": "*E"}
    assert len(nemotron_h.architecture(base).mtp) == 1
    with pytest.raises(UserError) as caught:
        nemotron_h.architecture({**base, **fields})
    for words in says:
        assert words in str(caught.value)


def test_where_nothing_says_the_blocks_they_are_transformers_default():
    base = {**FIELDS, "num_nextn_predict_layers": 1}
    want = nemotron_h.architecture({**base, "mtp_layers_block_type": ["full_attention", "moe"]})
    listed = [{"block_type": "attention"}, {"block_type": "moe"}]
    assert nemotron_h.architecture(base) == want
    assert nemotron_h.architecture({**base, "mtp_block_configs": listed}) == want
    dense = FORMS["nemotron_h"]["plain"]
    assert nemotron_h.architecture({**dense, "num_nextn_predict_layers": 1}).mtp == ()
