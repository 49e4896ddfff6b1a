"""A student that is trained with quantised weights: what it computes with is what its file means
to compressed-tensors, its gradients are autograd's through a straight-through estimator.
"""

import json
import shutil
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import pytest
import torch
from checkpoint_folders import TOKENS, made, say
from conftest import save, shaken, tiny
from helpers import TEXT, heard, run
from safetensors.torch import load_file, save_file
from searched_runs import Died, dying_at, dying_at_step
from test_distill import text_blocks
from test_quantize import plain
from torch.func import functional_call
from torch.nn.functional import cross_entropy

import minipuzzle as mp
from minipuzzle import pipeline
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.checkpoint.mix import CHOSEN
from minipuzzle.errors import UserError
from minipuzzle.export.compressed import Encoder
from minipuzzle.export.served import served
from minipuzzle.memory.formats import format_of
from minipuzzle.metrics import measure
from minipuzzle.model import load_model
from minipuzzle.ranks import alone
from minipuzzle.records import Quantised
from minipuzzle.rundir import RunDir
from minipuzzle.runs.job import Job
from minipuzzle.runs.qad import write_quantised
from minipuzzle.runs.quantize import run_quantize
from minipuzzle.settings import AdapterSettings, Data, DistillSettings, Training
from minipuzzle.training import loop, next_token, train

FORMATS = ("fp8", "nvfp4", "mxfp4", "int4")
DATA = Data(train=str(TEXT), validation=str(TEXT), length=64)


def hybrid(seed=0):
    """A model of every kind, with columns that groups of 32 divide."""
    model = tiny("M-*E")
    experts = replace(model.blocks[3], expert_width=32, shared_width=32)
    return shaken(replace(model, blocks=(*model.blocks[:3], experts)), seed)


@pytest.fixture
def student(tmp_path):
    save(hybrid().bfloat16(), tmp_path / "student")
    return tmp_path / "student"


def meant(source, name, folder):
    """The weights that compressed-tensors reads out of what ``quantize`` makes of ``source``."""
    run_quantize(source, folder / "coded", name, 32)
    plain(source, folder / "coded", folder / "plain")
    return load_model(Checkpoint.open(folder / "plain"))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("family", ["nemotron_h", "qwen3_moe"])
def test_the_forward_pass_has_the_weights_of_the_file(family, name, tmp_path, student):
    if family != "nemotron_h":
        student = made(tmp_path / "s", family, moe_intermediate_size=32, dtype="bfloat16")
    checkpoint = Checkpoint.open(student)
    assert checkpoint.dtype == "BF16"
    matrices = {
        f"blocks.{i}.{n}" for i, b in enumerate(checkpoint.architecture.blocks) for n in b.matrices
    }
    model, format = load_model(checkpoint), format_of(name, 32)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # as training leaves them: FP32 numbers that BF16 does not have
        for matrix in matrices:
            weight = model.get_parameter(matrix)
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    own = {n: p.clone() for n, p in model.named_parameters()}
    write_quantised(checkpoint, Encoder(checkpoint, format), model, tmp_path / "coded")
    plain(student, tmp_path / "coded", tmp_path / "plain")
    file = load_model(Checkpoint.open(tmp_path / "plain"))
    with torch.no_grad(), served(model, Encoder(checkpoint, format)):
        inside = dict(model.named_parameters())
        changed = {n for n, p in own.items() if not torch.equal(p, inside[n])}
        for n, p in file.named_parameters():
            assert torch.equal(p, inside[n]), n
        assert torch.equal(model(TOKENS), file(TOKENS))
    assert changed == matrices
    assert all(torch.equal(p, own[n]) for n, p in model.named_parameters())


@pytest.mark.parametrize("name", FORMATS)
def test_gradients_are_autograds_straight_through(name, student, tmp_path):
    model, file = load_model(Checkpoint.open(student)), meant(student, name, tmp_path)
    own, coded = dict(model.named_parameters()), dict(file.named_parameters())
    through = {n: w + (coded[n] - w).detach() for n, w in own.items()}

    def loss(logits):
        return cross_entropy(logits.flatten(0, 1), TOKENS.flatten())

    wanted = torch.autograd.grad(loss(functional_call(model, through, TOKENS)), own.values())
    whole = torch.autograd.grad(loss(model(TOKENS)), own.values())
    with served(model, Encoder(Checkpoint.open(student), format_of(name, 32))):
        loss(model(TOKENS)).backward()
    for (n, w), grad in zip(own.items(), wanted, strict=True):
        assert (w.grad - grad).abs().max() <= 1e-4 * grad.abs().max(), n
    assert any(
        (a - b).abs().max() > 1e-2 * b.abs().max() for a, b in zip(whole, wanted, strict=True)
    )


