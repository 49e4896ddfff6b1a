"""Commands under torchrun, on the CPU."""

import os
import subprocess
import sys

LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}


def torchrun(count: int, *words: object) -> subprocess.CompletedProcess:
    command = [*LAUNCH, str(count), *map(str, words)]
    return subprocess.run(
        command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False
    )
