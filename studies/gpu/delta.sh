# Gated DeltaNet on one H200 without network (issue 22): the kernels' speed and correctness, then studies/delta_net.py. First, here:
# studies/gpu/prepare.sh wheels (.gpu, .whl with fla-core) and python studies/delta_net.py data (.carry/moe). A call carries 64 MiB
# with the tracked tree, and what came once stays; the machine goes back after 30 idle seconds with all that is on it, so the calls
# follow each other without a pause. Kind nvidia-h200; 1,600 s of device time together, its start (40 s) included:
#   1. run "bash studies/gpu/delta.sh tests"        timeout_s 200   # carry=[".gpu", ".whl"]
#   2. run "bash studies/gpu/delta.sh teacher"      timeout_s 590   # carry=[".carry/moe"]; then it prepares
#   3. run "bash studies/gpu/delta.sh cases 580"    timeout_s 600   # 21 cases, 8 at a time; the table
#   4. run "bash studies/gpu/delta.sh benchmark"    timeout_s 500
#   5. give_back; here: tar xzf FILES_AT/delta_net.tar.gz -C RUN; python studies/delta_net.py table RUN
# Every part and every case is a file when it is done, and each call brings back all so far and does what is missing; `cases 580
# 2000000` trains on 2 M tokens a case. Each width of heads and each number of heads a key costs a minute or two of Triton's tuning,
# once a machine (the tests' and the teacher's are one, the benchmark's two others); the number of key groups none.
study=delta_net
. studies/gpu/one_gpu.sh
set -o pipefail
case $1 in
unpack) ;;
tests)
    timeout 190 python3 -m pytest -q -s -m gpu -k delta --show-capture=no \
        "tests/gpu/test_delta_gpu.py::test_rule_and_gradients_are_the_loop[True-True-False]" \
        tests/gpu/test_captured_gpu.py tests/gpu/test_delta_gpu.py 2>&1 | tee "$OUT/tests.txt" | tail -60
    echo "tests: rc $? after $SECONDS s" ;;
benchmark)
    timeout 480 python3 benchmarks/delta_net.py --out "$OUT/delta_net.json" 2>&1 | tee "$OUT/bench.txt"
    echo "benchmark: rc $? after $SECONDS s" ;;
teacher) teacher 490 ;;
cases) cases "${2:-500}" "${3:-4000000}" ;;
*) echo "delta.sh unpack, tests, teacher, cases or benchmark" >&2; exit 2 ;;
esac
