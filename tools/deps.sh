#!/usr/bin/env bash
# Installs what building and testing need, on Debian 12 and Ubuntu 24.04. Nothing to do: no output, no
# network, well under a second. Other systems: says what is needed.
set -euo pipefail

packages=(
    build-essential cmake ninja-build pkg-config
    libjansson-dev libsodium-dev libconfig-dev libpcre2-dev libutf8proc-dev zlib1g-dev libsystemd-dev
    libhiredis-dev
    libgrpc-dev libprotobuf-c-dev protobuf-c-compiler protobuf-compiler grpc-proto
    libcmocka-dev libopenblas-dev redis-server valgrind
    python3 python3-grpcio python3-protobuf
)

die() {
    echo "deps: $*" >&2
    exit 1
}

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
    if [ "${SC_SKIP_DEPS:-}" = 1 ]; then
        exit 0
    fi
    die "this is not Debian or Ubuntu (no apt-get). Install what these packages hold, then set
SC_SKIP_DEPS=1: ${packages[*]}"
fi

missing() {
    local have
    have=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "${packages[@]}" 2>/dev/null |
        sed -n 's/^installed //p' || true)
    local package
    for package in "${packages[@]}"; do
        grep -qxF -- "$package" <<<"$have" || echo "$package"
    done
}

mapfile -t wanted < <(missing)
[ "${#wanted[@]}" -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null ||
        die "not root, and there is no sudo. As root: apt-get install ${wanted[*]}"
    as_root=(sudo)
fi

echo "deps: installing ${wanted[*]}"
"${as_root[@]}" apt-get update -qq || die "apt-get update failed"

unknown=()
for package in "${wanted[@]}"; do
    apt-cache show --no-all-versions "$package" >/dev/null 2>&1 || unknown+=("$package")
done
[ "${#unknown[@]}" -eq 0 ] ||
    die "this release has no package ${unknown[*]} (on Ubuntu, enable the component universe)"

"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    "${wanted[@]}" >/dev/null || die "apt-get install failed"

mapfile -t wanted < <(missing)
[ "${#wanted[@]}" -eq 0 ] || die "still missing after the installation: ${wanted[*]}"
