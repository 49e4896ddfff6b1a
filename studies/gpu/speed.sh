# benchmarks/distill_speed.py at the 8B's and the 1B's shape on an H200 without network (issue 23); two calls, one right after the other.
# First, here: mkdir -p .gpu; cp ../shared/gpu/*.tar.xz .gpu/; studies/gpu/prepare.sh peers
#   1. run "bash studies/gpu/speed.sh ours"      timeout_s 560   # carry=[".gpu"]: our rows of the 8B, and what their time goes into
#   2. run "bash studies/gpu/speed.sh peers"     timeout_s 600   # carry=[".carry/peers"]: all rows of the 1B, then theirs of the 8B
# Beside eight.sh, on the other GPU of two: studies/gpu/both.sh.
. studies/gpu/site.sh
speed() { # NAME SECONDS WORDS
    timeout "$2" python3 benchmarks/distill_speed.py --out "$OUT/speed_$1.json" "${@:3}" 2>&1 | tee "$OUT/speed_$1.txt"
    echo "== $1 after $SECONDS s"
}
eight="--shape 8b --length 8192"
case $1 in
ours)
    speed 8b 330 $eight --batch 1 --profile --rows ours-bf16 ours-fp8-both ours-fp8-all
    timeout 90 python3 benchmarks/kl_loss.py --widths 4096 --rows ours ours-master ours-tiles ours-master-tiles --out "$OUT/kl_loss.json"
    speed 8b_two 130 $eight --batch 2 --micro-batch 1 --rows ours-bf16 ours-fp8-both ;;
peers)
    speed 8b_lean 100 $eight --batch 1 --rows ours-lean
    speed 1b 330
    speed 8b_peers 150 $eight --batch 1 --rows plain modelopt ;;
*) echo "speed.sh ours or peers" >&2; exit 2 ;;
esac
