# studies/quantised.py on one H200 without network: the 158 M teacher of moe_teacher.yaml, a student of 83 % of it, and its formats.
# First, here: python studies/moe.py data; python3 -m pip download as .library/device/README.md says of wheels, compressed-tensors
# and loguru (gguf and xllamacpp too where Q8_0 and Q4_K are wanted: 100 MB). Not run yet; rehearsed on a CPU with a tiny model
# (QUANTISED_REHEARSAL=1). Calls, kind nvidia-h200, some 1,100 s:
#   1. run "bash studies/gpu/quantised.sh student"     timeout_s 590   # carry=[".gpu", ".whl", ".carry/moe"]; teacher 250 s
#   2. run "bash studies/gpu/quantised.sh formats"     timeout_s 590   # the control and five formats side by side
# Each call goes on with what is there and brings back every result so far.
mkdir -p /tmp/packages
if [ -z "$QUANTISED_REHEARSAL" ]; then
    mkdir -p /tmp/mamba
    [ -d /tmp/mamba/mamba_ssm ] || tar xJf .gpu/mamba-sm90.tar.xz -C /tmp/mamba
    [ -d /tmp/packages/rich ] || python3 -m pip install -q --no-index --no-deps --no-compile --target /tmp/packages .whl/*.whl
    export PYTHONPATH=/tmp/mamba:/tmp/packages:$PWD
fi
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} PYTHONWARNINGS=ignore PYTHONUNBUFFERED=1
export TRITON_CACHE_DIR=/tmp/triton TRITON_CACHE_AUTOTUNING=1
run=${QUANTISED_RUN:-/dev/shm/quantised} text=${QUANTISED_TEXT:-.carry/moe}
recipe=${QUANTISED_RECIPE:-studies/moe_teacher.yaml} tokens=${QUANTISED_TOKENS:-4000000} length=${QUANTISED_LENGTH:-512}
batch=${QUANTISED_BATCH:-32}
mkdir -p $run
data="--validation ${QUANTISED_CHOICE:-$text/choice} --length $length"
teacher=${QUANTISED_TEACHER:-$run/teacher/model}
case $1 in
student)
    [ -f $teacher/config.json ] || timeout 400 python3 -m minipuzzle pretrain $recipe --run $run/teacher || exit 1
    timeout 200 python3 -m minipuzzle score $teacher --run $run/student --data $text/train --length $length --samples 64 --block-samples 16 &&
        timeout 200 python3 -m minipuzzle search --run $run/student --data ${QUANTISED_CHOICE:-$text/choice} --length $length --budget 83% --top 1 \
            --validation-blocks 16 --candidates 40 --multiple 128 &&
        timeout 300 python3 -m minipuzzle distill --run $run/student --data $text/train $data --tokens $tokens --batch $batch \
            --learning-rate 5e-4 && echo recovered after $SECONDS s ;;
formats)
    study="--start $run/student/student --teacher $teacher --train $text/train $data --tokens $tokens --batch $batch"
    study="$study --rates ${QUANTISED_RATES:-5e-5,1.5e-4,5e-4}"
    nvidia-cuda-mps-control -d 2>/dev/null # many small processes on one GPU
    timeout 200 python3 studies/quantised.py after $run/study $study >$run/after.log 2>&1
    for format in ${QUANTISED_FORMATS:-plain nvfp4 mxfp4 int4 int4-32 fp8}; do
        timeout ${2:-330} python3 studies/quantised.py train $run/study $format $study >$run/$format.log 2>&1 &
    done
    wait
    tail -n 2 $run/*.log | cut -c1-300
    python3 studies/quantised.py table $run/study
    [ -z "$OUT" ] || tar czf "$OUT/quantised.tar.gz" -C $run study/results study/quantised.png ;;
esac
