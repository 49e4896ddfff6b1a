# Where NAME's run directory ($run) and its 17 GB checkpoint ($parent) lie: . studies/gpu/places.sh NAME GIGABYTES. The run directory
# in /dev/shm where that has GIGABYTES free, the checkpoint in the other place.
free() { df --output=avail -B1000000000 "$1" | tail -1; }
if [ ! -e "/tmp/$1_places" ]; then
    run=/tmp parent=/dev/shm
    [ "$(free /dev/shm)" -ge "$2" ] && run=/dev/shm parent=/tmp
    [ "$(free $parent)" -ge 18 ] || parent=$run
    echo "$run/$1 $parent/$1_parent" >"/tmp/$1_places"
fi
read -r run parent <"/tmp/$1_places"
echo "run directory in $run ($(free "$(dirname "$run")") GB free), checkpoint in $parent; $(nproc) cores"
