"""What studies/gpu/vllm.sh serves: the embedded teacher with a per-block student, whose words are
compared, and a hybrid of 4 B with one of 70 %, random weights, whose speed is.

    python3 studies/gpu/vllm_checkpoints.py small|large FOLDER [--device cuda] [--hidden 3072]
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path

from random_checkpoint import write

from minipuzzle import embedded
from minipuzzle.arch import Architecture, Selection
from minipuzzle.checkpoint import Checkpoint
from minipuzzle.families import nemotron_h
from minipuzzle.kinds import Attention, FeedForward, Mamba2
from minipuzzle.surgery import cut

PATTERN = "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M*-M-M-M-"
"""Of 48 blocks as in Nemotron-H 4B."""
SHARES = (0.8, 0.5, 0.7, 0.4, 0.9, 0.6)
"""The student's FFN widths, in turns; every fourth pair of a mixer and an FFN goes."""
WIDTHS = (896, 832, 704, 640, 800, 512)


def small(folder: Path) -> None:
    """The embedded teacher, and a student with six FFN widths and without block 11."""
    parent, widths = Checkpoint.open(embedded.teacher_path()), iter(WIDTHS)
    kept = [
        {"intermediate": tuple(range(next(widths)))} if b.kind == "mlp" else {}
        for b in parent.architecture.blocks
    ]
    cut(parent, Selection(blocks=(*kept[:11], None, *kept[12:])), folder / "student")
    shutil.copytree(embedded.teacher_path(), folder / "parent")
    prompts(folder, parent)


def prompts(folder: Path, parent: Checkpoint) -> None:
    """Real text for serve_check.py: 4 prompts of 200 tokens."""
    from minipuzzle.data import Tokenizer, read_documents

    tokenizer = Tokenizer.load(parent.path)
    text = "\n".join(read_documents(embedded.text_path("validation") / "speeches.txt.bz2"))
    ids = tokenizer.encode(text[:20000], special_tokens=False)
    for name in ("parent", "student"):
        chosen = [ids[i * 200 : (i + 1) * 200] for i in range(4)]
        (folder / name / "prompts.json").write_text(json.dumps(chosen))


def parent_of(hidden: int) -> Architecture:
    """Nemotron-H 4B's shapes for ``hidden`` 3072, others in proportion."""
    kinds = {
        "M": Mamba2(hidden=hidden, heads=hidden // 48 * 2, head_dim=48, groups=8, state=128),
        "-": FeedForward(hidden=hidden, intermediate=4 * hidden),
        "*": Attention(hidden=hidden, q_heads=hidden // 128, kv_heads=8, attn_head_dim=128),
    }
    return Architecture(vocab_size=131072, hidden=hidden, blocks=tuple(kinds[k] for k in PATTERN))


def student_of(parent: Architecture) -> Architecture:
    """An FFN width a block, a quarter of the pairs gone."""
    blocks, seen = [], 0
    for block in parent.blocks:
        if isinstance(block, FeedForward):
            seen += 1
            share = SHARES[seen % len(SHARES)]
            block = replace(block, intermediate=int(block.intermediate * share) // 128 * 128)
        blocks.append(block)
    ends = [i for i, block in enumerate(blocks) if block.kind == "mlp"][3::4]
    gone = {i - back for i in ends for back in (0, 1)}
    return replace(parent, blocks=tuple(b for i, b in enumerate(blocks) if i not in gone))


def large(folder: Path, hidden: int, device: str) -> None:
    """Both, with the classes that a checkpoint with sizes a block needs."""
    parent = parent_of(hidden)
    for name, model in (("parent", parent), ("student", student_of(parent))):
        write(model, folder / name, device)
        for file, text in nemotron_h.extra_files(model).items():
            (folder / name / file).write_text(text)
        print(f"{name}: {model.parameters:,} parameters", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("small", "large"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--hidden", type=int, default=3072)
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    if options.what == "small":
        small(options.folder)
    else:
        large(options.folder, options.hidden, options.device)


if __name__ == "__main__":
    main()
