# headline.py and fp8_parity.py on two GPUs in SECONDS: bash two_gpus.sh SECONDS, under setsid, in /tmp/tree (jobs.sh says what lies
# where; touch /tmp/fp8.ready once the tokens of fp8_data.py are in /tmp/fp8). The experiment has GPU 0 in three lanes, the three
# arms GPU 1; once the experiment is through, fp8-all moves to GPU 0, which more than doubles its speed. What time is left then
# goes to the ablation and to the embedded teacher's recipe from other seeds (their weights: /tmp/again). The tests run beside.
. "$(dirname "$0")/jobs.sh"
end=$(( $(date +%s) + $1 ))
left() { echo $(( end - $(date +%s) )); }
tests() { alone; job "$1" "$2" 400 $fp8 python3 -m pytest -q -s -p no:cacheprovider "${@:3}"; }
parity() {  # NAME GPUS COUNT ARM ...
    job "$1" "$2" "$(left)" $fp8 python3 benchmarks/fp8_parity.py --arms "${@:4}" --gpus "$3" --seconds $(( $(left) - 25 )) \
        --data /tmp/fp8 --out "/tmp/res/$1"
}
again() {  # GPU SEED
    python3 -c "import json; r = json.load(open('minipuzzle/embedded/teacher/training.json'))['recipe']; r.pop('run')
r['device'], r['training']['seed'] = 'cuda', $2; json.dump(r, open('/tmp/again$2.yaml', 'w'))"
    job "again$2" "$1" "$(left)" $plain python3 -m minipuzzle pretrain "/tmp/again$2.yaml" --run "/tmp/again/$2"
    cp "/tmp/again/$2/model/training.json" "/tmp/res/again$2.json"
}
work="--text .carry/corpus --work /tmp/headline --gpus 3"
mkdir -p /tmp/headline && cp -r /tmp/triton /tmp/headline/triton 2>/dev/null
( tests captured 1 tests/gpu/test_captured_gpu.py ) &
( export NCCL_NVLS_ENABLE=0; tests fsdp 0,1 tests/gpu/test_fsdp_gpu.py -k recipe ) &
mps
( job headline 0,0,0 "$(left)" $fp8 python3 benchmarks/headline.py $work --minutes 28 --out /tmp/res/headline_experiment.json
  cp /tmp/headline/tasks.json /tmp/res/ ) &
( until [ -e /tmp/fp8.ready ]; do sleep 1; done; parity three 1,1,1 3 bf16 fp8 fp8-all ) &
wait_for headline
pkill -f "fp8_parity.py --arms"; pkill -f "fp8_parity.py --arm "  # the arms save their states
while pgrep -f "fp8_parity.py --arm " >/dev/null; do sleep 0.5; done
( parity ends 1,1 2 bf16 fp8
  if [ "$(left)" -gt 200 ]; then again 1 1 & again 1 2 & wait; fi ) &
( parity whole 0 1 fp8-all
  if [ "$(left)" -gt 240 ]; then
      job ablation 0,0,0 "$(left)" $fp8 python3 benchmarks/headline_ablation.py $work --minutes $(( $(left) / 60 )) \
          --out /tmp/res/headline_ablation.json
  fi ) &
wait
touch /tmp/log/all.done
