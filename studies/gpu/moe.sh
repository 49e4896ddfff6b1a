# studies/moe.py on one H200 without network. The machine goes back after 30 idle seconds with the teacher and all that was cut, so
# the calls follow each other without a pause; 1,700 s of device time together (start of the machine included, say 100 s). First,
# here: python studies/moe.py data. A call carries 64 MiB with the tracked tree, and what came once stays; kind nvidia-h200:
#   0. run "bash studies/gpu/moe.sh unpack"         timeout_s 120   # carry=[".gpu", ".whl"]
#   1. run "bash studies/gpu/moe.sh teacher"        timeout_s 590   # carry=[".carry/moe"]; teacher 250 s, prepare 120 s; "prepared"
#   2. run "bash studies/gpu/moe.sh cases 540"      timeout_s 590   # 48 cases, 8 at a time: about 100 s for each 8
#   3. run "bash studies/gpu/moe.sh cases 380"      timeout_s 430   # the rest, with the table
#   4. give_back; here: tar xzf FILES_AT/moe.tar.gz -C RUN; python studies/moe.py table RUN
# Where call 1 ended without "prepared", call 2 goes on with it: every part and every case is a file when it is done, each call
# brings back all cases and logs so far, and does what is missing. Less device time: `cases 540 2000000` trains on 2 M tokens a case.
# Apart from it, each as a session's only call: moe.sh kernels (180 s), moe.sh nano (260 s: studies/gpu/nano_30b.py).
mkdir -p /tmp/mamba /tmp/packages
[ -d /tmp/mamba/mamba_ssm ] || tar xJf .gpu/mamba-sm90.tar.xz -C /tmp/mamba
[ -d /tmp/packages/rich ] || python3 -m pip install -q --no-index --no-deps --no-compile --target /tmp/packages .whl/*.whl
export PYTHONPATH=/tmp/mamba:/tmp/packages:$PWD OMP_NUM_THREADS=2 TRITON_CACHE_DIR=/tmp/triton TRITON_CACHE_AUTOTUNING=1
export TORCHINDUCTOR_CACHE_DIR=/tmp/inductor PYTHONWARNINGS=ignore PYTHONUNBUFFERED=1
run=${MOE_RUN:-/dev/shm/moe}
mkdir -p $run
prepare() {
    timeout "$1" python studies/moe.py prepare $run --workers 8 && echo prepared
}
brought() { # all there is so far in one file, for 8 files come back; cases end in one rename, so each is whole
    tails=/tmp/moe_tails
    rm -rf $tails && mkdir -p $tails/cases $tails/parts $tails/logs
    cp $run/cases/*.json $tails/cases 2>/dev/null
    cp $run/parts/*.json $tails/parts 2>/dev/null
    for log in $run/logs/*.log; do tail -c 4000 $log >"$tails/logs/$(basename $log)"; done
    tar czf "$OUT/moe.tar.gz" -C $tails .
    grep -lE "Error|Traceback" $run/logs/*.log | head -2 | xargs -r tail -n 4
    echo "$(ls $run/cases/*.json 2>/dev/null | wc -l) cases after $SECONDS s"
}
case $1 in
kernels)
    timeout 200 python benchmarks/experts.py --out "$OUT/experts.json"
    timeout 250 python -m pytest -q -m gpu tests/gpu/test_experts_gpu.py 2>&1 | tail -4 ;;
teacher)
    timeout 400 python -m minipuzzle pretrain studies/moe_teacher.yaml --run $run/teacher
    cp $run/teacher/model/training.json "$OUT/moe_teacher.json"
    echo "teacher after $SECONDS s"
    prepare $((560 - SECONDS))
    brought ;;
cases)
    nvidia-cuda-mps-control -d 2>/dev/null # many small processes on one GPU
    prepare "${2:-500}" &&
        timeout $((${2:-500} - SECONDS)) python studies/moe.py run $run --workers 8 --tokens "${3:-4000000}"
    brought
    python studies/moe.py table $run && cp $run/moe.json $run/moe.png "$OUT" ;;
nano) timeout 400 python studies/gpu/nano_30b.py --layers "${2:-26}" --folder /dev/shm --out "$OUT/nano_30b.json" ;;
esac
