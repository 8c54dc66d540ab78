#!/bin/sh
# Installs what UPG needs from the system's package manager, if anything is missing. Usage: tools/setup.sh [GOAL...]
# It runs as root or through sudo, says what it installs, and does nothing when all is there.
set -eu
packages="gcc make pkg-config libc6-dev libopenblas-dev libxxhash-dev libzstd-dev libutf8proc-dev"
for goal in "$@"; do
    case $goal in
    test) packages="$packages git libcmocka-dev libpcre2-dev python3 python3-numpy" ;;
    fuzz) packages="$packages clang llvm libclang-rt-dev libpcre2-dev" ;;
    esac
done
missing=
for p in $packages; do
    case $(dpkg-query -W -f '${Status}' "$p" 2>/dev/null || true) in
    "install ok installed") ;;
    *) missing="$missing $p" ;;
    esac
done
[ -n "$missing" ] || exit 0
if ! command -v apt-get >/dev/null 2>&1; then
    echo "tools/setup.sh: no apt-get here; install the equivalents of:$missing" >&2
    exit 1
fi
sudo=
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null 2>&1 || { echo "tools/setup.sh: run as root or install sudo; needed:$missing" >&2; exit 1; }
    sudo="sudo env DEBIAN_FRONTEND=noninteractive"
fi
echo "tools/setup.sh: installing$missing"
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086
$sudo apt-get update -qq
# shellcheck disable=SC2086
$sudo apt-get install -y -qq --no-install-recommends $missing
