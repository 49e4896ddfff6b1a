# look.sh SECONDS NAME …: jobs.sh's summary, and what the run directories under /tmp hold but weights, in $OUT
cd /tmp/tree
. studies/gpu/jobs.sh
summary "$@"
tail -n 3 /tmp/log/*.txt | cut -c1-170
tail -qn 1 /tmp/parity/*/log.txt 2>/dev/null
for weights in /tmp/again/*/model/model.safetensors; do
    [ -e "$weights" ] && cp "$weights" "$OUT/again-$(basename "${weights%/model/*}").safetensors"
done
cd /tmp
find headline -type f -regex '.*\.\(json\|csv\|yaml\|txt\|md\|html\|py\)' -size -1500k -not -path '*/triton/*' -not -path '*/inductor/*' \
    2>/dev/null | tar czf "$OUT/head.tgz" -T -
