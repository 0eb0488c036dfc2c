#!/bin/sh
# unit.sh CMAKE BUILD_DIR SEMANTICACHED: the installed tree is whole, and systemd finds no fault in the unit.
set -u
cmake=$1 build=$2 daemon=$3
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT

# Only what is built: other programs of the project may not be.
for part in deploy daemon; do
    DESTDIR=$dir "$cmake" --install "$build/$part" >"$dir/log" 2>&1 || {
        cat "$dir/log"
        exit 1
    }
done
unit=$(find "$dir" -name semanticached.service)
conf=$(find "$dir" -path '*/semanticache/semanticached.conf' -path '*/etc/*')
for file in "$unit" "$conf" "$(find "$dir" -name semanticached.8)" "$(find "$dir" -path '*/sbin/semanticached')"; do
    [ -n "$file" ] && [ -f "$file" ] || {
        echo "FAIL: not everything was installed:"
        find "$dir" -type f
        exit 1
    }
done

# The installed settings are valid, but for the model, which the administrator brings.
"$daemon" --check-config --config "$conf" || exit 1

# Settings that are there are kept.
echo '# mine' >>"$conf"
DESTDIR=$dir "$cmake" --install "$build/deploy" >/dev/null 2>&1
grep -q '^# mine$' "$conf" || {
    echo "FAIL: an installation overwrote the settings"
    exit 1
}

# Another prefix takes everything along: nothing is written outside, and the unit points inside.
"$cmake" --install "$build/deploy" --prefix "$dir/elsewhere" >"$dir/log" 2>&1
moved="$dir/elsewhere"
[ -f "$moved/etc/semanticache/semanticached.conf" ] &&
    grep -q "^ExecStart=$moved/sbin/semanticached --config $moved/etc/semanticache/" \
        "$moved/lib/systemd/system/semanticached.service" || {
    echo "FAIL: --prefix was not followed:"
    cat "$dir/log"
    exit 1
}
rm -rf "$moved"

command -v systemd-analyze >/dev/null || {
    echo "skipped: no systemd-analyze"
    exit 77
}
# verify wants the program at its path: point it to the one that was installed here.
sed "s|^ExecStart=/|ExecStart=$dir/|; s|^Documentation=.*||" "$unit" >"$dir/semanticached.service"
out=$(systemd-analyze verify --man=no "$dir/semanticached.service" 2>&1 | grep -F semanticached.service)
if [ -n "$out" ]; then
    echo "FAIL: systemd-analyze verify: $out"
    exit 1
fi
