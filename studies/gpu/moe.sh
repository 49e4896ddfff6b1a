# studies/moe.py on one H200 without network, in calls one right after the other (the machine goes back after 30 idle seconds):
#   bash studies/gpu/moe.sh kernels          # 3 minutes; carry .gpu/mamba-sm90.tar.xz and .whl
#   bash studies/gpu/moe.sh teacher          # 7 minutes; carry .carry/moe (python studies/moe.py data)
#   bash studies/gpu/moe.sh cases            # as long as there are cases without a result, 9 minutes a call
#   bash studies/gpu/moe.sh nano             # 4 minutes: studies/gpu/nano_30b.py
# Results are in $OUT; the teacher and what was cut lie in /dev/shm until the machine goes back.
mkdir -p /tmp/mamba /tmp/packages
[ -d /tmp/mamba/mamba_ssm ] || tar xJf .gpu/mamba-sm90.tar.xz -C /tmp/mamba
[ -d /tmp/packages/rich ] || python3 -m pip install -q --no-index --no-deps --no-compile --target /tmp/packages .whl/*.whl
export PYTHONPATH=/tmp/mamba:/tmp/packages:$PWD OMP_NUM_THREADS=4 TRITON_CACHE_DIR=/tmp/triton TRITON_CACHE_AUTOTUNING=1
export TORCHINDUCTOR_CACHE_DIR=/tmp/inductor PYTHONWARNINGS=ignore
run=/dev/shm/moe
mkdir -p $run
case $1 in
kernels)
    timeout 200 python benchmarks/experts.py --out "$OUT/experts.json"
    timeout 250 python -m pytest -q -m gpu tests/gpu/test_experts_gpu.py 2>&1 | tail -4 ;;
teacher)
    timeout 560 python -m minipuzzle pretrain studies/moe_teacher.yaml --run $run/teacher
    cp $run/teacher/model/training.json "$OUT/moe_teacher.json" ;;
cases)
    [ -e $run/prepared ] || { timeout 300 python studies/moe.py prepare $run >$run/prepare.log 2>&1 && touch $run/prepared; }
    tail -3 $run/prepare.log
    timeout "${2:-500}" python studies/moe.py run $run --workers "${3:-5}" --tokens "${4:-4000000}"
    grep -l Error $run/cases/*.log | head -2 | xargs -r tail -n 4
    ls $run/cases/*.json | wc -l
    python studies/moe.py table $run && cp $run/moe.json $run/moe.png "$OUT" ;;
nano) timeout 400 python studies/gpu/nano_30b.py --layers "${2:-26}" --folder /dev/shm --out "$OUT/nano_30b.json" ;;
esac
