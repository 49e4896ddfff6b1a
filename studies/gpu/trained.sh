# A session on two H200s without network: recovery.sh on one card (issue 24), lean.py on the other (issue 23: 100 M parameters over 100 M
# tokens, three optimisers, two seeds; about 250 s each). Three calls, kind nvidia-h200-x2, each right after the other; 1,800 s. First, here:
#   studies/gpu/prepare.sh wheels; pip download of torchao into .whl; python studies/recovery.py larger data /tmp/recovery ../shared/data
#   1. run "bash studies/gpu/trained.sh teacher"    timeout_s 600   # carry=[".gpu/mamba-sm90.tar.xz", ".whl", ".carry/recovery"]
#   2. run "bash studies/gpu/trained.sh ways"       timeout_s 600
#   3. run "bash studies/gpu/trained.sh ways"       timeout_s 560
#   4. give_back; here, as recovery.sh says, and: tar xzf FILES_AT/lean.tgz -C RUN; python studies/lean.py table RUN
study=recovery
. studies/gpu/one_gpu.sh # unpacks, before two want it
lean=/dev/shm/lean text=$PWD/.carry/recovery
half="--size 100m --tokens 100M --seeds 2 --length 512 --batch 64 --blocks 256 --rate 1.5e-3 --device cuda"
CUDA_VISIBLE_DEVICES=1 timeout $((575 - SECONDS)) python studies/lean.py run $lean $half --train "$text/train" --validation "$text/validation" \
    >>/tmp/lean.txt 2>&1 &
case $1 in
teacher) CUDA_VISIBLE_DEVICES=0 bash studies/gpu/recovery.sh teacher ;;
ways) CUDA_VISIBLE_DEVICES=0 bash studies/gpu/recovery.sh ways 570 ;;
*) echo "trained.sh teacher or ways" >&2; exit 2 ;;
esac
wait
cp /tmp/lean.txt $lean
tar czf "$OUT/lean.tgz" -C $lean lean.json lean.txt
tail -n 3 /tmp/lean.txt
