# A session on one H200 or two without network: recovery.sh (issue 24) beside quantised.sh with its teacher (issue 25) or lean.py (issue 23: 100 M parameters
# over 100 M tokens, three optimisers, two seeds; about 250 s each). First, here:
#   mkdir -p .gpu; cp ../shared/gpu/*.tar.xz .gpu/; studies/gpu/prepare.sh wheels formats torchao
#   python studies/recovery.py larger data /tmp/recovery ../shared/data
# Three calls, each right after the other, 1,750 s. What is left after 2026-12-01 (texts are done; the teacher does not outlive its machine, so steps, half
# on-policy and formats are run anew; score and what changed since are checked first):
#   1. run "bash studies/gpu/both.sh score waits"                                          timeout_s 300   # carry=[".gpu"]; some 180 s
#   2. run "RECOVERY_QUESTIONS='steps on-policy' bash studies/gpu/trained.sh teacher"      timeout_s 600   # carry=[".whl", ".carry/recovery"]
#   3. run "RECOVERY_QUESTIONS='steps on-policy' bash studies/gpu/trained.sh ways formats" timeout_s 600   # or "ways lean"; again: it goes on
#   4. give_back; here, as recovery.sh and quantised.sh say, and: tar xzf FILES_AT/all.tgz; tar xzf lean.tgz -C RUN; python studies/lean.py table RUN
# Reckoned: start 80 s, teacher 200, half on-policy 300 with the formats' student beside it, the other 34 runs of 4 M tokens 860 at the 158,000 tokens/s that
# sixteen processes had, starts included; a fourth call with TRAINED_LIMIT=SECONDS, where fewer than 600 are left. "teacher FILE..." tests
# tests/gpu/test_FILE_gpu.py beside it: with all of them (220 s) it took 304 s.
limit=${TRAINED_LIMIT:-580}
far() { (cd /dev/shm && tar cf - recovery/{results,logs,teacher/model/training.json} quantised/study/results quantised/*.log 2>/dev/null) | gzip >$OUT/far.tgz; }
. studies/gpu/bring.sh trained
study=recovery
. studies/gpu/one_gpu.sh # unpacks, before two want it
lean=/dev/shm/lean text=$PWD/.carry/recovery
small="--size 100m --tokens 100M --seeds 2 --length 512 --batch 64 --blocks 256 --rate 1.5e-3 --device cuda"
last=$(($(nvidia-smi -L | wc -l) - 1))
beside() { # lean or formats, on the second card if there are two
    export CUDA_VISIBLE_DEVICES=$last
    if [ "$1" = lean ]; then
        timeout $((limit - SECONDS)) python studies/lean.py run $lean $small --train "$text/train" --validation "$text/validation" >>/tmp/lean.txt 2>&1
        cp /tmp/lean.txt $lean
        tar czf "$OUT/lean.tgz" -C $lean lean.json lean.txt
        return
    fi
    export QUANTISED_TEACHER=$run/teacher/model QUANTISED_RATES=1.5e-4,5e-4
    [ -f /dev/shm/quantised/study/mix.json ] || bash studies/gpu/quantised.sh student $((limit - SECONDS))
    [ "$1" = student ] || bash studies/gpu/quantised.sh formats $((limit - SECONDS))
}
tested() { # the shared server of small processes is not for them
    . studies/gpu/site.sh
    export CUDA_MPS_PIPE_DIRECTORY=/tmp/alone OMP_NUM_THREADS=3
    for file; do tests $(seq -s, 0 $last) 450 $file & done
    wait
}
case $1 in
teacher)
    [ ! -e /tmp/eight_places ] || rm -rf $(cat /tmp/eight_places) # CPU memory, most of it
    (tested "${@:2}") &
    CUDA_VISIBLE_DEVICES=0 bash studies/gpu/recovery.sh teacher
    nvidia-cuda-mps-control -d 2>/dev/null # of both cards; what the scripts start after it is this one
    beside student &
    CUDA_VISIBLE_DEVICES=0 bash studies/gpu/recovery.sh ways $((limit - SECONDS)) ;;
ways)
    beside "$2" &
    CUDA_VISIBLE_DEVICES=0 bash studies/gpu/recovery.sh ways $((limit - SECONDS)) ;;
*) echo "trained.sh teacher or ways, formats or lean" >&2; kill $loop; exit 2 ;;
esac
bring
echo "trained.sh $1: $SECONDS s"
