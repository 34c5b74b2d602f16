# SPDX-License-Identifier: MIT
# shellcheck shell=bash
#
# What test scripts inside the VM have in common. A script starts with
#	. "${0%/*}/guest.sh"
# and says in its header what tests/vm/run shall bring:
#	# vm-needs: hawser hawserd mkfs.ext4 udev      programs (udev: the daemon and its rules)
#	# vm-modules: vfat                             more kernel modules
#	# vm-timeout: 300  # vm-memory: 1024  # vm-cpus: 2
# It ends with 0 for success, 77 for "not possible here" and anything else for failure.
set -euo pipefail

say() {
	printf '%s\n' "$*"
}

fail() {
	printf 'FAIL: %s\n' "$*" >&2
	exit 1
}

skip() {
	printf 'SKIP: %s\n' "$*"
	exit 77
}

# check "what is expected" COMMAND...: fails the test with the command's output.
check() {
	local what=$1 output status=0
	shift
	output=$("$@" 2>&1) || status=$?
	if [ "$status" != 0 ]; then
		printf '%s\n' "$output" >&2
		fail "$what: '$*' ended with $status"
	fi
	printf 'ok: %s\n' "$what"
}

# refused "what" STATUS "words of the message" COMMAND...: must fail with this status and say so.
refused() {
	local what=$1 expected=$2 words=$3 output status=0
	shift 3
	output=$("$@" 2>&1) || status=$?
	[ "$status" = "$expected" ] ||
		fail "$what: '$*' ended with $status instead of $expected and said: $output"
	[[ $output == *"$words"* ]] || fail "$what: '$*' did not say '$words' but: $output"
	printf 'ok: %s (%s)\n' "$what" "$words"
}

equal() { # "what" ACTUAL EXPECTED
	[ "$2" = "$3" ] || fail "$1: '$2' instead of '$3'"
	printf 'ok: %s (%s)\n' "$1" "$2"
}

# wait_for SECONDS COMMAND...: until the command succeeds.
wait_for() {
	local end=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		[ "$SECONDS" -lt "$end" ] || return 1
		sleep 0.1
	done
}

load_nbd() { # [PARAMETER=VALUE...]
	modprobe nbd "$@" || fail "the kernel's nbd driver cannot be loaded"
}

start_udev() {
	systemd-udevd --daemon 2>/dev/null || fail "udevd does not start"
	udevadm trigger --action=add --subsystem-match=block
	udevadm settle --timeout=60
}

stop_udev() {
	udevadm control --exit
}

# Is the device connected? The driver shows the attribute only then.
attached() { # nbdN
	[ -e "/sys/block/$1/pid" ]
}

# A disk of MEGABYTES with one partition that holds ext4 with a known file. (Needs sfdisk,
# mkfs.ext4.) The file system is made in place, without a loop device.
make_disk() { # FILE MEGABYTES
	local tree
	tree=$(mktemp -d)
	echo 'moored' >"$tree/greeting"
	truncate -s "$2M" "$1"
	echo 'start=2048, type=83' | sfdisk --quiet "$1"
	mkfs.ext4 -q -F -d "$tree" -E offset=$((2048 * 512)) "$1" $((($2 - 2) * 1024))
	rm -r "$tree"
}

count_fds() { # PID
	local -a entries=("/proc/$1/fd/"*)
	echo ${#entries[@]}
}