def test_a_model_has_its_weights_again_after_an_error(student, monkeypatch):
    model = load_model(Checkpoint.open(student))
    own = {n: p.clone() for n, p in model.named_parameters()}
    encoder = Encoder(Checkpoint.open(student), format_of("fp8", 128))
    with pytest.raises(Died), served(model, encoder):
        raise Died
    rounded = Encoder.rounded
    monkeypatch.setattr(Encoder, "rounded", dying_at(4, rounded))
    with pytest.raises(Died), served(model, encoder):
        pass
    assert all(torch.equal(p, own[n]) for n, p in model.named_parameters())


def test_the_result_has_the_formats_that_a_search_chose(tmp_path, student):
    """The bytes and codes of ``quantize``, of what was trained; refused where none chose."""
    directory = run_of(tmp_path, student)
    words = ("distill", "--run", directory, *WORDS, *LONG, "--student-precision", "auto")
    with pytest.raises(UserError, match="No search chose"):
        qad(directory, "auto")
    mix = ["nvfp4+fp8", "int4-32", "bf16+nvfp4", "fp8"]
    for folder in (student, directory / "student"):
        say(folder, **{CHOSEN: mix})
    run(*words)
    run_quantize(student, tmp_path / "coded", "auto", 32)
    made, wanted = directory / "quantised", tmp_path / "coded"
    forms = [
        {name: (v.dtype, v.shape) for name, v in load_file(f / "model.safetensors").items()}
        for f in (made, wanted)
    ]
    assert forms[0] == forms[1]
    said = [json.loads((f / "config.json").read_text()) for f in (made, wanted)]
    assert said[0]["quantization_config"] == said[1]["quantization_config"]
    assert CHOSEN not in said[0]
    done = RunDir(directory).stage(Quantised)
    assert done.validation_loss < done.after_validation_loss


def run_of(folder, student):
    """A run directory whose distillation has ended."""
    save(hybrid(1).bfloat16(), folder / "parent")
    Job(RunDir(folder / "run"), checkpoint=folder / "parent", data=DATA, device="cpu")
    shutil.copytree(student, folder / "run" / "student")
    return folder / "run"


WORDS = ("--data", TEXT, "--validation", TEXT, "--length", 64, "--device", "cpu", "--batch", 4)
LONG = ("--tokens", 64 * 4 * 6, "--learning-rate", "1e-3")


def test_the_result_is_the_model_that_was_trained(tmp_path, student):
    directory = run_of(tmp_path, student)
    words = ("distill", "--run", directory, *WORDS, *LONG, "--student-precision", "nvfp4")
    with heard() as said:
        run(*words)
    done = RunDir(directory).stage(Quantised)
    assert any(f"{done.after_validation_loss:.4f} quantised afterwards" in line for line in said)
    before, after = load_model(Checkpoint.open(student)), meant(student, "nvfp4", tmp_path)
    plain(student, directory / "quantised", tmp_path / "trained")
    # everything that is not a matrix has been trained too, and is in the file as it is
    values = load_file(directory / "quantised" / "model.safetensors")
    kept = load_file(tmp_path / "trained" / "model.safetensors")
    kept |= {name: values[name] for name in values if name in kept}
    save_file(kept, tmp_path / "trained" / "model.safetensors", metadata={"format": "pt"})
    trained = load_model(Checkpoint.open(tmp_path / "trained"))
    job = Job(RunDir(directory), checkpoint=None, data=DATA, device="cpu")
    losses = [measure(m, job.validation("search")).loss for m in (before, after, trained)]
    assert losses[:2] == pytest.approx([done.whole_validation_loss, done.after_validation_loss])
    # the last one was measured before norms and the rest were rounded to BF16
    assert losses[2] == pytest.approx(done.validation_loss, rel=1e-3)
    assert losses[2] < losses[1]
    assert done.bytes == sum(value.nbytes for value in values.values())
    with heard() as said:
        run(*words)
    assert any("nothing changed" in line for line in said)
    assert not list(directory.glob("qad/*/state"))
    assert load_file(directory / "student" / "model.safetensors").keys() == kept.keys()


