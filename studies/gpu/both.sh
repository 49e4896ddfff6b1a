# A session on two H200s without network: eight.sh and speed.sh side by side (issue 23), then what needs both cards (issue 26), with the
# student that eight.sh cut. Three calls, kind nvidia-h200-x2, each right after the other; 1,800 s together. First, here:
#   mkdir -p .gpu .whl; cp ../shared/gpu/*.tar.xz .gpu/; pip download of fla-core==0.6.0 alone into .whl; studies/gpu/prepare.sh peers
#   1. run "bash studies/gpu/both.sh first"     timeout_s 600   # carry=[".gpu", ".whl"]
#   2. run "bash studies/gpu/both.sh second"    timeout_s 600   # carry=[".carry/peers"]
#   3. run "bash studies/gpu/both.sh third"     timeout_s 540
# Each brings all so far in one archive, renewed while it runs: $OUT/all.tgz.
brought=$OUT
export OUT=/tmp/both_out
mkdir -p $OUT
while sleep 10; do tar czf "$brought/.all.tgz" -C $OUT . 2>/dev/null && mv "$brought/.all.tgz" "$brought/all.tgz"; done &
loop=$!
cut_by_eight() { # what two.py would have cut for itself
    read -r eight parent </tmp/eight_places
    run=$(dirname "$eight")/two
    [ -e "$run/run" ] || { mkdir -p "$run" && cp -rl "$eight/run" "$run/run" && rm -rf "$run/run/distill" "$run/run/student" "$run/run/eval.json"; }
    rm -rf "$eight/run/distill"
    ln -f "$eight"/*.txt "$run"
    echo '{"prune": {"done": true}}' >"$run/cut.json"
    echo "$run $parent" >/tmp/two_places
}
tests() { # SECONDS FILE...: those of one card
    for file in "${@:2}"; do
        [ $SECONDS -gt "$1" ] && break
        timeout $((590 - SECONDS)) python3 -m pytest -s -q -m gpu "tests/gpu/test_${file}_gpu.py" >"$OUT/test_$file.txt" 2>&1
        echo "$file after $SECONDS s: $(tail -n 1 "$OUT/test_$file.txt")"
    done
}
case $1 in
first)
    CUDA_VISIBLE_DEVICES=1 bash studies/gpu/speed.sh ours &
    speed=$!
    CUDA_VISIBLE_DEVICES=0 bash studies/gpu/eight.sh
    wait $speed ;;
second)
    CUDA_VISIBLE_DEVICES=1 bash studies/gpu/speed.sh peers &
    speed=$!
    CUDA_VISIBLE_DEVICES=0 bash studies/gpu/eight.sh
    if python3 -c "import json; assert json.load(open('$OUT/eight.json'))['export']['done']"; then
        cut_by_eight
        CUDA_VISIBLE_DEVICES=0 TWO_LIMIT=$((580 - SECONDS)) bash studies/gpu/two.sh plan bf16 fp8
    fi
    export CUDA_VISIBLE_DEVICES=0 PYTHONPATH=/tmp/site:$PWD PYTHONWARNINGS=ignore NVTE_FRAMEWORK=pytorch TRITON_CACHE_DIR=/tmp/triton
    tests 450 offload search_precision precision saves
    wait $speed ;;
third)
    TWO_LIMIT=520 bash studies/gpu/two.sh pair tests
    export PYTHONPATH=/tmp/site:$PWD PYTHONWARNINGS=ignore OMP_NUM_THREADS=8 TRITON_CACHE_DIR=/tmp/triton TORCHINDUCTOR_CACHE_DIR=/tmp/inductor
    export NCCL_NVLS_ENABLE=0 TORCH_SYMM_MEM_DISABLE_MULTICAST=1 NVSHMEM_DISABLE_NVLS=1
    timeout $((530 - SECONDS)) python3 studies/gpu/expert_parallel.py --out $OUT/experts.json ;;
*) echo "both.sh first, second or third" >&2; exit 2 ;;
esac
kill $loop
tar czf "$brought/all.tgz" -C $OUT .
echo "both.sh $1: $SECONDS s"
