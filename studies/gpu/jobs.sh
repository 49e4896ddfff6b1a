# Jobs on a GPU machine, each with a GPU, a limit and a log of its own; source it in a script that runs under setsid.
#   tar xJf .gpu/mamba-sm90.tar.xz -C /tmp/mamba; tar xJf .gpu/te-sm90.tar.xz -C /tmp/te        # with mkdir -p, a call before
#   .whl/*.whl in /tmp/packages and the tree in /tmp/tree, as start.sh does; .carry/peers/*.whl likewise in /tmp/peers for $peers
#   job NAME GPU SECONDS PYTHONPATH command …        # waits; & for beside; log in /tmp/log/NAME.log, NAME.done when it ended
#   wait_for NAME …        summary SECONDS NAME …    # waits that long at most, shows the logs' ends, packs logs and results to $OUT
# The machine goes back after 30 idle seconds with all that is on it: send the next wait in the same breath, and none that is
# longer than the device time left, or its results do not come back.
# PYTHONPATH is $plain, $fp8 (transformer-engine in front: peft breaks on it) or $peers. `mps` before many small processes;
# `alone` before what is timed. Results belong in /tmp/res. A worker of search_quality.py takes 2 to 4 GiB, of tied_lora.py 5:
# 20 of them fill a card.
export NVTE_FRAMEWORK=pytorch TRITON_CACHE_AUTOTUNING=1 TRITON_CACHE_DIR=/tmp/triton TORCHINDUCTOR_CACHE_DIR=/tmp/inductor
export HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1 OMP_NUM_THREADS=2 CUDA_MPS_LOG_DIRECTORY=/tmp/mps_log
plain=/tmp/mamba:/tmp/packages:/tmp/tree fp8=/tmp/te:$plain peers=/tmp/mamba:/tmp/peers:/tmp/packages:/tmp/tree
mkdir -p /tmp/log /tmp/res /tmp/mps /tmp/mps_log
[ -d /tmp/tree ] && cd /tmp/tree
job() {
    local name=$1 gpu=$2 limit=$3 path=$4; shift 4
    ( echo "start $(date +%T)"; CUDA_VISIBLE_DEVICES=$gpu PYTHONPATH=$path timeout "$limit" "$@"
      echo "rc=$? end $(date +%T)" ) >/tmp/log/$name.log 2>&1
    touch /tmp/log/$name.done
}
wait_for() { local name; for name in "$@"; do until [ -e /tmp/log/$name.done ]; do sleep 1; done; done; }
mps() { export CUDA_MPS_PIPE_DIRECTORY=/tmp/mps; pgrep -f nvidia-cuda-mps-control >/dev/null || nvidia-cuda-mps-control -d; }
alone() { export CUDA_MPS_PIPE_DIRECTORY=/tmp/no_mps; }
summary() {
    local end=$(( $(date +%s) + $1 )) name file; shift
    for name in "$@"; do until [ -e /tmp/log/$name.done ] || [ "$(date +%s)" -ge $end ]; do sleep 1; done; done
    date +%T; nvidia-smi --query-gpu=utilization.gpu,memory.used --format=csv,noheader
    for file in /tmp/log/*.log; do
        echo "== $(basename $file) $(grep -o '^start .*' $file | head -1) $(grep -o '^rc=.*' $file | tail -1)"
        tail -n 3 $file | cut -c1-170
    done
    tar czf $OUT/logs.tgz -C /tmp log; tar czf $OUT/res.tgz -C /tmp res
    find /tmp/triton -name '*.autotune.json' | tar czf $OUT/triton.tgz -T - 2>/dev/null
}
