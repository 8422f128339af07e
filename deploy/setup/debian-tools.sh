#!/usr/bin/env bash
# Programs that tests and benchmarks run and that do not come from a wheel. One that is on PATH is used as it is; the rest is
# unpacked into .tools/root, with a starter in .tools/bin that sets the library paths.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# program: Debian package
programs=(
    "dig: bind9-dnsutils"  # DNS over UDP, TCP and EDNS as another implementation speaks it
    "ip: iproute2"         # network namespaces (root)
    "nft: nftables"        # partitions between namespaces (root)
    "iptables-nft: iptables"  # delay between namespaces (root): not every kernel lets nft queue packets
    "setpriv: util-linux"  # children that die with their test
    "systemd-analyze: systemd"  # whether our units are what systemd understands
    "etcd: etcd-server"    # what the benchmarks put our log beside
)

export PATH=$PATH:/usr/sbin:/sbin
missing=()
packages=()
for entry in "${programs[@]}"; do
    if ! command -v "${entry%%: *}" >/dev/null; then
        missing+=("${entry%%: *}")
        packages+=("${entry##*: }")
    fi
done

rm -rf "${tools:?}/bin"
mkdir -p "$tools/bin"
if [ ${#missing[@]} -eq 0 ]; then
    say "Debian tools: all on this machine"
    exit 0
fi

"$repository/deploy/setup/debian-download.sh" "${packages[@]}"
for program in "${missing[@]}"; do
    # Not an absolute link (sbin/ip is one), which leads out of the folder to a program that is not there.
    binary=$(find "$tools/root" -path "*bin/$program" -exec test -x {} \; -print | head -n 1)
    [ -n "$binary" ] || fail "the Debian packages hold no $program" "$(as_root)apt-get install -y ${packages[*]}"
    cat >"$tools/bin/$program" <<STARTER
#!/bin/sh
root=\$(dirname "\$(dirname "\$(readlink -f "\$0")")")/root
export XTABLES_LIBDIR=\$(echo "\$root"/usr/lib/*-linux-gnu/xtables)  # iptables loads its targets from there
LD_LIBRARY_PATH=\$(echo "\$root"/usr/lib/*-linux-gnu "\$root"/lib/*-linux-gnu "\$root"/usr/lib/*-linux-gnu/systemd | tr ' ' ':') exec "\$root${binary#"$tools/root"}" "\$@"
STARTER
    chmod +x "$tools/bin/$program"
done
say "Debian tools in .tools/bin: ${missing[*]}"
