set -e
d=$(mktemp -d); cd $d
spin "${@:2}" -a /root/wt/formal/formal/$1 >gen.txt 2>&1 || { tail -5 gen.txt; exit 1; }
gcc -O2 -w -DSAFETY -DHC4 -DNOFAIR -DMEMLIM=3000 -o pan pan.c
time nice timeout 40 ./pan -m400000 -w24 > out.txt; grep -E "errors|States|states, stored|assertion|elapsed|error:" out.txt
