# eight.py on one H200 without network: 8 B to 4 B by the user's own commands. Two calls or three, one right after the other (the
# machine goes back after 30 idle seconds, and takes the work with it); about 13 minutes of device time together. First, here:
#   mkdir -p .gpu .whl; cp ../shared/gpu/mamba-sm90.tar.xz .gpu/; wheels into .whl as studies/gpu/prepare.sh says
# Each call, kind nvidia-h200, carry=[".gpu", ".whl"], timeout_s 600:
#   1. run "bash studies/gpu/eight.sh"                    # make, inspect, score, search, prune; distill as far as it comes
#   2. run "bash studies/gpu/eight.sh"                    # goes on: distill, eval, generate, export; again where it says what is left
#   3. give_back; here: FILES_AT/eight.json has every row (docs/results/eight.md)
# Rehearsal: python studies/gpu/eight.py --tiny --device cpu --work /tmp/e8 --out /tmp/e8 --steps 4
mkdir -p /tmp/mamba /tmp/packages
[ -d /tmp/mamba/mamba_ssm ] || tar xJf .gpu/mamba-sm90.tar.xz -C /tmp/mamba
[ -d /tmp/packages/rich ] || python3 -m pip install -q --no-index --no-deps --no-compile --target /tmp/packages .whl/*.whl
export PYTHONPATH=/tmp/mamba:/tmp/packages:$PWD OMP_NUM_THREADS=8 PYTHONUNBUFFERED=1
. studies/gpu/places.sh eight 106
timeout 590 python3 studies/gpu/eight.py --limit "${EIGHT_LIMIT:-560}" --work "$run" --checkpoint "$parent" --out "$OUT" "$@" 2>&1 |
    tee "$OUT/eight.txt"
