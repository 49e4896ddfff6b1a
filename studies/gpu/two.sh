# two.py on two H200s without network (issue 26), and beside its first part what one GPU can show; three calls, each right after the
# other (the machine goes back after 30 idle seconds and takes the work with it); 1,800 s of device time together, the start included.
# First, here:
#   mkdir -p .gpu .whl; cp ../shared/gpu/*.tar.xz .gpu/; pip download of fla-core==0.6.0 alone into .whl  # 52 MB beside a tree of 14
# Each call, kind nvidia-h200-x2; only the first carries, for what came once stays unpacked in /tmp:
#   1. run "bash studies/gpu/two.sh first"             timeout_s 600   # carry=[".gpu", ".whl"]: a block's benchmark beside the
#                                                                      # optimiser's tests and cut; link, plan, one card; two
#   2. run "bash studies/gpu/two.sh"                   timeout_s 600   # goes on: pair, context, then tests beside resume
#   3. run "TWO_LIMIT=400 bash studies/gpu/two.sh"     timeout_s 440   # what is left, where it says that something is
#   4. give_back; here: python studies/gpu/two.py table FILES_AT       # into docs/results/two_gpus.md
# Every part is a file in $OUT as soon as it has a row, and each call brings all so far.
# Rehearsal: python studies/gpu/two.py cut link plan bf16 fp8 pair context tests resume --tiny --device cpu --work /tmp/two --out /tmp/two
mkdir -p /tmp/site
[ -d /tmp/site/mamba_ssm ] || for kit in .gpu/mamba-sm90.tar.xz .gpu/te-sm90.tar.xz; do tar xJf $kit -C /tmp/site & done; wait
[ -d /tmp/site/fla ] || python3 -m pip install -q --no-index --no-deps --no-compile --target /tmp/site .whl/*.whl
export PYTHONPATH=/tmp/site:$PWD OMP_NUM_THREADS=8 PYTHONUNBUFFERED=1 PYTHONWARNINGS=ignore NVTE_FRAMEWORK=pytorch
export TRITON_CACHE_DIR=/tmp/triton TRITON_CACHE_AUTOTUNING=1 TORCHINDUCTOR_CACHE_DIR=/tmp/inductor HF_HUB_OFFLINE=1
export NCCL_NVLS_ENABLE=0 TORCH_SYMM_MEM_DISABLE_MULTICAST=1 NVSHMEM_DISABLE_NVLS=1 # NVLink multicast stays off
python3 -c 'import jinja2, matplotlib, pytest, hypothesis, rich, scipy, tokenizers, typer, yaml, transformer_engine.pytorch, fla' || exit
[ "$(df --output=avail -B1000000000 /dev/shm | tail -1)" -ge 115 ] || mount -o remount,size=150G /dev/shm
. studies/gpu/places.sh two 115
limit=${TWO_LIMIT:-570}
two() {
    python3 studies/gpu/two.py "$@" --limit $((limit - SECONDS)) --work "$run" --checkpoint "$parent" --out "$OUT" 2>&1 |
        tee -a "$OUT/log.txt"
}
checked() { # NAME SECONDS FILES: tests of one GPU
    timeout "$2" python3 -m pytest -q -s -m gpu --show-capture=no "${@:3}" >"$run/$1.log" 2>&1
    echo "== $1: rc $?, $SECONDS s"; tail -n 12 "$run/$1.log"
}
mkdir -p "$run"
echo "ready after $SECONDS s"
if [ "$1" = first ]; then
    CUDA_VISIBLE_DEVICES=1 timeout 350 python3 benchmarks/delta_net.py --out "$OUT/delta_net.json" >"$run/delta.log" 2>&1 &
    export CUDA_VISIBLE_DEVICES=0
    checked step 150 tests/gpu/test_step_gpu.py
    two cut
    timeout 60 python3 benchmarks/adamw_step.py --device cuda --out "$OUT/adamw_step.json" >"$run/adamw.log" 2>&1; cat "$run/adamw.log"
    unset CUDA_VISIBLE_DEVICES
    wait
    cat "$run/delta.log"
    two link plan
fi
CUDA_VISIBLE_DEVICES=0 two bf16 &
CUDA_VISIBLE_DEVICES=1 two fp8
wait
two pair
if [ "$1" != first ]; then
    two context
    two tests &
    CUDA_VISIBLE_DEVICES=1 checked delta $((limit - SECONDS)) tests/gpu/test_delta_gpu.py tests/gpu/test_captured_gpu.py &
    two resume
    wait
fi
tar czf "$OUT/logs.tgz" -C "$run" $(cd "$run" && ls -- *.log)
python3 studies/gpu/two.py table "$OUT" | tee -a "$OUT/log.txt"
