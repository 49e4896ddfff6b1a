# Parent against student in vLLM on one H200 without network; the kit's README (../shared/gpu/vllm-kit) says what it is and that its
# last part was never run. It, the tree and rich are 60 of the 64 MiB that a call carries: nothing else travels.
#   studies/gpu/prepare.sh wheels; cp -r ../shared/gpu/vllm-kit .carry/vllm; cp .whl/{rich,markdown_it,mdurl,pygments}*.whl .carry/vllm
#   0. run "bash studies/gpu/vllm.sh unpack"   timeout_s 240   # carry=[".carry/vllm"]; ends with "vLLM imports", or the error: stop there
#   1. run "bash studies/gpu/vllm.sh words"    timeout_s 500   # 64 greedy words of the embedded teacher and a per-block student
#   2. run "bash studies/gpu/vllm.sh speed"    timeout_s 590   # output tokens a second of 4 B and of 70 % of it, 64 and 256 at once
# One right after the other: the machine goes back after 30 idle seconds. Where FlashAttention 3 is missing (call 0 says so) add
# TRITON_ATTN to calls 1 and 2. The rows are in $OUT/vllm_*.json; 700 s of device time together.
site=/tmp/site
export PYTHONPATH=$site:/tmp/packages:$PWD:benchmarks OMP_NUM_THREADS=8 PYTHONUNBUFFERED=1
attention=${2:+--attention $2}
check() { # NAME LIMIT FOLDER …: serve_check.py, its rows in $OUT
    timeout "$2" python3 .carry/vllm/serve_check.py "$3/parent" "$3/student" $attention "${@:4}" --json "$OUT/vllm_$1.json" 2>&1 |
        tee "$OUT/vllm_$1.txt"
}
case $1 in
unpack)
    python3 -m pip install -q --no-index --no-deps --no-compile --target /tmp/packages .carry/vllm/*.whl
    bash .carry/vllm/install.sh $site 2>&1 | tee "$OUT/install.log"
    [ "${PIPESTATUS[0]}" = 0 ] && echo "vLLM imports" ;;
words)
    python3 studies/gpu/vllm_checkpoints.py small /tmp/small && check words 470 /tmp/small ;;
speed)
    python3 studies/gpu/vllm_checkpoints.py large /dev/shm/large && check speed 500 /dev/shm/large --skip-words --limit 120 ;;
esac
