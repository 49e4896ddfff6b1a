# Gated DeltaNet on one H200 without network (issue 22). First, here: studies/gpu/prepare.sh wheels (.gpu, .whl with fla-core).
# The tree, .gpu and .whl are 46 MiB of the 64 that a call may carry; kind nvidia-h200:
#   run "bash studies/gpu/delta.sh kernels"         timeout_s 590   # carry=[".gpu", ".whl"]; benchmark 240 s, tests 180 s
# It brings back delta_net.json (benchmarks/delta_net.py), bench.txt and tests.txt (tests/gpu/test_delta_gpu.py and the delta
# parts of test_captured_gpu.py), each when it is done. Of the time 2 minutes are Triton's tuning, once a shape and machine.
. studies/gpu/one_gpu.sh
set -o pipefail
case $1 in
kernels)
    timeout 330 python3 benchmarks/delta_net.py --out "$OUT/delta_net.json" 2>&1 | tee "$OUT/bench.txt"
    echo "benchmark: rc $? after $SECONDS s"
    timeout $((570 - SECONDS)) python3 -m pytest -q -s -m gpu -k "delta or Delta" tests/gpu/test_delta_gpu.py \
        tests/gpu/test_captured_gpu.py 2>&1 | tee "$OUT/tests.txt" | tail -60
    echo "tests: rc $? after $SECONDS s" ;;
*) echo "delta.sh kernels" >&2; exit 2 ;;
esac
