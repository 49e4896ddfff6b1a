"""Stored teacher logits: exact where everything is kept, unbiased where words are drawn, refused
where they are another's.
"""

import json

import pytest
import torch
from conftest import save, shaken, tiny
from helpers import FAST, run
from safetensors.torch import load
from safetensors.torch import save as save_tensors
from test_distill import text_blocks

from minipuzzle.errors import UserError
from minipuzzle.progress import SILENT
from minipuzzle.ranks import alone
from minipuzzle.runs import distill as distill_module
from minipuzzle.settings import Training
from minipuzzle.training import train
from minipuzzle.training.keep import Keep
from minipuzzle.training.objectives import distillation
from minipuzzle.training.offline import TeacherCache, _slices, stored
from minipuzzle.training.sparse import sparse_kl, teacher_entries

CPU = torch.device("cpu")


def example(n=20, vocab=50):
    torch.manual_seed(0)
    return [torch.randn(*shape) for shape in ((n, 12), (vocab, 12), (n, 16), (vocab, 16))]


def exact(hidden, head, teacher_hidden, teacher_head):
    hidden, head = hidden.double().requires_grad_(), head.double().requires_grad_()
    student = torch.log_softmax(hidden @ head.t(), -1)
    teacher = torch.log_softmax(teacher_hidden.double() @ teacher_head.double().t(), -1)
    loss = torch.nn.functional.kl_div(student, teacher, log_target=True, reduction="sum")
    loss.backward()
    return loss.item(), hidden.grad, head.grad


def ours(hidden, head, words):
    hidden, head = hidden.clone().requires_grad_(), head.clone().requires_grad_()
    loss = sparse_kl(hidden, head, words)
    loss.backward()
    return loss.item(), hidden.grad, head.grad


@pytest.mark.parametrize("chunk", [1 << 26, 7 * 50])
def test_all_words_give_the_whole_kl(chunk, monkeypatch):
    monkeypatch.setattr("minipuzzle.training.sparse.CHUNK_VALUES", chunk)
    hidden, head, *teacher = example()
    words = teacher_entries(*teacher, 50)
    got, want = ours(hidden, head, words), exact(hidden, head, *teacher)
    assert got[0] == pytest.approx(want[0], rel=1e-5)
    for a, b in zip(got[1:], want[1:], strict=True):
        assert (a - b).norm() / b.norm() < 1e-5


def test_the_rest_is_one_bucket():
    """Against float64 autograd on the coarse distributions; the teacher's entropy is that of its
    buckets.
    """
    hidden, head, *teacher = example()
    words = teacher_entries(*teacher, 5)
    leaves = hidden.double().requires_grad_(), head.double().requires_grad_()

    def coarse(states, weight):
        p = torch.softmax(states.double() @ weight.double().t(), -1)
        top = p.gather(1, words.ids)
        return torch.cat((top, 1 - top.sum(1, keepdim=True)), 1)

    p, q = coarse(*teacher), coarse(*leaves)
    want = (p * (p.log() - q.log())).sum()
    want.backward()
    got = ours(hidden, head, words)
    assert got[0] == pytest.approx(want.item(), rel=1e-5)
    assert (got[1] - leaves[0].grad).norm() / leaves[0].grad.norm() < 1e-5
    assert (got[2] - leaves[1].grad).norm() / leaves[1].grad.norm() < 1e-5
    assert words.entropy().item() == pytest.approx(-(p * p.log()).sum().item(), rel=1e-5)
    assert got[0] < exact(hidden, head, *teacher)[0]


