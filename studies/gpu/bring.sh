# What both.sh and trained.sh begin with: . studies/gpu/bring.sh NAME. What scripts write to $OUT comes back in one archive, renewed while they run, for
# eight files come back: all.tgz. `far` adds what lies elsewhere; `bring` at the end.
brought=$OUT
export OUT=/tmp/$1_out
mkdir -p $OUT
type far >/dev/null 2>&1 || far() { :; }
archive() { tar czf "$brought/.all.tgz" -C $OUT . 2>/dev/null && mv "$brought/.all.tgz" "$brought/all.tgz"; }
while sleep 10; do far; archive; done &
loop=$!
bring() {
    for job in $(jobs -p); do [ $job = $loop ] || wait $job; done
    kill $loop
    archive
}
