# What a script for one GPU without network begins with: .gpu and .whl unpacked, where kernels that were compiled and tuned stay; and
# the calls of a study of cuts (studies/cuts.py), whose name is $study. STUDY_RUN is its folder, RUN_TEACHER its teacher's recipe.
mkdir -p /tmp/mamba /tmp/packages
[ -d /tmp/mamba/mamba_ssm ] || tar xJf .gpu/mamba-sm90.tar.xz -C /tmp/mamba
[ -d /tmp/packages/rich ] || python3 -m pip install -q --no-index --no-deps --no-compile --target /tmp/packages .whl/*.whl
export PYTHONPATH=/tmp/mamba:/tmp/packages:$PWD OMP_NUM_THREADS=2 TRITON_CACHE_DIR=/tmp/triton TRITON_CACHE_AUTOTUNING=1
export TORCHINDUCTOR_CACHE_DIR=/tmp/inductor PYTHONWARNINGS=ignore PYTHONUNBUFFERED=1
run=${STUDY_RUN:-/dev/shm/$study}
mkdir -p $run
prepare() { # SECONDS
    timeout "$1" python studies/$study.py prepare $run --workers 8 && echo prepared
}
brought() { # all there is so far in one file, for 8 files come back; cases end in one rename, so each is whole
    tails=/tmp/${study}_tails
    rm -rf $tails && mkdir -p $tails/logs
    for folder in cases parts results; do
        [ -d $run/$folder ] && mkdir $tails/$folder && cp $run/$folder/*.json $tails/$folder 2>/dev/null
    done
    for log in $run/logs/*.log; do tail -c 4000 $log >"$tails/logs/$(basename $log)"; done
    tar czf "$OUT/$study.tar.gz" -C $tails .
    grep -lE "Error|Traceback" $run/logs/*.log | head -2 | xargs -r tail -n 4
    echo "$(ls $run/{cases,results}/*.json 2>/dev/null | wc -l) cases after $SECONDS s"
}
trained() { # SECONDS: the teacher alone
    timeout "$1" python -m minipuzzle pretrain ${RUN_TEACHER:-studies/${study%_net}_teacher.yaml} --run $run/teacher
    cp $run/teacher/model/training.json "$OUT/${study}_teacher.json"
    echo "teacher after $SECONDS s"
}
teacher() { # SECONDS
    trained "$1"
    prepare $((560 - SECONDS))
    brought
}
cases() { # SECONDS TOKENS
    nvidia-cuda-mps-control -d 2>/dev/null # many small processes on one GPU
    prepare "$1" && timeout $(($1 - SECONDS)) python studies/$study.py run $run --workers 8 --tokens "$2"
    brought
    python studies/$study.py table $run && cp $run/$study.json $run/$study.png "$OUT"
}
