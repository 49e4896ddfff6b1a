# A session on one GPU in SECONDS, under setsid, in /tmp/tree (jobs.sh says what lies where); what shares a machine is started
# once for each word:
#   session.sh headline SECONDS GPU        headline.py in three lanes, and headline_ablation.py where the 83 % student falls short
#   session.sh parity SECONDS GPU ARM …    arms of fp8_parity.py side by side, once /tmp/fp8.ready says that the tokens of
#       fp8_data.py are in /tmp/fp8
#   session.sh teacher SECONDS GPU SEED …  the embedded teacher's recipe from other seeds, side by side (weights: /tmp/again)
#   session.sh timed SECONDS GPU NAME …    one after the other, nothing beside them: account published transformers memory small large
#       distill (once /tmp/peers.ready says that .carry/peers/*.whl are in /tmp/peers)
#   session.sh loss SECONDS GPU WORD …     kl_loss.py, likewise, when the sessions WORD of that GPU have ended
. "$(dirname "$0")/jobs.sh"
what=$1 gpu=$3 lanes=$3,$3,$3 end=$(( $(date +%s) + $2 )); shift 3
left() { echo $(( end - $(date +%s) )); }
again() {  # SEED
    python3 -c "import json; r = json.load(open('minipuzzle/embedded/teacher/training.json'))['recipe']; r.pop('run')
r['device'], r['training']['seed'] = 'cuda', $1; json.dump(r, open('/tmp/again$1.yaml', 'w'))"
    job "again$1" $gpu "$(left)" $plain python3 -m minipuzzle pretrain "/tmp/again$1.yaml" --run "/tmp/again/$1"
    cp "/tmp/again/$1/model/training.json" "/tmp/res/again$1.json"
}
short() {  # asked at 83 %: 99 % of the accuracy, a loss within 1 %
    python3 - <<'PYTHON'
import json, sys
teacher, *students = json.load(open("/tmp/headline/tasks.json"))["rows"]
own = [row for row in students if row["name"] == "83%" or row["name"].startswith("83%, seed")]
near = lambda row: all(row["losses"][g]["loss"] <= 1.01 * loss["loss"] for g, loss in teacher["losses"].items())
sys.exit(all(near(row) and row["retained"] >= 0.99 for row in own))
PYTHON
}
timed() {  # NAME
    local speed="--out /tmp/res/headline_speed.json" rows="python3 benchmarks/distill_speed.py --rows"
    case $1 in
    account) job account $gpu "$(left)" $plain python3 studies/headline_account.py $speed ;;
    published) job published $gpu "$(left)" $plain python3 benchmarks/latency.py --device cuda --published \
        --out /tmp/res/latency_published.json ;;
    distill)
        until [ -e /tmp/peers.ready ]; do sleep 1; done
        job distill_ours $gpu "$(left)" $fp8 $rows ours-bf16 ours-fp8 ours-fp8-both plain-ours --out /tmp/res/distill_ours.json
        job distill_peers $gpu "$(left)" $peers $rows modelopt trl plain --out /tmp/res/distill_peers.json ;;
    *) job "speed_$1" $gpu "$(left)" $plain python3 studies/headline_speed.py $1 $speed --seconds 15 ;;
    esac
}
case $what in timed|loss) alone ;; *) mps ;; esac
case $what in
headline)
    work="--text .carry/corpus --work /tmp/headline --gpus 3"
    mkdir -p /tmp/headline && cp -r /tmp/triton /tmp/headline/triton 2>/dev/null
    job headline $lanes "$(left)" $fp8 python3 studies/headline.py $work --minutes $(( $(left) / 60 )) \
        --out /tmp/res/headline_experiment.json
    cp /tmp/headline/tasks.json /tmp/res/
    cp -rn /tmp/headline/triton/. /tmp/triton/
    short && job ablation $lanes "$(left)" $fp8 python3 studies/headline_ablation.py $work --minutes $(( $(left) / 60 )) \
        --out /tmp/res/headline_ablation.json ;;
parity)
    until [ -e /tmp/fp8.ready ]; do sleep 1; done
    job parity $lanes "$(left)" $fp8 python3 studies/fp8_parity.py --arms "$@" --gpus $# --seconds $(( $(left) - 25 )) \
        --data /tmp/fp8 --out /tmp/res/parity ;;
teacher)
    for seed in "$@"; do again "$seed" & done
    wait ;;
timed) for name in "$@"; do timed "$name"; done ;;
loss)
    for word in "$@"; do wait_for "session-$word"; done
    job kl $gpu "$(left)" $peers python3 benchmarks/kl_loss.py --out /tmp/res/kl_loss.json ;;
esac
touch /tmp/log/session-$what.done
