"""nvidia-modelopt's KDTrainer on a given student.

request: {"student", "teacher", "train": .npy in training order, "rate", "batch", ..., "out"};
answer: {"checkpoint"}.
"""

import time

from common import answer, load, request
from hf_trainer import Blocks, arguments, collate, in_order
from modelopt.torch.distill.plugins.huggingface import KDTrainer
from transformers import TrainingArguments

asked = request()
student, teacher = load(asked["student"]), load(asked["teacher"])
trainer = in_order(KDTrainer)(
    model=student,
    args=TrainingArguments(**arguments(asked)),
    train_dataset=Blocks(asked["train"]),
    data_collator=collate,
    distill_args={"teacher_model": teacher, "temperature": 1.0, "distill": True},
)
started, cpu = time.monotonic(), time.process_time()
trainer.train()
took = {"train_seconds": time.monotonic() - started, "train_cpu_seconds": time.process_time() - cpu}
student.save_pretrained(asked["out"])
answer(
    ("nvidia-modelopt", "transformers", "torch"),
    checkpoint=asked["out"],
    steps=trainer.state.global_step,
    **took,
)
