# A session on two H200s without network: recovery.sh on one card (issue 24), on the other lean.py (issue 23: 100 M parameters over 100 M
# tokens, three optimisers, two seeds; about 250 s each) or quantised.sh with recovery.sh's teacher (issue 25). Three calls, kind
# nvidia-h200-x2, each right after the other; 1,800 s. First, here:
#   studies/gpu/prepare.sh wheels; pip download of torchao, compressed-tensors and loguru into .whl
#   python studies/recovery.py larger data /tmp/recovery ../shared/data
#   1. run "bash studies/gpu/trained.sh teacher lean"    timeout_s 600   # carry=[".gpu/mamba-sm90.tar.xz", ".whl", ".carry/recovery"]
#   2. run "bash studies/gpu/trained.sh ways formats"    timeout_s 600   # or lean again: it goes on
#   3. run "bash studies/gpu/trained.sh ways formats"    timeout_s 560
#   4. give_back; here, as recovery.sh and quantised.sh say, and: tar xzf FILES_AT/lean.tgz -C RUN; python studies/lean.py table RUN
study=recovery
. studies/gpu/one_gpu.sh # unpacks, before two want it
lean=/dev/shm/lean text=$PWD/.carry/recovery
small="--size 100m --tokens 100M --seeds 2 --length 512 --batch 64 --blocks 256 --rate 1.5e-3 --device cuda"
beside() { # lean or formats, on the second card
    export CUDA_VISIBLE_DEVICES=1
    if [ "$1" = lean ]; then
        timeout $((575 - SECONDS)) python studies/lean.py run $lean $small --train "$text/train" --validation "$text/validation" >>/tmp/lean.txt 2>&1
        cp /tmp/lean.txt $lean
        tar czf "$OUT/lean.tgz" -C $lean lean.json lean.txt
        return
    fi
    export QUANTISED_TEACHER=$run/teacher/model QUANTISED_TEXT=$text QUANTISED_CHOICE=$text/validation
    [ -d /dev/shm/quantised/student/student ] || bash studies/gpu/quantised.sh student
    bash studies/gpu/quantised.sh formats $((500 - SECONDS))
}
beside "$2" &
case $1 in
teacher) CUDA_VISIBLE_DEVICES=0 bash studies/gpu/recovery.sh teacher ;;
ways) CUDA_VISIBLE_DEVICES=0 bash studies/gpu/recovery.sh ways 570 ;;
*) echo "trained.sh teacher or ways, lean or formats" >&2; exit 2 ;;
esac
wait
