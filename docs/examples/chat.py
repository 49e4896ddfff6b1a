"""Makes the files of the example in docs/data.md in the current folder: the demo's teacher with a
chat template, its texts, and conversations about sums.
"""

import json
import random
import shutil
from pathlib import Path

from minipuzzle import embedded

TEMPLATE = (
    "{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)

shutil.copytree(embedded.teacher_path(), "chat-model")
Path("chat-model/chat_template.jinja").write_text(TEMPLATE)
for name in ("speeches", "code"):
    shutil.copy(embedded.text_path("train") / f"{name}.txt.bz2", ".")
    held_out = embedded.text_path("validation") / f"{name}.txt.bz2"
    shutil.copy(held_out, f"{name}.val.txt.bz2")

rng = random.Random(0)
rows = []
for number in range(2000):
    a, b = rng.randint(1, 99), rng.randint(1, 99)
    said = [f"What is {a} and {b}?", f"It is {a + b}."]
    if number % 3 == 0:
        again = f"It is {2 * (a + b)}, as {a + b} and {a + b} make that. "
        said += ["And once more?", again * (60 if number % 300 == 0 else 1)]
    roles = ["user", "assistant"] * 2
    messages = [{"role": r, "content": text} for r, text in zip(roles, said, strict=False)]
    rows.append(json.dumps({"messages": messages}) + "\n")
Path("sums.jsonl").write_text("".join(rows[:1800]))
Path("held-out.jsonl").write_text("".join(rows[1800:]))
