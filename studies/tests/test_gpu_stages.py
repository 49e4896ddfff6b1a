"""Stages of studies/gpu: what is done is not done again, what the time ended goes on, and what a
profile says of the exchange.
"""

import json
import time

import pytest
from stages import Stage, through
from traffic import traffic


def test_a_stage_that_the_time_ended_is_begun_again(tmp_path):
    script = tmp_path / "slow.py"
    script.write_text(
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n"
        "time.sleep(float(sys.argv[1]))"
    )

    def call(limit, chain=True):
        stages = [
            Stage(name=name, words=[script, seconds], script=True, least=0.0)
            for name, seconds in (("short", 0), ("wrong", "x"), ("long", slow))
        ]
        through(stages, "part", tmp_path, tmp_path, time.monotonic() + limit, chain=chain)
        return json.loads((tmp_path / "part.json").read_text())

    slow = 60
    rows = call(60)
    assert {name: row["done"] for name, row in rows.items()} == {"short": True, "wrong": False}
    rows = call(3, chain=False)
    assert rows["long"]["code"] == 0
    assert not rows["long"]["done"]  # it saved and exited with 0, and is not at its end
    slow = 0
    rows = call(60, chain=False)
    assert rows["long"]["done"]
    assert {name: row["calls"] for name, row in rows.items()} == {"short": 1, "wrong": 3, "long": 2}


def test_bytes_and_seconds_of_a_profile():
    def gather(name, dims, kind):
        given = {"Input Dims": [*dims, []], "Input type": [kind, kind, ""]}
        return {"cat": "cpu_op", "name": f"c10d::{name}", "args": given}

    def kernel(name, began, ended):
        return {"cat": "kernel", "name": name, "ts": began * 1e6, "dur": (ended - began) * 1e6}

    found = traffic(
        [
            gather("_allgather_base_", [[8], [4]], "c10::BFloat16"),
            gather("_reduce_scatter_base_", [[4], [2, 4]], "float"),
            kernel("ncclDevKernel_AllGather", 0, 3),
            kernel("gemm", 1, 2),
            kernel("gemm", 1.5, 2.5),
        ]
    )
    assert found["part_bytes"] == {"all_gather": 8, "reduce_scatter": 16}
    times = [found[name] for name in ("nccl_s", "compute_s", "exposed_s")]
    assert times == pytest.approx([3, 1.5, 1.5])
