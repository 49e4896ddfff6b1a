# What two.sh, speed.sh, both.sh and trained.sh begin with: kernels, wheels and peers in /tmp/site as they come, and where what is tuned stays.
mkdir -p /tmp/site
[ -d /tmp/site/mamba_ssm ] || (for kit in .gpu/*.tar.xz; do tar xJf $kit -C /tmp/site & done; wait)
wheels() { # FOLDER PACKAGE: all of the folder, unless the package is there
    [ ! -d "$1" ] || [ -d "/tmp/site/$2" ] || python3 -m pip install -q --no-index --no-deps --no-compile --target /tmp/site "$1"/*.whl
}
wheels .whl fla
wheels .carry/peers trl
export PYTHONPATH=/tmp/site:$PWD OMP_NUM_THREADS=8 PYTHONUNBUFFERED=1 PYTHONWARNINGS=ignore NVTE_FRAMEWORK=pytorch HF_HUB_OFFLINE=1
export TRITON_CACHE_DIR=/tmp/triton TRITON_CACHE_AUTOTUNING=1 TORCHINDUCTOR_CACHE_DIR=/tmp/inductor
export NCCL_NVLS_ENABLE=0 TORCH_SYMM_MEM_DISABLE_MULTICAST=1 NVSHMEM_DISABLE_NVLS=1 # NVLink multicast stays off
tests() { # CARDS SECONDS FILE...: side by side with others', for most of it is compilers' work
    for file in "${@:3}"; do
        [ $SECONDS -gt $(($2 - 20)) ] && break
        CUDA_VISIBLE_DEVICES=$1 timeout $(($2 - SECONDS)) python3 -m pytest -s -q -m gpu "tests/gpu/test_${file}_gpu.py" >"$OUT/test_$file.txt" 2>&1
        echo "$file after $SECONDS s: $(tail -n 1 "$OUT/test_$file.txt")"
    done
}
