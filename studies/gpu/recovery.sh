# How a teacher of 151 M parameters is best recovered (issue 24), on one H200 without network: studies/recovery.py's larger scale.
# First, here: studies/gpu/prepare.sh wheels (.gpu without te, .whl) and
#   python studies/recovery.py larger data /tmp/recovery ../shared/data        # .carry/recovery
# The machine goes back after 30 idle seconds with all that is on it, so the calls follow each other without a pause:
#   1. run "bash studies/gpu/recovery.sh teacher"    timeout_s 590   # carry=[".gpu", ".whl", ".carry/recovery"]
#   2. run "bash studies/gpu/recovery.sh ways 580"   timeout_s 600   # half on-policy, then all others side by side; again until none is left
#   3. give_back; here: tar xzf FILES_AT/recovery.tar.gz -C RUN; python studies/recovery.py larger table RUN
# RECOVERY_QUESTIONS="steps on-policy" leaves the texts out. Each run is a file when it is done, each call brings back all so far and goes on with
# what is missing. The times are guesses.
study=recovery
. studies/gpu/one_gpu.sh
case $1 in
teacher) trained 540 ;;
ways)
    nvidia-cuda-mps-control -d 2>/dev/null # many small processes on one GPU
    mkdir -p $run/logs
    python studies/recovery.py larger texts $run
    way() { # QUESTION WAY SECONDS
        timeout "$3" python studies/recovery.py larger run $run "$1" "$2" >>"$run/logs/$1.${2// /-}.log" 2>&1
    }
    python studies/recovery.py larger list $run $RECOVERY_QUESTIONS >$run/ways
    # first, for each of its 256 decoding steps would wait for the others' kernels: 37 ms a step beside sixteen processes
    grep -q "half on" $run/ways && way on-policy "half on" $(($2 - SECONDS))
    while read -r question way; do
        [ "$way" = "half on" ] || way "$question" "$way" $(($2 - SECONDS > 1 ? $2 - SECONDS : 1)) &
    done <$run/ways
    wait
    brought
    python studies/recovery.py larger table $run && cp $run/recovery.png "$OUT" ;;
*) echo "recovery.sh teacher or ways SECONDS" >&2; exit 2 ;;
esac
