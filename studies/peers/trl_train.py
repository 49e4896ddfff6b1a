"""TRL's GKDTrainer on a given student: offline data (lmbda 0) and forward KL (beta 0). Request and
answer as modelopt_train.
"""

import time

from common import answer, load, request
from datasets import Dataset
from hf_trainer import Blocks, arguments, collate, in_order
from transformers import AutoTokenizer
from trl.experimental.gkd import GKDConfig, GKDTrainer

asked = request()
student, teacher = load(asked["student"]), load(asked["teacher"])
settings = {
    **arguments(asked),
    "lmbda": 0.0,
    "beta": 0.0,
    "temperature": 1.0,
    "max_length": asked["length"],
}
blocks = Blocks(asked["train"])
rows = Dataset.from_dict(
    {key: [blocks[i][key].tolist() for i in range(len(blocks))] for key in blocks[0]}
).with_format("torch")
trainer = in_order(GKDTrainer)(
    model=student,
    teacher_model=teacher,
    args=GKDConfig(**settings),
    train_dataset=rows,
    data_collator=collate,
    processing_class=AutoTokenizer.from_pretrained(asked["teacher"]),
)
started, cpu = time.monotonic(), time.process_time()
trainer.train()
took = {"train_seconds": time.monotonic() - started, "train_cpu_seconds": time.process_time() - cpu}
student.save_pretrained(asked["out"])
answer(
    ("trl", "transformers", "torch"),
    checkpoint=asked["out"],
    steps=trainer.state.global_step,
    **took,
)
