#!/usr/bin/env bash
# debian-download.sh PACKAGE...: unpack Debian packages, and what they need that this machine lacks, into
# .tools/root. Installs nothing and needs no root: apt works on lists and a cache of our own.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
    fail "this machine has no apt-get, so these Debian packages cannot be fetched: $*; install their programs yourself"
fi

apt=$tools/apt
mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$tools/root"

# The machine's sources, keys, proxies and record of installed packages, but our own lists and cache.
# NoLocking: without root the record cannot be locked, and a download changes nothing in it.
apt_get() {
    apt-get -q \
        -o Dir::State::lists="$apt/lists" \
        -o Dir::Cache="$apt" -o Dir::Cache::archives="$apt/archives" \
        -o APT::Sandbox::User="$(id -un)" -o Debug::NoLocking=1 -o Acquire::Retries=3 \
        "$@"
}

download() {
    rm -f "$apt/archives/"*.deb
    quietly "$apt/download.log" apt_get install -y --download-only --no-install-recommends --reinstall "$@"
}

# Lists of an earlier run may name files that the archive no longer has; then they are fetched again. A source
# that fails does not matter as long as another one has the packages.
say "Debian packages: $*"
if [ ! -e "$apt/lists-fetched" ] || ! download "$@" 2>/dev/null; then
    say "Debian package lists"
    quietly "$apt/update.log" apt_get update || true
    download "$@" || fail "apt could not fetch $* (log above)" \
        "$(as_root)apt-get update && $(as_root)apt-get install -y --no-install-recommends $*"
    touch "$apt/lists-fetched"
fi
for package in "$apt/archives/"*.deb; do
    dpkg-deb -x "$package" "$tools/root"
done
rm -f "$apt/archives/"*.deb
