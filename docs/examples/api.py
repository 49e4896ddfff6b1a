"""The embedded teacher to 90 % of its parameters, from Python. A test runs this file."""

import minipuzzle as mp

job = mp.load("embedded", run="minipuzzle-run", data=mp.Data(length=64))
scores = mp.score(job, mp.ScoreSettings(samples=16, block_samples=4))
print("least important block:", int(scores.blocks.argmin()))

found = mp.search(job, mp.SearchSettings(budget=("90%",), candidates=6, validation_blocks=8))
best = found.candidates[0]
print(f"{best.strip}  {best.parameters:,} parameters, {best.loss:.3f} nats a token before training")

student = mp.distill(
    job,
    mp.DistillSettings(short_tokens=1024, training=mp.Training(tokens=4096, learning_rate=5e-4)),
)
print("written:", student.path)
