# A session on one H200 or two without network: what was changed since the last, checked (issues 23 and 26), then recovery.sh (issue 24) and quantised.sh
# with its teacher (issue 25), or lean.py (issue 23: 100 M parameters over 100 M tokens, three optimisers, two seeds; about 250 s each). Three calls,
# kind nvidia-h200 or nvidia-h200-x2, each right after the other; 1,750 s. First, here:
#   mkdir -p .gpu; cp ../shared/gpu/*.tar.xz .gpu/; studies/gpu/prepare.sh wheels torchao; pip download of compressed-tensors and loguru into .whl
#   python studies/recovery.py larger data /tmp/recovery ../shared/data
#   1. run "bash studies/gpu/both.sh checked"            timeout_s 600   # carry=[".gpu"]
#   2. run "bash studies/gpu/trained.sh teacher"         timeout_s 600   # carry=[".whl", ".carry/recovery"]; tests/gpu beside it
#   3. run "bash studies/gpu/trained.sh ways formats"    timeout_s 600   # or "ways lean"; again: it goes on
#   4. give_back; here, as recovery.sh and quantised.sh say, and: tar xzf FILES_AT/lean.tgz -C RUN; python studies/lean.py table RUN
study=recovery
. studies/gpu/one_gpu.sh # unpacks, before two want it
lean=/dev/shm/lean text=$PWD/.carry/recovery
small="--size 100m --tokens 100M --seeds 2 --length 512 --batch 64 --blocks 256 --rate 1.5e-3 --device cuda"
last=$(($(nvidia-smi -L | wc -l) - 1))
beside() { # lean or formats, on the second card if there are two
    export CUDA_VISIBLE_DEVICES=$last
    if [ "$1" = lean ]; then
        timeout $((575 - SECONDS)) python studies/lean.py run $lean $small --train "$text/train" --validation "$text/validation" >>/tmp/lean.txt 2>&1
        cp /tmp/lean.txt $lean
        tar czf "$OUT/lean.tgz" -C $lean lean.json lean.txt
        return
    fi
    export QUANTISED_TEACHER=$run/teacher/model QUANTISED_TEXT=$text QUANTISED_CHOICE=$text/validation QUANTISED_RATES=1.5e-4,5e-4
    [ -d /dev/shm/quantised/student/student ] || bash studies/gpu/quantised.sh student
    [ "$1" = student ] || bash studies/gpu/quantised.sh formats $((500 - SECONDS))
}
tested() { # the shared server of small processes is not for them
    . studies/gpu/site.sh
    export CUDA_MPS_PIPE_DIRECTORY=/tmp/alone OMP_NUM_THREADS=3
    tests $last 450 captured saves &
    tests $last 450 precision step search_precision &
    if [ $last = 1 ]; then
        tests 0,1 570 fsdp on_policy
    else
        tests 0 450 kernels delta &
        tests 0 450 demo generation experts offload
    fi
    wait
}
case $1 in
teacher)
    [ ! -e /tmp/eight_places ] || rm -rf $(cat /tmp/eight_places) # CPU memory, most of it
    (tested) &
    CUDA_VISIBLE_DEVICES=0 bash studies/gpu/recovery.sh teacher
    nvidia-cuda-mps-control -d 2>/dev/null # of both cards; what the scripts start after it is this one
    beside student &
    CUDA_VISIBLE_DEVICES=0 bash studies/gpu/recovery.sh ways $((580 - SECONDS)) ;;
ways)
    beside "$2" &
    CUDA_VISIBLE_DEVICES=0 bash studies/gpu/recovery.sh ways 575 ;;
*) echo "trained.sh teacher or ways, formats or lean" >&2; exit 2 ;;
esac
wait
