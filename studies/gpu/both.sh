# A session on two H200s without network: what needs both cards (issue 26), then a study on each (issue 23). Three calls, kind
# nvidia-h200-x2, each right after the other; 1,700 s together. First, here, for 64 MiB go at once:
#   mkdir -p .gpu; cp ../shared/gpu/*.tar.xz .gpu/; studies/gpu/prepare.sh wheels peers
#   1. run "bash studies/gpu/both.sh first"     timeout_s 600   # carry=[".gpu"]
#   2. run "bash studies/gpu/both.sh second"    timeout_s 600   # carry=[".whl"]
#   3. run "bash studies/gpu/both.sh third"     timeout_s 600   # carry=[".carry/peers"]
# As on 2026-11-30: "chain" twice or three times, then "pair".
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
(. studies/gpu/site.sh) # unpacks, before two want it; eight.sh has an environment of its own
case $1 in
first)
    TWO_LIMIT=380 bash studies/gpu/two.sh tests
    read -r run _ </tmp/two_places
    cp "$run/tests.log" $OUT
    . studies/gpu/site.sh
    timeout 100 python3 -m pytest -s -q -m gpu tests/gpu/test_on_policy_gpu.py >$OUT/test_on_policy.txt 2>&1
    torchrun="timeout 130 python3 -m torch.distributed.run --standalone --nproc-per-node 2"
    $torchrun studies/gpu/captured_shards.py --out $OUT/captured.json >$OUT/captured.txt 2>&1
    timeout 150 python3 studies/gpu/expert_parallel.py --out $OUT/experts.json ;;
second)
    CUDA_VISIBLE_DEVICES=1 bash studies/gpu/speed.sh ours &
    speed=$!
    CUDA_VISIBLE_DEVICES=0 EIGHT_LIMIT=300 bash studies/gpu/eight.sh --only make score search
    . studies/gpu/site.sh
    CUDA_VISIBLE_DEVICES=0 tests 480 offload search_precision precision saves
    wait $speed ;;
third)
    CUDA_VISIBLE_DEVICES=1 bash studies/gpu/speed.sh peers &
    speed=$!
    . studies/gpu/site.sh
    CUDA_VISIBLE_DEVICES=0 tests 400 kernels generation experts demo step captured delta
    wait $speed ;;
chain) # 8 B to 4 B by a user's commands beside the neighbours' rows, and the same student on one card and on two: 1,150 s, in three calls
    CUDA_VISIBLE_DEVICES=1 bash studies/gpu/speed.sh peers &
    speed=$!
    CUDA_VISIBLE_DEVICES=0 bash studies/gpu/eight.sh
    if python3 -c "import json; assert json.load(open('$OUT/eight.json'))['export']['done']"; then
        cut_by_eight
        CUDA_VISIBLE_DEVICES=0 TWO_LIMIT=$((580 - SECONDS)) bash studies/gpu/two.sh plan bf16 fp8
    fi
    wait $speed ;;
pair) TWO_LIMIT=520 bash studies/gpu/two.sh pair ;;
*) echo "both.sh first, second, third, chain or pair" >&2; exit 2 ;;
esac
kill $loop
(cd /tmp/triton && find . -name '*.autotune.json' | tar czf $OUT/tuned.tgz -T -) # what Triton chose: to begin with on the next machine
tar czf "$brought/all.tgz" -C $OUT .
echo "both.sh $1: $SECONDS s"
