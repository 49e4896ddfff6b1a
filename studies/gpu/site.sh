# What two.sh, speed.sh and both.sh begin with: kernels, wheels and peers in /tmp/site as they come, and where what is tuned stays.
mkdir -p /tmp/site
[ -d /tmp/site/mamba_ssm ] || (for kit in mamba te; do tar xJf .gpu/$kit-sm90.tar.xz -C /tmp/site & done; wait)
wheels() { # FOLDER PACKAGE: all of the folder, unless the package is there
    [ ! -d "$1" ] || [ -d "/tmp/site/$2" ] || python3 -m pip install -q --no-index --no-deps --no-compile --target /tmp/site "$1"/*.whl
}
wheels .whl fla
wheels .carry/peers trl
export PYTHONPATH=/tmp/site:$PWD OMP_NUM_THREADS=8 PYTHONUNBUFFERED=1 PYTHONWARNINGS=ignore NVTE_FRAMEWORK=pytorch HF_HUB_OFFLINE=1
export TRITON_CACHE_DIR=/tmp/triton TRITON_CACHE_AUTOTUNING=1 TORCHINDUCTOR_CACHE_DIR=/tmp/inductor
export NCCL_NVLS_ENABLE=0 TORCH_SYMM_MEM_DISABLE_MULTICAST=1 NVSHMEM_DISABLE_NVLS=1 # NVLink multicast stays off
