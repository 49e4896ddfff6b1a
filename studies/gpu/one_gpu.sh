# What a script for one GPU without network begins with: .gpu and .whl unpacked, where kernels that were compiled and tuned stay
mkdir -p /tmp/mamba /tmp/packages
[ -d /tmp/mamba/mamba_ssm ] || tar xJf .gpu/mamba-sm90.tar.xz -C /tmp/mamba
[ -d /tmp/packages/rich ] || python3 -m pip install -q --no-index --no-deps --no-compile --target /tmp/packages .whl/*.whl
export PYTHONPATH=/tmp/mamba:/tmp/packages:$PWD OMP_NUM_THREADS=2 TRITON_CACHE_DIR=/tmp/triton TRITON_CACHE_AUTOTUNING=1
export TORCHINDUCTOR_CACHE_DIR=/tmp/inductor PYTHONWARNINGS=ignore PYTHONUNBUFFERED=1
