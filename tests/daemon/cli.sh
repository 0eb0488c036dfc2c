#!/bin/sh
# cli.sh SEMANTICACHED: what the program says about wrong settings, and its exit statuses.
set -u
daemon=$1
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
failed=0

# expect STATUS TEXT ARGUMENT...: exit status, and a text in what it prints.
expect() {
    want=$1 text=$2
    shift 2
    out=$("$daemon" "$@" 2>&1)
    got=$?
    if [ "$got" -ne "$want" ]; then
        echo "FAIL: $*: exit status $got, not $want: $out"
        failed=1
    fi
    case $out in
    *"$text"*) ;;
    *)
        echo "FAIL: $*: \"$out\" does not say \"$text\""
        failed=1
        ;;
    esac
}

printf 'model: { dir = "/m"; };\nkv: {\n  memory = "1GiB";\n};\n' >"$dir/good.conf"
printf 'model: { dir = "/m"; };\nkv: {\n  memroy = "1GiB";\n};\n' >"$dir/unknown.conf"
printf 'model: { dir = "/m"; };\nkv: {\n  memory = 7;\n};\n' >"$dir/type.conf"
printf 'model: { dir = "/m"; };\n\nengine: { max_seqs = 5000; };\n' >"$dir/limit.conf"
printf 'model: { dir = "/m";\nkv: {\n' >"$dir/syntax.conf"
printf 'model: { dir = "%s/../golden/llama31"; };\nstore: { dir = "%s/store"; };\n' \
    "$(dirname "$0")" "$dir" >"$dir/store.conf"

expect 0 "settings are fine" --check-config --config "$dir/good.conf"
expect 2 "$dir/unknown.conf:3: kv.memroy: unknown key" --check-config --config "$dir/unknown.conf"
expect 2 "$dir/type.conf:3: kv.memory: must be a size" --check-config --config "$dir/type.conf"
expect 2 "$dir/limit.conf:3: engine.max_seqs: 5000, limits 1..4096" --check-config --config "$dir/limit.conf"
expect 2 "$dir/syntax.conf:" --check-config --config "$dir/syntax.conf"
expect 2 "$dir/none.conf: No such file" --check-config --config "$dir/none.conf"
expect 2 "server.listen: 0.0.0.0:1 is reachable" --check-config --config "$dir/good.conf" --listen 0.0.0.0:1
expect 0 "settings are fine" --check-config --config "$dir/good.conf" --listen 0.0.0.0:1 --insecure
expect 2 "command line: kv.memory" --check-config --config "$dir/good.conf" --kv-memory 1GB
expect 0 "settings are fine" --check-config --config "$dir/store.conf"
if [ -e "$dir/store" ]; then
    echo "FAIL: --check-config has written into $dir/store"
    failed=1
fi
expect 2 "model.dir" --check-config
expect 2 "unknown option" --frobnicate
expect 0 "semanticached " --version
expect 0 "--tensor-parallel" --help
expect 1 "/no/such/model" --model /no/such/model --listen 127.0.0.1:0
expect 1 "no CUDA plugin" --model "$(dirname "$0")/../golden/llama31" --listen 127.0.0.1:0 --backend cuda
exit $failed
