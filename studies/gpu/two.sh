# two.py on two H200s without network (issue 26): the same call three times, each right after the other (the machine goes back after 30
# idle seconds and takes the work with it); 1,800 s of device time together, the start (about 60 s) included. First, here:
#   mkdir -p .gpu; cp ../shared/gpu/*.tar.xz .gpu/         # 51 MB, beside a tree of 14: the 64 MiB that travel; the image has all else
# Each call, kind nvidia-h200-x2; only the first carries, for what came once stays unpacked in /tmp:
#   1. run "bash studies/gpu/two.sh"                   timeout_s 600   # carry=[".gpu"]: tests beside cut; link, distill
#   2. run "bash studies/gpu/two.sh"                   timeout_s 600   # goes on: distill, resume, context
#   3. run "TWO_LIMIT=440 bash studies/gpu/two.sh"     timeout_s 480   # what is left, where it says that something is
#   4. give_back; here: python studies/gpu/two.py table FILES_AT       # into docs/results/two_gpus.md
# Every part is a file in $OUT as soon as it has a row, and each call brings all so far. Expected seconds: tests 330 beside cut 200;
# link 20; a distillation 100, of which four; a leg 90, of which three; context 120 and 240.
# Rehearsal: python studies/gpu/two.py tests cut link distill resume context --tiny --device cpu --work /tmp/two --out /tmp/two
mkdir -p /tmp/site
[ -d /tmp/site/mamba_ssm ] || for kit in .gpu/mamba-sm90.tar.xz .gpu/te-sm90.tar.xz; do tar xJf $kit -C /tmp/site || exit; done
export PYTHONPATH=/tmp/site:$PWD OMP_NUM_THREADS=8 PYTHONUNBUFFERED=1 PYTHONWARNINGS=ignore NVTE_FRAMEWORK=pytorch
export TRITON_CACHE_DIR=/tmp/triton TRITON_CACHE_AUTOTUNING=1 TORCHINDUCTOR_CACHE_DIR=/tmp/inductor HF_HUB_OFFLINE=1
export NCCL_NVLS_ENABLE=0 TORCH_SYMM_MEM_DISABLE_MULTICAST=1 NVSHMEM_DISABLE_NVLS=1 # NVLink multicast stays off
python3 -c 'import jinja2, matplotlib, pytest, hypothesis, rich, scipy, tokenizers, typer, yaml' || exit
[ "$(df --output=avail -B1000000000 /dev/shm | tail -1)" -ge 115 ] || mount -o remount,size=150G /dev/shm
. studies/gpu/places.sh two 115
limit=${TWO_LIMIT:-560}
two() {
    python3 studies/gpu/two.py "$@" --limit $((limit - SECONDS)) --work "$run" --checkpoint "$parent" --out "$OUT" 2>&1 |
        tee -a "$OUT/log.txt"
}
two tests &
two cut
wait
two link distill resume context
tar czf "$OUT/logs.tgz" -C "$run" $(cd "$run" && ls -- *.log)
python3 studies/gpu/two.py table "$OUT" | tee -a "$OUT/log.txt"
