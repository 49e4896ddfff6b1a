# two.py on two H200s without network (issue 26); three calls, each right after the other (the machine goes back after 30 idle seconds
# and takes the work with it); 1,500 s of device time together, the start included. First, here:
#   mkdir -p .gpu; cp ../shared/gpu/*.tar.xz .gpu/
# Each call, kind nvidia-h200-x2; only the first carries, for what came once stays unpacked in /tmp:
#   1. run "bash studies/gpu/two.sh"                   timeout_s 600   # carry=[".gpu"]: cut, link, plan, one card, two
#   2. run "bash studies/gpu/two.sh"                   timeout_s 600   # goes on: context, then tests beside resume
#   3. run "TWO_LIMIT=400 bash studies/gpu/two.sh"     timeout_s 440   # what is left, where it says that something is
#   4. give_back; here: python studies/gpu/two.py table FILES_AT       # into docs/results/two_gpus.md
# Some parts alone: run "bash studies/gpu/two.sh tests" timeout_s 360, carry as above.
# Every part is a file in $OUT as soon as it has a row, and each call brings all so far. Seconds on 2026-11-30: ready 18, cut 180, one
# card 140, two cards 80 each, context 180 each, tests 270, a leg 60 to 100.
# Rehearsal: python studies/gpu/two.py cut link plan bf16 fp8 pair context tests resume --tiny --device cpu --work /tmp/two --out /tmp/two
. studies/gpu/site.sh
python3 -c 'import jinja2, matplotlib, pytest, hypothesis, rich, scipy, tokenizers, typer, yaml, transformer_engine.pytorch' || exit
[ "$(df --output=avail -B1000000000 /dev/shm | tail -1)" -ge 115 ] || mount -o remount,size=150G /dev/shm
. studies/gpu/places.sh two 115
limit=${TWO_LIMIT:-570}
two() {
    python3 studies/gpu/two.py "$@" --limit $((limit - SECONDS)) --work "$run" --checkpoint "$parent" --out "$OUT" 2>&1 |
        tee -a "$OUT/log.txt"
}
mkdir -p "$run"
echo "ready after $SECONDS s"
if [ $# -gt 0 ]; then
    for part; do two "$part"; done
    exit
fi
two cut link plan
CUDA_VISIBLE_DEVICES=0 two bf16 &
CUDA_VISIBLE_DEVICES=1 two fp8
wait
two pair
two context
two tests &
two resume
wait
tar czf "$OUT/logs.tgz" -C "$run" $(cd "$run" && ls -- *.log)
python3 studies/gpu/two.py table "$OUT" | tee -a "$OUT/log.txt"
