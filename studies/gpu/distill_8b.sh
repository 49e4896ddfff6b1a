# distill_8b.py on one H200 without network, in two calls one right after the other (the machine goes back after 30 idle seconds):
#   bash studies/gpu/distill_8b.sh make cut search                       # 6 minutes; carry .gpu (mamba-sm90 is enough) and .whl
#   bash studies/gpu/distill_8b.sh distill --seconds 360                 # 9 minutes: 360 s of steps, the rest loads and compiles
# What it prints and the JSON files are in $OUT. The run directory (57 GB, 81 where a third state has room) lies in /dev/shm where
# that has room, the checkpoint (17 GB) in the other place.
mkdir -p /tmp/mamba /tmp/packages
[ -d /tmp/mamba/mamba_ssm ] || tar xJf .gpu/mamba-sm90.tar.xz -C /tmp/mamba
[ -d /tmp/packages/rich ] || python3 -m pip install -q --no-index --no-deps --no-compile --target /tmp/packages .whl/*.whl
here=$PWD
. studies/gpu/jobs.sh
cd "$here"
export PYTHONPATH=/tmp/mamba:/tmp/packages:$here OMP_NUM_THREADS=8 CUDA_MPS_PIPE_DIRECTORY=/tmp/no_mps
free() { df --output=avail -B1000000000 "$1" | tail -1; }
if [ ! -e /tmp/places ]; then
    run=/tmp parent=/dev/shm
    [ "$(free /dev/shm)" -ge 85 ] && run=/dev/shm parent=/tmp
    [ "$(free $parent)" -ge 18 ] || parent=$run
    mkdir -p $run/d8 && echo "$run/d8 $parent/parent_8b" >/tmp/places
fi
read -r run parent </tmp/places
echo "run directory in $run ($(free "$(dirname "$run")") GB free), checkpoint in $parent; $(nproc) cores"
timeout 575 python3 studies/gpu/distill_8b.py "$@" --work "$run" --checkpoint "$parent" --out "$OUT" 2>&1 | tee "$OUT/log.txt"
