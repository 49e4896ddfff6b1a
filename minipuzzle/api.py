"""The Python API: ``import minipuzzle as mp``. One function a command, over the same stages and the
same run directory.

    job = mp.load("ckpt56b", run="my-run")
    mp.score(job)
    mp.search(job, mp.SearchSettings(budget=("83%",)))
    mp.distill(job, mp.DistillSettings(training=mp.Training(tokens=150_000)))
    rows = mp.evaluate(job).rows

Settings are those of recipes and of the command line (``minipuzzle.settings``); a command goes on
where a function stopped, and the other way round. Every function keeps what is there already for
the same inputs. It raises ``mp.UserError`` for input that its caller can fix, ``ValueError`` for a
call that has no meaning, and ``mp.InternalError`` where what was made is not what was planned.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from minipuzzle.checkpoint import Checkpoint
from minipuzzle.records import EvalResult, SearchResult
from minipuzzle.rundir import RunDir
from minipuzzle.runs.distill import run_distill
from minipuzzle.runs.evaluate import run_eval
from minipuzzle.runs.job import Job
from minipuzzle.runs.prune import run_prune
from minipuzzle.runs.qad import run_qad
from minipuzzle.runs.score import run_score
from minipuzzle.runs.search import run_search
from minipuzzle.scores import Scores
from minipuzzle.settings import Data, DistillSettings, ScoreSettings, SearchSettings

StrPath = str | Path


def load(
    checkpoint: StrPath | None = None,
    *,
    run: StrPath = "minipuzzle-run",
    data: Data | None = None,
    device: str = "auto",
) -> Job:
    """A job: a checkpoint, a run directory, texts and a device, which the other functions take.

    ``checkpoint`` is a Hugging Face folder with safetensors, or "embedded" for the demo's teacher;
    None means the run's own, else the only one in the current folder. ``data`` names texts and
    their block length in tokens (default 512); only the demo's teacher has texts that need not be
    named. ``device`` is "auto", "cpu" or "cuda". Headers are read and checked now, weights when
    they are needed: ``job.parent`` is the ``Checkpoint``, ``job.parent_model`` the ``HybridLM``
    (tokens [b, s] int64 to logits [b, s, vocab] float32; on CUDA its matrices are BF16, for use
    under autocast).

    Raises: UserError for a broken or unknown checkpoint, none, a run directory of another one, or a
    device that is not there.
    """
    path = None if checkpoint is None else Path(checkpoint)
    return Job(RunDir(Path(run)), checkpoint=path, data=data or Data(), device=device)


def score(job: Job, settings: ScoreSettings | None = None) -> Scores:
    """How much each block, FFN channel and head matters; written to run/scores.safetensors.

    ``Scores.blocks`` [n_blocks] float64: damage of removing block i, in the unit of
    ``settings.metric`` (by default the mean squared error of the hidden states before the head).
    ``intermediate`` block -> [intermediate], ``head_channels`` block -> [heads, head_dim],
    ``q_heads`` block -> [q_heads]: activation scores. ``curves``: damage of narrowing one block.

    Raises: UserError where the calibration text is too short or the memory does not suffice.
    Source: arXiv:2504.03624 (blocks), arXiv:2407.14679 (channels), arXiv:2504.11409 (Mamba heads).
    """
    return run_score(job, settings or ScoreSettings())


def search(job: Job, settings: SearchSettings) -> SearchResult:
    """The architectures that fit ``settings.budget``, evaluated as masks on validation text and
    ranked; run/search.json.

    ``candidates`` has a row each, best first: ``parameters``, ``bytes`` at the workload, ``damage``
    (predicted), ``loss`` and ``kl`` (nats a token, measured before training), ``agreement`` and
    ``next_token_accuracy`` (shares), ``strip`` (the parent's pattern with "." for dropped blocks).
    ``top`` names those that go on, ``selections`` says which indices they keep.

    Raises: UserError where nothing was scored, or for a budget that is malformed, met already, or
    out of reach. Source: arXiv:2504.03624 (conditional NAS); method "solver": arXiv:2411.19146
    (mixed-integer program).
    """
    return run_search(job, settings)


def prune(job: Job) -> dict[str, Checkpoint]:
    """The top candidates cut out of the parent: name -> checkpoint in run/candidates/.

    Each file has exactly the planned parameters and bytes, and its logits are those of the masked
    parent to 1e-4 of the largest.

    Raises: UserError where nothing was searched, where a file is not what was planned, or where the
    disk is full. Source: arXiv:2504.11409 (which tensors go with which axis).
    """
    return run_prune(job)


def distill(
    job: Job, settings: DistillSettings | None = None, *, teacher: StrPath | None = None
) -> Checkpoint:
    """The student in run/student: short runs for each candidate, a long one for the best; prunes
    first if need be.

    The loss is KL(teacher || student) on logits at temperature 1, in nats a token. ``teacher``
    (default: the parent) is a checkpoint with the same vocabulary. Weights are FP32 while training
    and written in the parent's dtypes.

    Raises: UserError where nothing was searched, for another vocabulary, or where training
    diverges. Source: arXiv:2407.14679 (logit distillation), arXiv:2504.03624 (short and long runs).
    """
    settings = settings or DistillSettings()
    if settings.student_precision != "bf16":
        raise ValueError("with a student_precision distil first, then call mp.qad")
    return run_distill(job, settings, None if teacher is None else Path(teacher))


def qad(job: Job, settings: DistillSettings, *, teacher: StrPath | None = None) -> Path:
    """The student of a finished distillation, trained on in ``settings.student_precision`` and
    written so: the folder run/quantised.

    Its forward passes have the matrices that the file will mean, gradients go to its own FP32
    weights as they are. Raises: UserError where nothing was distilled, where columns are no whole
    groups, with an adapter and under torchrun. Source: arXiv:2601.20088.
    """
    return run_qad(job, settings, None if teacher is None else Path(teacher))


def evaluate(job: Job, others: Sequence[StrPath] = ()) -> EvalResult:
    """The parent beside the run's pruned model and student (or ``others``) on text the search never
    saw; run/eval.json.

    ``rows`` has one a model: ``loss`` and ``kl`` (nats a token), ``perplexity``,
    ``bits_per_byte``, ``agreement`` with the teacher's greedy token and ``next_token_accuracy``
    (shares), ``parameters``, ``bytes`` (file), ``memory_bytes`` (at the search's workload),
    ``tokens_per_second``, and ``domains`` by name. ``costs`` has the student's costs, predicted and
    measured.

    Raises: UserError for a checkpoint of another vocabulary or a validation text of fewer than 2
    blocks, ValueError for one path in place of a list.
    """
    if isinstance(others, str | Path):
        raise ValueError(f"others is a list of checkpoints; write [{str(others)!r}]")
    return run_eval(job, [Path(path) for path in others])