def test_a_step_moves_the_models_own_weights(student, tmp_path):
    """AdamW's first step is a sign: of the gradient at the quantised weights, from the own ones."""
    checkpoint = Checkpoint.open(student)
    model, encoder = load_model(checkpoint), Encoder(checkpoint, format_of("int4", 32))
    blocks = text_blocks(vocab=checkpoint.architecture.vocab_size, blocks=4)
    settings = Training(tokens=1, learning_rate=1e-3, batch=4, weight_decay=0.0, warmup=0.0)
    own = {n: p.detach().clone() for n, p in model.named_parameters()}
    coded = dict(meant(student, "int4", tmp_path).named_parameters())
    tokens = torch.from_numpy(blocks.stream(range(4), settings.seed)[0])

    def signs(weights):
        made = {n: w + (weights[n] - w).detach() for n, w in model.named_parameters()}
        logits = functional_call(model, made, tokens)[:, :-1]
        loss = cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        found = torch.autograd.grad(loss, list(model.parameters()))
        return dict(zip(own, found, strict=True))

    wanted, whole = signs(coded), signs(own)
    options = {"identity": "x", "served": partial(served, model, encoder)}
    train(model, next_token, blocks, settings, tmp_path / "training", **options)
    flipped = 0
    for name, weight in model.named_parameters():
        sure = wanted[name].abs() > 1e-5
        expected = own[name] - 1e-3 * wanted[name].sign()
        assert (weight - expected)[sure].abs().max() < 2e-5, name
        flipped += int((wanted[name].sign() != whole[name].sign())[sure].sum())
    assert flipped > 100  # gradients at the whole weights would have gone elsewhere


def test_a_killed_run_goes_on_bit_equal(tmp_path, student, monkeypatch):
    words = ("distill", *WORDS, *LONG, "--student-precision", "fp8")
    monkeypatch.setattr(loop.Pace, "due", lambda *_: True)
    for folder in ("whole", "broken"):
        directory = run_of(tmp_path / folder, student)
        if folder == "broken":
            with monkeypatch.context() as patch:
                patch.setattr(loop._Run, "_step", dying_at_step(4))
                with pytest.raises(Died):
                    qad(directory, "fp8")
        run(*words, "--run", directory)
    files = [tmp_path / f / "run/quantised/model.safetensors" for f in ("whole", "broken")]
    assert files[0].read_bytes() == files[1].read_bytes()


def qad(directory, precision, **changes):
    training = Training(tokens=64 * 4 * 6, batch=4, learning_rate=1e-3)
    settings = DistillSettings(student_precision=precision, training=training, **changes)
    return mp.qad(mp.load(run=directory, data=DATA, device="cpu"), settings)


@pytest.mark.parametrize(
    ("precision", "changes", "words"),
    [
        ("int4", {}, "multiples of 128"),
        ("fp8", {"adapter": AdapterSettings(kind="lora")}, "adapter"),
    ],
)
def test_refused(precision, changes, words, tmp_path, student):
    directory = run_of(tmp_path, student)
    with pytest.raises(UserError, match=words):
        qad(directory, precision, **changes)
    assert not (directory / "quantised").exists()


def test_without_a_student_or_with_several_processes(tmp_path, student, monkeypatch):
    directory = run_of(tmp_path, student)
    with monkeypatch.context() as patch:
        patch.setattr("minipuzzle.runs.qad.ranks", lambda device: nullcontext(two(device)))
        with pytest.raises(UserError, match="one process"):
            qad(directory, "fp8")
    shutil.rmtree(directory / "student")
    with pytest.raises(UserError, match="no recovered student"):
        qad(directory, "fp8")
    job = mp.load(run=directory, data=DATA, device="cpu")
    with pytest.raises(ValueError, match=r"mp\.qad"):
        mp.distill(job, DistillSettings(student_precision="fp8"))


def two(device):
    return replace(alone(device), world=2)


@pytest.mark.parametrize("precision", ["bf16", "nvfp4"])
def test_a_recipe_distils_before_it_quantises(precision, monkeypatch):
    done = []
    for stage in ("run_score", "run_search", "run_prune", "run_eval"):
        monkeypatch.setattr(pipeline, stage, lambda *_, **__: [])
    for stage in ("run_distill", "run_qad"):
        monkeypatch.setattr(
            pipeline, stage, lambda job, s, stage=stage, **_: done.append((stage, s))
        )
    settings = DistillSettings(student_precision=precision, training=Training(tokens=7))
    group = alone(torch.device("cpu"))
    pipeline._stages(None, None, None, settings, group)
    expected = [("run_distill", replace(settings, student_precision="bf16"))]
    expected += [] if precision == "bf16" else [("run_qad", settings)]
    assert done == expected
