# benchmarks/distill_speed.py at the 8B's and the 1B's shape on an H200 without network (issue 23); two calls, one right after the other.
# First, here: mkdir -p .gpu; cp ../shared/gpu/*.tar.xz .gpu/; studies/gpu/prepare.sh wheels torchao peers
#   1. run "bash studies/gpu/speed.sh 8b"    timeout_s 600   # carry=[".gpu"]; without a second call's peers only our rows
#   2. run "bash studies/gpu/speed.sh 1b"    timeout_s 420   # carry=[".carry/peers"]
# Beside eight.sh, on the other GPU of two: studies/gpu/both.sh.
. studies/gpu/site.sh
speed() { # NAME SECONDS WORDS
    timeout "$2" python3 benchmarks/distill_speed.py --out "$OUT/speed_$1.json" "${@:3}" 2>&1 | tee "$OUT/speed_$1.txt"
    echo "== $1 after $SECONDS s"
}
eight="--shape 8b --length 8192"
ours() { speed 8b 380 $eight --batch 1 --profile --rows ours-bf16 ours-fp8-both ours-fp8-all "$@"; }
case $1 in
ours) ours ours-fp8-all-lean plain ;;
8b)
    ours
    speed 8b_lean 100 $eight --batch 1 --rows ours-lean
    speed 8b_peers 150 $eight --batch 1 --rows plain modelopt ;;
1b) speed 1b 400 ;;
*) echo "speed.sh ours, 8b or 1b" >&2; exit 2 ;;
esac
