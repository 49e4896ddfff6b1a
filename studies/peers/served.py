"""What every engine's script shares: requests are lines of JSON on standard input, each answered in
a process of its own that has the imports already, into the file "answer"; then a line is printed.

A request: {"checkpoint", "prompt": [tokens], "steps", "dtype", "classes": whether to use the
classes inside the checkpoint, "vocabulary", "log_p": .npy to write [steps, vocabulary], "answer",
"seconds": most of them}. An answer: {"version", "tokens"} or {"error"}; none where it died.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path


def serve(answered):
    """``answered``: from a request to its answer."""
    said = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what an engine prints
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            try:
                answer = answered(request)
            except BaseException as error:
                lines = [part.strip() for part in str(error).splitlines() if part.strip()]
                answer = {"error": f"{type(error).__name__}: {' '.join(lines)[:300]}"}
            Path(request["answer"]).write_text(json.dumps(answer))
            os._exit(0)
        until = time.monotonic() + request["seconds"]
        while os.waitpid(child, os.WNOHANG)[0] == 0:
            time.sleep(0.1)
            if time.monotonic() > until:
                os.kill(child, signal.SIGKILL)
        print("answered", file=said, flush=True)