def test_a_sample_is_unbiased():
    """The mean over 20,000 samples of 8 words is the whole KL and its gradient within 4.5 standard
    errors; top-8 is not.
    """
    hidden, head, *teacher = example(n=3)
    want, gradient, _ = exact(hidden, head, *teacher)
    many = 20_000
    words = teacher_entries(
        teacher[0].repeat(many, 1), teacher[1], 8, torch.Generator().manual_seed(1)
    )
    log_q = torch.log_softmax(hidden @ head.t(), -1).repeat(many, 1)
    losses = (
        (words.weight() * (words.log_p - log_q.gather(1, words.ids)))
        .double()
        .sum(1)
        .view(many, 3)
        .sum(1)
    )
    total, by_sample, _ = ours(hidden.repeat(many, 1), head, words)
    assert total == pytest.approx(losses.sum().item(), rel=1e-5)
    for samples, true in (
        (losses[:, None], torch.tensor([want])),
        (by_sample.double().view(many, -1), gradient.flatten()),
    ):
        standard = samples.std(0) / many**0.5
        assert ((samples.mean(0) - true).abs() / standard).max() < 4.5
    print(
        f"whole KL {want:.4f}, mean of samples {losses.mean():.4f} +-"
        f" {losses.std() / many**0.5:.4f}"
    )
    assert (
        ours(hidden, head, teacher_entries(*teacher, 8))[0] < want - 10 * losses.std() / many**0.5
    )


def cache(folder, keep="top-61", blocks=None, teacher="t", seed=0, count=12):
    return TeacherCache(
        folder,
        blocks or text_blocks(),
        Keep.parse(keep),
        positions=range(count),
        teacher=teacher,
        vocabulary=61,
        seed=seed,
        isolate=False,
    )


def filled(folder, teacher, **options):
    made = cache(folder, **options)
    made.fill(teacher, made.missing(), alone(CPU), 4, SILENT)
    return made


def test_training_from_the_cache_is_training_with_the_teacher(tmp_path, monkeypatch):
    monkeypatch.setattr("minipuzzle.training.offline.SHARD_BYTES", 32 * 61 * 4 * 5)
    teacher, settings = (
        shaken(tiny("M-*", hidden=16, vocab=61), 5),
        Training(tokens=32 * 4 * 9, learning_rate=1e-3, batch=4),
    )
    made = filled(tmp_path / "cache", teacher)
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 3
    assert not cache(tmp_path / "cache", count=100).missing()
    losses = []
    for name, objective in (("with", distillation(teacher)), ("without", stored(made))):
        train(
            shaken(tiny("M-*", hidden=16, vocab=61), 1),
            objective,
            text_blocks(),
            settings,
            tmp_path / name,
            identity="x",
        )
        losses.append(
            [
                row.split(",")[2:4]
                for row in (tmp_path / name / "log.csv").read_text().splitlines()[1:]
            ]
        )
    for got, want in zip(*losses, strict=True):
        assert [float(v) for v in got] == pytest.approx(
            [float(v) for v in want], rel=2e-3
        )  # FP16 log probabilities


def test_a_half_written_cache_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("minipuzzle.training.offline.SHARD_BYTES", 32 * (50 * 4) * 5)
    teacher = shaken(tiny("M-*", hidden=16, vocab=61), 5)
    for folder in ("whole", "half"):
        filled(tmp_path / folder, teacher, keep="sampled-50")
    lost = tmp_path / "half/00000001.safetensors"
    kept = (tmp_path / "half/00000000.safetensors").stat().st_mtime_ns
    lost.unlink()
    again = cache(tmp_path / "half", keep="sampled-50")
    assert again.missing() == [1]
    assert cache(tmp_path / "half", keep="sampled-50", count=5).missing() == []
    again.fill(teacher, [1], alone(CPU), 4, SILENT)
    assert lost.read_bytes() == (tmp_path / "whole/00000001.safetensors").read_bytes()
    assert (tmp_path / "half/00000000.safetensors").stat().st_mtime_ns == kept


def test_another_teacher_or_text_is_refused(tmp_path):
    filled(tmp_path, shaken(tiny("M-*", hidden=16, vocab=61)), keep="top-4")
    other = text_blocks(length=16)
    for options, what in (
        ({"teacher": "u"}, "teacher u"),
        ({"blocks": other}, "block_length 16"),
        ({"keep": "top-5"}, "top-5"),
        ({"seed": 1}, "seed 1"),
    ):
        with pytest.raises(UserError, match="not those of this run") as error:
            cache(tmp_path, **{"keep": "top-4", **options})
        assert what in error.value.allowed
    with pytest.raises(UserError, match="not in the cache"):
        cache(tmp_path, keep="top-4").entries(torch.zeros(1, 32, dtype=torch.int64), None)
    for wrong in ("top-0", "all", "top-62"):
        with pytest.raises(UserError):
            cache(tmp_path / "new", keep=wrong)


