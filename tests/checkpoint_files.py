"""What the files of a checkpoint hold, and changes of it."""

import json


def change_config(folder, **fields):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))
