"""Files that hold experts one by one against transformers' save_pretrained and from_pretrained: bit
for bit, both ways, in one file and in shards.
"""

import json

import pytest
import torch
from family_models import FORMS, every_form, theirs_of
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from minipuzzle import families
from minipuzzle.arch import Selection
from minipuzzle.checkpoint import Checkpoint, write_checkpoint
from minipuzzle.families import Parts
from minipuzzle.surgery import cut


def files(folder):
    return {
        name: value
        for file in folder.glob("*.safetensors")
        for name, value in load_file(file).items()
    }


def same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value.dtype == other[name].dtype, name
        assert torch.equal(value, other[name]), name


def in_pieces(family, form):
    """Whether the files of a form hold experts one by one."""
    module = families.find(family)
    fields = {"model_type": family, **FORMS[family][form]}
    names = module.names(module.architecture(fields))
    first = [accepted[0] for accepted in names.values()]
    return any(isinstance(name, Parts) and name.stacked for name in first)


@pytest.fixture(
    scope="module",
    params=[pair for pair in every_form() if in_pieces(*pair)],
    ids=lambda param: ": ".join(param),
)
def theirs(request, tmp_path_factory):
    """(a folder of save_pretrained in BF16, the model)."""
    family, form = request.param
    first, folder = tmp_path_factory.mktemp("fp32"), tmp_path_factory.mktemp("theirs")
    theirs_of(family, FORMS[family][form]).save_pretrained(first)
    model = AutoModelForCausalLM.from_pretrained(first, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    return folder, model


def written(source, folder, shard_bytes=5_000_000_000):
    write_checkpoint(
        folder,
        source.architecture,
        source.tensor,
        source=source,
        config=source.family.config(source.architecture, source.config),
        shard_bytes=shard_bytes,
    )
    return Checkpoint.open(folder)


def loaded(folder):
    model, said = AutoModelForCausalLM.from_pretrained(
        folder, dtype="auto", output_loading_info=True
    )
    assert not any(said.values())
    return model.state_dict()


@pytest.mark.parametrize("shard_bytes", [5_000_000_000, 10_000])
def test_ours_are_theirs(theirs, shard_bytes, tmp_path):
    folder, model = theirs
    source = Checkpoint.open(folder)
    assert source.dtype == "BF16"
    again = written(source, tmp_path / "ours", shard_bytes)
    assert len(list(again.path.glob("*.safetensors"))) > 1 or shard_bytes > 10_000
    same(files(again.path), files(folder))
    same(loaded(again.path), model.state_dict())
    assert (again.bytes, again.parameters) == (source.bytes, source.parameters)
    assert source.parameters == sum(p.numel() for p in model.parameters())


def test_their_memory_is_read_and_written_as_stacks(theirs, tmp_path):
    folder, model = theirs
    memory = tmp_path / "memory"
    memory.mkdir()
    save_file(
        {name: value.clone() for name, value in model.state_dict().items()},
        memory / "model.safetensors",
    )
    (memory / "config.json").write_bytes((folder / "config.json").read_bytes())
    stacks, singles = Checkpoint.open(memory), Checkpoint.open(folder)
    for tensor in stacks.architecture.tensors():
        assert torch.equal(stacks.tensor(tensor.name), singles.tensor(tensor.name))
    again = written(stacks, tmp_path / "ours")
    experts = {n: v.ndim for n, v in files(again.path).items() if ".experts." in n}
    assert set(experts.values()) == {3}
    same(loaded(again.path), model.state_dict())


def test_fewer_experts_are_counted_from_0(theirs, tmp_path):
    folder, _ = theirs
    parent = Checkpoint.open(folder)
    kept = []
    for block in parent.architecture.blocks:
        if block.kind != "moe":
            kept.append({})
            continue
        experts = tuple(e for e in range(block.experts) if e % 4 != 1)
        kept.append({"experts": experts, "top_k": tuple(range(min(block.top_k, len(experts))))})
    student = cut(parent, Selection(blocks=tuple(kept)), tmp_path / "student")
    said = json.loads((student.path / "config.json").read_text())
    assert said["model_type"] == parent.config["model_type"]
    left = next(b.experts for b in student.architecture.blocks if b.kind == "moe")
    stacks = [v for n, v in loaded(student.path).items() if v.ndim == 3 and ".experts." in n]
    assert stacks
    assert {len(stack) for stack in stacks} == {left}
    written = files(student.path)
    assert [n for n in written if f".experts.{left - 1}." in n]
    assert not [n for n in written if f".experts.{left}." in n]
