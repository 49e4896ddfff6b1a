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
. studies/gpu/places.sh d8 85
timeout 575 python3 studies/gpu/distill_8b.py "$@" --work "$run" --checkpoint "$parent" --out "$OUT" 2>&1 | tee "$OUT/log.txt"
