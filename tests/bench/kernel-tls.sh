#!/bin/bash
# SPDX-License-Identifier: MIT
# vm-needs: hawserd bench-load ip modprobe
# vm-modules: tls gcm ghash-generic ghash-clmulni-intel aesni-intel ctr
# vm-timeout: 900
# vm-memory: 1536
#
# What it gives to leave the encryption of replies to the kernel: make bench-kernel-tls runs this in
# the throw-away VM, whose kernel has the module. Two servers side by side, one of which started
# while the kernel knew no TLS, and one load for both in turn; TLS 1.2 in both, TLS 1.3 beside
# them. Only ratios within a round mean anything, the more so where the VM is emulated.
# shellcheck source=tests/vm/guest.sh
. "${0%/*}/guest.sh"

rounds=${1:-5} seconds=${2:-5}

ip link set lo up 2>/dev/null || true
for module in gcm ctr ghash_generic aesni_intel; do
	modprobe "$module" 2>/dev/null || true
done
mkdir -p /run/keys
echo "bench:0123456789abcdef0123456789abcdef" >/run/keys/keys.psk
dd if=/dev/urandom of=/run/disk.img bs=1M count=256 2>/dev/null

serve() { # NAME PORT VERSION
	hawserd --fork -v -t -e 0 -r -f raw -b 127.0.0.1 -p "$2" --pid-file "/run/$1.pid" \
		--object "tls-creds-psk,id=t,endpoint=server,dir=/run/keys,priority=NORMAL:-VERS-ALL:+VERS-TLS$3" \
		--tls-creds t /run/disk.img 2>"/run/$1.log"
}

ticks() { # NAME: processor time of the server, in hundredths of a second
	awk '{ print $14 + $15 }' "/proc/$(cat "/run/$1.pid")/stat"
}

# Requests a second, and microseconds of the server's processor time for one.
measure() { # NAME PORT OPTION...
	local name=$1 port=$2 before count
	shift 2
	before=$(ticks "$name")
	count=$(bench-load --tcp "127.0.0.1:$port" --tls-psk /run/keys/keys.psk --seconds "$seconds" \
		"$@" | sed -n 's/.*"ops": \([0-9]*\).*/\1/p')
	awk -v count="$count" -v ticks="$(($(ticks "$name") - before))" -v seconds="$seconds" \
		'BEGIN { printf "%.0f/s %.1fus\n", count / seconds, ticks * 10000 / count }'
}

# Nothing may load the module before the servers without it are there.
loader=$(cat /proc/sys/kernel/modprobe)
echo /bin/false >/proc/sys/kernel/modprobe
serve user 10810 1.2
serve user13 10811 1.3
echo "$loader" >/proc/sys/kernel/modprobe
modprobe tls || skip "this kernel has no TLS"
serve kernel 10812 1.2

cat /run/disk.img >/dev/null
for work in "--block-size 1M --depth 8 --sequential" "--block-size 4k --depth 64"; do
	say "$work"
	for ((round = 0; round < rounds; round++)); do
		line="  round $round:"
		for turn in 0 1 2; do
			case $(((round + turn) % 3)) in
			0) name=user port=10810 ;;
			1) name=user13 port=10811 ;;
			2) name=kernel port=10812 ;;
			esac
			# shellcheck disable=SC2086 # options
			line+=" $name $(measure $name $port $work)"
		done
		say "$line"
	done
done
grep -q "by the kernel" /run/kernel.log || fail "the kernel did not encrypt"
! grep -q "by the kernel" /run/user.log /run/user13.log || fail "the kernel did encrypt"
