# A session on two H200s without network: what needs both cards (issue 26), then a study on each (issue 23). Three calls, kind
# nvidia-h200-x2, each right after the other; 1,750 s together. First, here, for 64 MiB go at once:
#   mkdir -p .gpu; cp ../shared/gpu/*.tar.xz .gpu/; studies/gpu/prepare.sh wheels peers
#   1. run "bash studies/gpu/both.sh first"              timeout_s 600   # carry=[".gpu"]
#   2. run "bash studies/gpu/both.sh second"             timeout_s 600   # carry=[".whl", ".carry/peers"]
#   3. run "bash studies/gpu/both.sh third FILE..."      timeout_s 600   # of tests/gpu/test_FILE_gpu.py, what has not passed yet
# As on 2026-11-30: "chain" twice or three times, then "pair". "checked", one call, carry=[".gpu"], one card or two: our own rows of the 8B.
. studies/gpu/bring.sh both
cut_by_eight() { # what two.py would have cut for itself
    read -r eight parent </tmp/eight_places
    run=$(dirname "$eight")/two
    [ -e "$run/run" ] || { mkdir -p "$run" && cp -rl "$eight/run" "$run/run" && rm -rf "$run/run/distill" "$run/run/student" "$run/run/eval.json"; }
    rm -rf "$eight/run/distill"
    ln -f "$eight"/*.txt "$run"
    echo '{"prune": {"done": true}}' >"$run/cut.json"
    echo "$run $parent" >/tmp/two_places
}
again() { # score on a machine that has compiled nothing, but knows what Triton chose here
    read -r run parent </tmp/eight_places
    mkdir -p "$run/again" /tmp/chosen $OUT/again
    ln -f "$run/validation.txt" "$run/again"
    (cd $TRITON_CACHE_DIR && find . -name '*.autotune.json' | tar c -T -) | tar x -C /tmp/chosen
    TRITON_CACHE_DIR=/tmp/chosen TORCHINDUCTOR_CACHE_DIR=/tmp/chosen_inductor PYTHONPATH=/tmp/mamba:/tmp/packages:$PWD timeout 170 \
        python3 studies/gpu/eight.py --only score --limit 150 --work "$run/again" --checkpoint "$parent" --out $OUT/again
}
(. studies/gpu/site.sh) # unpacks, before two want it; eight.sh has an environment of its own
case $1 in
first)
    . studies/gpu/site.sh
    OMP_NUM_THREADS=4
    tests 0,1 340 fsdp on_policy &
    four=$!
    tests 0 340 kernels generation step saves &
    four="$four $!"
    tests 1 340 precision captured &
    four="$four $!"
    CUDA_VISIBLE_DEVICES=1 timeout 200 python3 -m torch.distributed.run --standalone --nproc-per-node 1 studies/gpu/captured_shards.py --rows 1 >$OUT/tuned.txt 2>&1 &
    tests 0 340 demo experts search_precision offload &
    wait $four $!
    OMP_NUM_THREADS=8
    torchrun="timeout 130 python3 -m torch.distributed.run --standalone --nproc-per-node 2"
    $torchrun studies/gpu/captured_shards.py --out $OUT/captured.json >$OUT/captured.txt 2>&1
    cat $OUT/captured.txt | cut -c1-600 | tail -n 20
    timeout $((590 - SECONDS)) python3 studies/gpu/expert_parallel.py --out $OUT/experts.json ;;
second)
    CUDA_VISIBLE_DEVICES=1 bash studies/gpu/speed.sh 8b &
    speed=$!
    export TRITON_CACHE_DIR=/tmp/eight_triton TORCHINDUCTOR_CACHE_DIR=/tmp/eight_inductor CUDA_VISIBLE_DEVICES=0
    EIGHT_LIMIT=360 bash studies/gpu/eight.sh --only make score search prune
    again
    cut_by_eight
    TWO_LIMIT=$((585 - SECONDS)) bash studies/gpu/two.sh fp8
    wait $speed ;;
third)
    CUDA_VISIBLE_DEVICES=1 bash studies/gpu/speed.sh 1b &
    speed=$!
    CUDA_VISIBLE_DEVICES=0 TWO_LIMIT=200 bash studies/gpu/two.sh bf16
    (. studies/gpu/site.sh && tests 0 400 "${@:2}")
    wait $speed
    TWO_LIMIT=$((590 - SECONDS)) bash studies/gpu/two.sh pair ;;
checked)
    if [ "$(nvidia-smi -L | wc -l)" = 1 ]; then # the chain, then the step
        EIGHT_LIMIT=300 bash studies/gpu/eight.sh --only make score search prune
        bash studies/gpu/speed.sh ours
    else
        CUDA_VISIBLE_DEVICES=1 bash studies/gpu/speed.sh ours &
        speed=$!
        CUDA_VISIBLE_DEVICES=0 EIGHT_LIMIT=300 bash studies/gpu/eight.sh --only make score search prune
        wait $speed
        cut_by_eight
        CUDA_VISIBLE_DEVICES=0 TWO_LIMIT=150 bash studies/gpu/two.sh bf16 &
        one=$!
        CUDA_VISIBLE_DEVICES=1 TWO_LIMIT=150 bash studies/gpu/two.sh fp8
        wait $one
        TWO_LIMIT=$((590 - SECONDS)) bash studies/gpu/two.sh pair
    fi ;;
score) # cold, as a user's first; then tests of tests/gpu/test_FILE_gpu.py
    EIGHT_LIMIT=200 bash studies/gpu/eight.sh --only make score
    (. studies/gpu/site.sh && tests 0 280 "${@:2}") ;;
chain) # 8 B to 4 B by a user's commands beside the neighbours' rows, and the same student on one card and on two: 1,150 s, in three calls
    CUDA_VISIBLE_DEVICES=1 bash studies/gpu/speed.sh 8b &
    speed=$!
    CUDA_VISIBLE_DEVICES=0 bash studies/gpu/eight.sh
    if python3 -c "import json; assert json.load(open('$OUT/eight.json'))['export']['done']"; then
        cut_by_eight
        CUDA_VISIBLE_DEVICES=0 TWO_LIMIT=$((580 - SECONDS)) bash studies/gpu/two.sh plan bf16 fp8
    fi
    wait $speed ;;
pair) TWO_LIMIT=520 bash studies/gpu/two.sh pair ;;
*) echo "both.sh first, second, third, checked, score, chain or pair" >&2; exit 2 ;;
esac
(cd /tmp && find triton eight_triton -name '*.autotune.json' 2>/dev/null | tar czf $OUT/tuned.tgz -T -) # what Triton chose: to begin with on the next machine
bring
echo "both.sh $1: $SECONDS s"
