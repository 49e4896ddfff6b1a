# Gated DeltaNet on one H200 without network (issue 22): the kernels' speed and correctness, then studies/delta_net.py. First, here:
# studies/gpu/prepare.sh wheels (.gpu, .whl with fla-core) and python studies/delta_net.py data (.carry/moe). A call carries 64 MiB
# with the tracked tree, and what came once stays; the machine goes back after 30 idle seconds with all that is on it, so the calls
# follow each other without a pause. Kind nvidia-h200; 1,790 s of device time together, its start (say 100 s) included:
#   1. run "bash studies/gpu/delta.sh kernels"      timeout_s 480   # carry=[".gpu", ".whl"]; benchmark 240 s, tests 180 s
#   2. run "bash studies/gpu/delta.sh teacher"      timeout_s 590   # carry=[".carry/moe"]; teacher 300 to 470 s; then it prepares
#   3. run "bash studies/gpu/delta.sh cases 580"    timeout_s 600   # 21 cases, 8 at a time: about 130 s for each 8; the table
#   4. give_back; here: tar xzf FILES_AT/delta_net.tar.gz -C RUN; python studies/delta_net.py table RUN
# Or two sessions, the first with call 1 alone, the second with "unpack" (120 s, carry=[".gpu", ".whl"]) in its place. Every part and
# every case is a file when it is done, and each call brings back all so far and does what is missing; `cases 580 2000000` trains
# on 2 M tokens a case. Call 1 brings back delta_net.json (benchmarks/delta_net.py), bench.txt and tests.txt. Each width
# of heads and each number of heads a key costs a minute or two of Triton's tuning, once a machine; the number of key groups none.
study=delta_net
. studies/gpu/one_gpu.sh
set -o pipefail
case $1 in
unpack) ;;
kernels)
    timeout 280 python3 benchmarks/delta_net.py --out "$OUT/delta_net.json" 2>&1 | tee "$OUT/bench.txt"
    echo "benchmark: rc $? after $SECONDS s"
    timeout $((465 - SECONDS)) python3 -m pytest -q -s -m gpu -k delta tests/gpu/test_delta_gpu.py \
        tests/gpu/test_captured_gpu.py 2>&1 | tee "$OUT/tests.txt" | tail -60
    echo "tests: rc $? after $SECONDS s" ;;
teacher) teacher 490 ;;
cases) cases "${2:-500}" "${3:-4000000}" ;;
*) echo "delta.sh unpack, kernels, teacher or cases" >&2; exit 2 ;;
esac
