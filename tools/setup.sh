#!/bin/sh
# Installs what UPG needs from the system's package manager, if anything is missing. Usage: tools/setup.sh [GOAL...]
# It runs as root or through sudo, says what it installs, and does nothing when all is there.
set -eu
packages="gcc make pkg-config libc6-dev libopenblas-dev libxxhash-dev libzstd-dev libutf8proc-dev libedit-dev
libmicrohttpd-dev libseccomp-dev"
wanted= # what a goal can do without
for goal in "$@"; do
    case $goal in
    demo) wanted="$wanted ca-certificates python3-pip" ;;
    test)
        packages="$packages git libcmocka-dev libpcre2-dev python3 python3-numpy"
        wanted="$wanted qemu-user python3-venv openssl libfaketime"
        [ "$(uname -m)" = aarch64 ] || wanted="$wanted gcc-aarch64-linux-gnu libc6-dev-arm64-cross"
        ;;
    fuzz) packages="$packages clang llvm libclang-rt-dev libpcre2-dev" ;;
    esac
done
# missing PACKAGE...: those that are not installed.
missing() {
    for p in "$@"; do
        case $(dpkg-query -W -f '${Status}' "$p" 2>/dev/null || true) in
        "install ok installed") ;;
        *) printf ' %s' "$p" ;;
        esac
    done
}
# shellcheck disable=SC2086
packages=$(missing $packages) wanted=$(missing $wanted)
[ -n "$packages$wanted" ] || exit 0
if ! command -v apt-get >/dev/null 2>&1; then
    [ -n "$packages" ] || exit 0
    echo "tools/setup.sh: no apt-get here; install the equivalents of:$packages" >&2
    exit 1
fi
sudo=
if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
        [ -n "$packages" ] || exit 0
        echo "tools/setup.sh: run as root or install sudo; needed:$packages" >&2
        exit 1
    fi
    sudo="sudo env DEBIAN_FRONTEND=noninteractive"
fi
echo "tools/setup.sh: installing$packages$wanted"
export DEBIAN_FRONTEND=noninteractive
# install PACKAGE...
install() {
    [ $# -eq 0 ] || $sudo apt-get install -y -qq --no-install-recommends "$@"
}
if [ -n "$packages" ]; then
    $sudo apt-get update -qq
else
    $sudo apt-get update -qq || true
fi
# shellcheck disable=SC2086
install $packages
# shellcheck disable=SC2086
install $wanted || echo "tools/setup.sh: going on without$wanted"
