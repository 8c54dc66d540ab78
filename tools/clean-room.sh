#!/usr/bin/env bash
# Runs what the README promises in a clean Debian root: `make demo` and `make test` as a new user's first commands.
#
# The root is what debootstrap makes (minbase), plus make and ca-certificates: a new user has those two and installs nothing else, the
# commands install the rest. Into it go the files of one commit, or of the working tree, and nothing that was built here. The
# commands run as root in a chroot with an empty environment, in mount and process namespaces of their own, so nothing is left
# mounted or running whatever happens. Packages come from the mirror, proxy and certificates that this machine uses.
set -euo pipefail

usage() {
    cat <<'END'
usage: tools/clean-room.sh [OPTION]... [demo | test]...     (default: demo test)
  --run COMMAND   run a shell command in the checkout instead; may be repeated
  --shared DIR    show DIR, read-only, as "shared" beside the checkout, for the tests that need its data
  --worktree      take the working tree's files (those git does not ignore) instead of HEAD's
  --base FILE     keep the bare root in this tar file, or begin with it if it exists; saves debootstrap's time
  --suite NAME    Debian release (default: bookworm)
  --mirror URL    Debian mirror (default: the one apt uses here, else http://deb.debian.org/debian)
  --keep          leave the root behind and say where it is
END
}
fail() {
    echo "tools/clean-room.sh: $*" >&2
    exit 2
}

suite=bookworm mirror='' base='' shared='' worktree='' keep='' commands=()
while [ $# -gt 0 ]; do
    case $1 in
    --run | --shared | --base | --suite | --mirror)
        [ $# -gt 1 ] || fail "$1 needs a value"
        case $1 in
        --run) commands+=("$2") ;;
        --shared) shared=$(realpath -e "$2") ;;
        --base) base=$(realpath -m "$2") ;;
        --suite) suite=$2 ;;
        --mirror) mirror=$2 ;;
        esac
        shift
        ;;
    --worktree) worktree=1 ;;
    --keep) keep=1 ;;
    demo | test) commands+=("make $1") ;;
    --help | -h) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
    esac
    shift
done
[ ${#commands[@]} -gt 0 ] || commands=("make demo" "make test")
[ "$(id -u)" = 0 ] || fail "must be run as root: it makes a Debian root and enters it with chroot"
for tool in git tar unshare chroot; do
    command -v $tool >/dev/null || fail "$tool is not installed"
done
[ -f "$base" ] || command -v debootstrap >/dev/null || fail "debootstrap is not installed: apt-get install debootstrap"
cd "$(dirname "$0")/.."

dir=$(mktemp -d "${TMPDIR:-/tmp}/clean-room-XXXXXX")
root=$dir/root
cleanup() {
    if [ -n "$keep" ]; then echo "clean-room: left in $root"; else rm -rf --one-file-system "$dir"; fi
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# The repositories of this suite that apt uses on this machine, as lines of sources.list.
sources() {
    if [ -z "$mirror" ] && command -v apt-get >/dev/null; then
        # shellcheck disable=SC2016
        apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Identifier: Packages' 2>/dev/null |
            awk -v s="$suite" '($2 == s || $2 == s "-updates" || $2 == s "-security") && $3 == "main" { print "deb", $0 }' | sort -u
    fi
}
lines=$(sources)
[ -n "$mirror" ] || mirror=$(awk -v s="$suite" '$3 == s { print $2; exit }' <<<"$lines")
[ -n "$mirror" ] || mirror=http://deb.debian.org/debian
case "$lines" in *" $suite main"*) ;; *) lines="deb $mirror $suite main" ;; esac

# The empty environment: a home, a path, and the proxy if there is one.
environment=(HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb)
for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
    [ -z "${!name:-}" ] || environment+=("$name=${!name}")
done

# inside COMMAND: runs it in the root's /root/upg. The mounts are those of a container, and end with it.
inside() {
    # shellcheck disable=SC2016
    unshare --mount --pid --fork --kill-child -- sh -euc '
        root=$1 shared=$2
        shift 2
        mount --make-rprivate /
        mount -t proc proc "$root/proc"
        mkdir -p "$root/dev/pts" "$root/dev/shm"
        mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts "$root/dev/pts"
        ln -sf pts/ptmx "$root/dev/ptmx"
        mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
        if [ -n "$shared" ]; then
            mkdir -p "$root/root/shared"
            mount --bind "$shared" "$root/root/shared"
            mount -o remount,bind,ro "$root/root/shared"
        fi
        exec chroot "$root" /usr/bin/env -i "$@"
    ' sh "$root" "$shared" "${environment[@]}" sh -c "cd /root/upg && $1" </dev/null
}

make_root() {
    if [ -f "$base" ]; then
        tar -C "$root" --numeric-owner -xf "$base"
    else
        debootstrap --variant=minbase "$suite" "$root" "$mirror" >"$dir/log" 2>&1 || { cat "$dir/log" >&2; fail "debootstrap failed"; }
        [ -z "$base" ] || { tar -C "$root" --numeric-owner -caf "$base.part" . && mv "$base.part" "$base"; }
    fi
    cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
    rm -rf "$root/etc/apt/sources.list.d"/*
    echo "$lines" >"$root/etc/apt/sources.list"
    if command -v apt-config >/dev/null; then
        apt-config dump | grep -E '^Acquire::(https?::|Check-|Retries|ForceIPv)' | grep -v Auto-Detect \
            >"$root/etc/apt/apt.conf.d/90clean-room" || true
    fi
    certificates
    inside 'export DEBIAN_FRONTEND=noninteractive
        apt-get update -qq && apt-get install -y -qq --no-install-recommends make ca-certificates && apt-get clean' >"$dir/log" 2>&1 ||
        { cat "$dir/log" >&2; fail "cannot install make and ca-certificates in the root"; }
    certificates # the package wrote its own
    rm -rf "$root/var/lib/apt/lists"/*
}
certificates() {
    [ -f /etc/ssl/certs/ca-certificates.crt ] || return 0
    mkdir -p "$root/etc/ssl/certs"
    cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
}

mkdir -p "$root"
chmod 755 "$root"
mkdir -p "$root/root/upg"
if [ -n "$worktree" ]; then
    git ls-files -coz --exclude-standard | tar --null -T - -cf "$dir/tree.tar"
else
    [ -z "$(git status --porcelain)" ] || echo "clean-room: changes that are not committed stay out"
    git archive -o "$dir/tree.tar" HEAD
fi
SECONDS=0
make_root
tar -C "$root/root/upg" --no-same-owner -xf "$dir/tree.tar"
echo "clean-room: $suite from $mirror, ready after $SECONDS s"

failed=0 results=()
for command in "${commands[@]}"; do
    echo "clean-room: $command"
    SECONDS=0 status=0
    inside "$command" || status=$?
    if [ "$status" = 0 ]; then result=ok; else result="FAILED (exit status $status)" failed=1; fi
    results+=("clean-room: $command: $result, $SECONDS s")
done
printf '%s\n' "${results[@]}"
exit $failed
