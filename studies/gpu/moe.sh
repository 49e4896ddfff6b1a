# studies/moe.py on one H200 without network. The machine goes back after 30 idle seconds with the teacher and all that was cut, so
# the calls follow each other without a pause; 1,700 s of device time together (start of the machine included, say 100 s). First,
# here: python studies/moe.py data. A call carries 64 MiB with the tracked tree, and what came once stays; kind nvidia-h200:
#   0. run "bash studies/gpu/moe.sh unpack"         timeout_s 120   # carry=[".gpu", ".whl"]
#   1. run "bash studies/gpu/moe.sh teacher"        timeout_s 590   # carry=[".carry/moe"]; teacher 250 s, prepare 120 s; "prepared"
#   2. run "bash studies/gpu/moe.sh cases 540"      timeout_s 590   # 48 cases, 8 at a time: about 100 s for each 8
#   3. run "bash studies/gpu/moe.sh cases 380"      timeout_s 430   # the rest, with the table
#   4. give_back; here: tar xzf FILES_AT/moe.tar.gz -C RUN; python studies/moe.py table RUN
# Where call 1 ended without "prepared", call 2 goes on with it: every part and every case is a file when it is done, each call
# brings back all cases and logs so far, and does what is missing. Less device time: `cases 540 2000000` trains on 2 M tokens a case.
# Apart from it, each as a session's only call: moe.sh kernels (180 s), moe.sh nano (260 s: studies/gpu/nano_30b.py).
study=moe
. studies/gpu/one_gpu.sh
case $1 in
kernels)
    timeout 200 python benchmarks/experts.py --out "$OUT/experts.json"
    timeout 250 python -m pytest -q -m gpu tests/gpu/test_experts_gpu.py 2>&1 | tail -4 ;;
teacher) teacher 400 ;;
cases) cases "${2:-500}" "${3:-4000000}" ;;
nano) timeout 400 python studies/gpu/nano_30b.py --layers "${2:-26}" --folder /dev/shm --out "$OUT/nano_30b.json" ;;
esac
