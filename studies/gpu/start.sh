# The first call of a session, once .gpu is unpacked (jobs.sh): the tree to /tmp/tree, then session.sh once for each thing.
#   bash studies/gpu/start.sh 1440 "headline 0" "parity 1 bf16 fp8"        # SECONDS, "WORD GPU …" …; carry .whl and .carry/corpus
#   cp -r .carry/fp8 /tmp/fp8 && touch /tmp/fp8.ready                         # the next call, for parity: carry .carry/fp8
#   bash /tmp/tree/studies/gpu/look.sh 560 session-headline session-parity # then these, until session-*.done are there
# Send all calls at once: thinking between two of them counts as idle.
python3 -m pip install -q --no-index --no-deps --no-compile --target /tmp/packages .whl/*.whl
mkdir -p /tmp/log /tmp/res /tmp/triton
cp -r . /tmp/tree
[ -e .carry/triton.tgz ] && tar xzf .carry/triton.tgz -C /
for each in "${@:2}"; do
    setsid nohup bash /tmp/tree/studies/gpu/session.sh ${each%% *} "$1" ${each#* } </dev/null >"/tmp/log/${each%% *}.txt" 2>&1 &
    sleep 2  # one of them starts MPS
done
nvidia-smi --query-gpu=name,memory.total --format=csv,noheader