@pytest.mark.parametrize("keep", ["top-4", "sampled-4"])
def test_a_damaged_shard_or_its_facts(keep, tmp_path):
    filled(tmp_path, shaken(tiny("M-*", hidden=16, vocab=61)), keep=keep)
    file = next(tmp_path.glob("*.safetensors"))
    good, tensors = file.read_bytes(), load(file.read_bytes())
    stored(cache(tmp_path, keep=keep))
    wrong = [b"", good[:-8], bytes(500), save_tensors({"key": tensors["key"]})]
    wrong += [
        save_tensors({**tensors, name: value})
        for name, value in (
            ("key", torch.zeros(3)),
            ("ids", tensors["ids"].long()),
            ("log_p", tensors["log_p"][:, :, :1].contiguous()),
            ("more", torch.zeros(1)),
            ("log_rest", torch.zeros(2, 2)),
        )
    ]
    for data in wrong:
        file.write_bytes(data)
        with pytest.raises(UserError, match="is damaged"):
            stored(cache(tmp_path, keep=keep))
    for name, value in (
        ("ids", (tensors["ids"].int() + 61).to(torch.uint16)),
        ("log_p", tensors["log_p"] * torch.nan),
    ):
        file.unlink()  # what is open keeps its pages
        file.write_bytes(save_tensors({**tensors, name: value}))
        _slices.cache_clear()
        opened, tokens = (
            cache(tmp_path, keep=keep),
            torch.from_numpy(text_blocks().stream(range(1), 0)[0]),
        )
        stored(opened)
        with pytest.raises(UserError, match="is damaged"):
            opened.entries(tokens, None)
    for text in ("[]", "{", "null", "[" * 100_000):
        (tmp_path / "about.json").write_text(text)
        with pytest.raises(UserError, match=r"about\.json"):
            cache(tmp_path, keep=keep)


def test_size_per_token():
    assert Keep.parse("top-128").bytes_per_token(131_072) == 128 * 6 + 4
    assert Keep.parse("sampled-50").bytes_per_token(4096) == 50 * 4


def test_the_command_fills_the_cache_once_and_then_needs_no_teacher(tmp_path, capfd, monkeypatch):
    """Of conversations, in two lengths."""
    folder = tmp_path / "run"
    save(shaken(tiny()), tmp_path / "model")
    run("score", tmp_path / "model", "--run", folder, *FAST["score"], "--no-curves")
    run("search", "--run", folder, *FAST["search"], "--top", 1)
    rows = [{"prompt": "and " * (90 if n % 9 == 0 else 4), "answer": "so. " * 5} for n in range(99)]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    distill = ["distill", "--run", folder, *FAST["distill"], "--data", tmp_path / "chat.jsonl"]
    distill[distill.index("--length") + 1] = "64:50%,128:50%"
    distill += ["--teacher-logits", tmp_path / "cache"]
    run(*distill)
    said = capfd.readouterr().err
    # a batch of 4 begins before 1,024 tokens, then one of 2 before 2,048
    assert "cache/64: 260 bytes a token, 1,216 tokens" in said
    assert "cache/128: 260 bytes a token, 1,152 tokens" in said
    assert said.count("; 1 shards are missing") == 2
    assert "left out 11 longer than a block of 64 tokens" in said
    assert "longer than a block of 128" not in said
    trained, write = [], distill_module.write_gathered
    monkeypatch.setattr(
        "minipuzzle.runs.distill.write_gathered",
        lambda model, *rest: trained.append(model) or write(model, *rest),
    )
    monkeypatch.setattr(
        "minipuzzle.runs.job.Job.parent_model",
        property(lambda job: pytest.fail("loaded the teacher")),
    )
    run(*distill, "--learning-rate", "1e-3", "--offload")
    said = capfd.readouterr().err
    assert said.count("; 0 shards are missing") == 2
    assert "of CPU memory for each process" in said
    assert type(trained[-1].embeddings.weight).__name__ == "DTensor"  # of FSDP2, in one process
