# studies/quantised.py on one H200 without network (issue 25): a teacher's student of 83 %, FFN widths in multiples of 256 so that Q4_K has whole blocks,
# and that student in BF16, FP8, NVFP4, INT4, Q4_K (llama.cpp's rounding in PyTorch: nothing of it travels) and the mix of search at NVFP4's bytes, each
# afterwards and trained so, beside as much training in BF16. First, here: studies/gpu/prepare.sh wheels formats, and the teacher's text:
# recovery_teacher.yaml's (python studies/recovery.py larger data ...), or moe_teacher.yaml's with QUANTISED_RECIPE and QUANTISED_TEXT. Alone, without
# trained.sh, kind nvidia-h200, each right after the other, carry=[".gpu/mamba-sm90.tar.xz", ".whl", ".carry/recovery"]:
#   1. run "bash studies/gpu/quantised.sh student"     timeout_s 600   # reckoned: teacher 200 s (60 M tokens), student 80 s, mix 54 s
#   2. run "bash studies/gpu/quantised.sh formats"     timeout_s 600   # reckoned: 500 s, six ways side by side, 4 runs of 4 M tokens each
# Each call goes on with what is there and brings back every result so far, the middle rate first. On 2026-12-01 beside recovery.sh, one rate and seed. On
# a CPU with a tiny model:
#   QUANTISED_REHEARSAL=1 QUANTISED_TEACHER=a folder of a model QUANTISED_TEXT=a folder of calibration, train and validation ...
mkdir -p /tmp/packages
if [ -z "$QUANTISED_REHEARSAL" ]; then
    mkdir -p /tmp/mamba
    [ -d /tmp/mamba/mamba_ssm ] || tar xJf .gpu/mamba-sm90.tar.xz -C /tmp/mamba
    [ -d /tmp/packages/rich ] || python3 -m pip install -q --no-index --no-deps --no-compile --target /tmp/packages .whl/*.whl
    export PYTHONPATH=/tmp/mamba:/tmp/packages:$PWD
fi
export CUDA_MPS_CLIENT_PRIORITY=1 # below recovery.sh's half on-policy, which waits for each of its kernels
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} PYTHONWARNINGS=ignore PYTHONUNBUFFERED=1
export TRITON_CACHE_DIR=/tmp/triton TRITON_CACHE_AUTOTUNING=1 TORCHINDUCTOR_CACHE_DIR=/tmp/inductor
run=${QUANTISED_RUN:-/dev/shm/quantised} text=${QUANTISED_TEXT:-.carry/recovery} limit=${2:-580}
recipe=${QUANTISED_RECIPE:-studies/recovery_teacher.yaml} tokens=${QUANTISED_TOKENS:-4000000} length=${QUANTISED_LENGTH:-512}
batch=${QUANTISED_BATCH:-32} choice=${QUANTISED_CHOICE:-$text/validation} samples=${QUANTISED_SAMPLES:-64}
mkdir -p $run
teacher=${QUANTISED_TEACHER:-$run/teacher/model}
study="--start $run/student/student --teacher $teacher --train $text/train --validation $choice --calibration $text/calibration --length $length --tokens $tokens --batch $batch"
study="$study --micro-batch ${QUANTISED_MICRO:-16} --samples ${QUANTISED_MIX:-16} --rates ${QUANTISED_RATES:-1.5e-4,5e-5,5e-4}"
left() { echo $((limit - SECONDS > 1 ? limit - SECONDS : 1)); }
mix() { # which search chooses, once
    timeout $(left) python3 studies/quantised.py mix $run/study $study >>$run/mix.log 2>&1 || tail -n 4 $run/mix.log | cut -c1-300
}
case $1 in
student)
    [ -f $teacher/config.json ] || timeout $(left) python3 -m minipuzzle pretrain $recipe --run $run/teacher || exit 1
    timeout $(left) python3 -m minipuzzle score $teacher --run $run/student --data $text/calibration --length $length --samples $samples --block-samples 16 &&
        timeout $(left) python3 -m minipuzzle search --run $run/student --data $choice --length $length --budget 83% --top 1 \
            --validation-blocks 16 --candidates ${QUANTISED_CANDIDATES:-40} --multiple ${QUANTISED_MULTIPLE:-256} &&
        timeout $(left) python3 -m minipuzzle distill --run $run/student --data $text/train --validation $choice --length $length \
            --tokens $tokens --batch $batch --micro-batch ${QUANTISED_MICRO:-16} --learning-rate 5e-4 && echo recovered after $SECONDS s && mix && echo mixed after $SECONDS s ;;
formats)
    nvidia-cuda-mps-control -d 2>/dev/null # many small processes on one GPU
    [ -f $run/study/mix.json ] || mix
    timeout $(left) python3 studies/quantised.py after $run/study $study >$run/after.log 2>&1 &
    for format in ${QUANTISED_FORMATS:-plain nvfp4 mix int4 Q4_K fp8}; do
        timeout $(left) python3 studies/quantised.py train $run/study $format $study >$run/$format.log 2>&1 &
    done
    wait
    tail -n 2 $run/*.log | cut -c1-300
    python3 studies/quantised.py table $run/study
    [ -z "$OUT" ] || tar czf "$OUT/quantised.tar.gz" -C $run study/results study/mix.json study/quantised.png ;;
*) echo "quantised.sh student or formats [SECONDS]" >&2; exit 2 ;;
esac
