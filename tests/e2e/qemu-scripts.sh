#!/bin/bash
# SPDX-License-Identifier: MIT
# Command lines by which other programs start qemu-nbd, unchanged, with the link of that name first
# in PATH: libnbd's brackets, virt-v2v, libguestfs, osbuild, and what people write themselves.
set -euo pipefail

cd "$(dirname "$0")/../.."
hawserd=$(realpath "${HAWSERD:-${BUILD:-build}/hawserd}")
for tool in nbdcopy nbdinfo qemu-img; do
	type -P $tool >/dev/null || { echo "SKIP: needs $tool" && exit 77; }
done
work=$(mktemp -d "${TMPDIR:-/tmp}/hawserd-scripts.XXXXXX")
cleanup() {
	local file
	for file in "$work"/*.pid; do
		[ ! -s "$file" ] || kill -KILL "$(cat "$file")" 2>/dev/null || true
	done
	rm -rf "$work"
}
trap cleanup EXIT
cd "$work"
mkdir bin
ln -s "$hawserd" bin/qemu-nbd
PATH=$work/bin:$PATH
head -c 3M /dev/urandom >disk.img
qemu-img convert -O qcow2 disk.img disk.qcow2

fail() {
	echo "FAIL: $*" >&2
	exit 1
}

until_true() {
	local i
	for ((i = 0; i < 400; i++)); do
		if "$@" >/dev/null 2>&1; then return 0; fi
		sleep 0.05
	done
	fail "in vain for 20 s: $*"
}

ended() { # PID FILE...: it ends, and takes these with it
	local file
	until_true test ! -e "/proc/$1"
	for file in "${@:2}"; do
		[ ! -e "$file" ] || fail "left behind: $file"
	done
}

test_brackets() {
	nbdcopy -- [ qemu-nbd -f qcow2 disk.qcow2 ] out.img
	cmp disk.img out.img || fail "nbdcopy from it"
	qemu-img create -q -f qcow2 new.qcow2 3M
	nbdcopy -- disk.img [ qemu-nbd -f qcow2 new.qcow2 ]
	qemu-img compare -q disk.img new.qcow2 || fail "nbdcopy to it"
	nbdcopy -- [ qemu-nbd -r -f qcow2 new.qcow2 ] [ qemu-nbd -f raw --discard=unmap out.img ]
	cmp disk.img out.img || fail "nbdcopy between two"
	[ "$(nbdinfo --size -- [ qemu-nbd -r -f qcow2 disk.qcow2 ])" = 3145728 ] || fail "nbdinfo"
	nbdinfo --json -- [ qemu-nbd -r -f raw disk.img ] >/dev/null || fail "nbdinfo --json"
	nbdinfo --map -- [ qemu-nbd -r -f qcow2 disk.qcow2 ] >/dev/null || fail "nbdinfo --map"
}

# virt-v2v waits for the pid file, then connects several times, and kills it at the end.
test_virt_v2v() {
	local pid
	LANG=C qemu-nbd --help | grep -sq -- --selinux-label || fail "--help"
	qemu-nbd --selinux-label system_u:object_r:svirt_socket_t:s0 --shared=0 --persistent \
		--socket "$work/v2v" --pid-file v2v.pid --format qcow2 --snapshot disk.qcow2 &
	pid=$!
	until_true test -s v2v.pid
	[ "$(cat v2v.pid)" = $pid ] || fail "another number in the pid file"
	nbdcopy "nbd+unix:///?socket=$work/v2v" out.img
	cmp disk.img out.img || fail "virt-v2v: other bytes"
	kill $pid
	wait $pid || fail "status $?"
	ended $pid v2v v2v.pid
}

# libguestfs: remote disks of tests; read-only, any number of clients.
test_libguestfs() {
	local pid
	qemu-nbd -r -t -e 0 --fork --pid-file lg.pid -k "$work/lg" -x export -f raw disk.img
	pid=$(cat lg.pid)
	[ "$(qemu-nbd --list --socket="$work/lg" | sed -n "s/^ export: //p")" = "'export'" ] || fail "-L"
	nbdinfo --list "nbd+unix:///?socket=$work/lg" >/dev/null || fail "nbdinfo --list"
	kill "$pid"
	ended "$pid" lg lg.pid
}

# osbuild: a window of an image for one step of a build; the end of the step ends the server.
test_osbuild() {
	local pid
	qemu-nbd --fork --socket="$work/ob" --export-name=part --offset=1048576 --format=raw \
		--cache=writeback --pid-file="$work/ob.pid" --persistent --shared=10 disk.img
	pid=$(cat ob.pid)
	[ "$(nbdinfo --size "nbd+unix:///part?socket=$work/ob")" = 2097152 ] || fail "size"
	kill -INT "$pid"
	ended "$pid" ob ob.pid
}

# Without -t: the copy's end is the server's end, and scripts wait for that.
test_one_client() {
	local pid
	qemu-nbd --fork -k "$work/one" --pid-file one.pid -f qcow2 -l snapshot.name=none disk.qcow2 \
		2>/dev/null && fail "a snapshot that is not there"
	qemu-img snapshot -c first disk.qcow2
	qemu-nbd --fork -k "$work/one" --pid-file one.pid -f qcow2 -l first disk.qcow2
	pid=$(cat one.pid)
	qemu-img convert -f raw -O raw "nbd:unix:$work/one" out.img
	cmp disk.img out.img || fail "the snapshot"
	ended "$pid" one one.pid
}

refused_in_time() {
	local status=0
	timeout 60 nbdcopy -- "$1" null: 2>/dev/null || status=$?
	[ $status != 0 ] && [ $status != 124 ]
}

# A client too many is told so, where qemu-nbd lets it wait; its turn comes when another leaves.
test_one_too_many() {
	local pid holder uri="nbd+unix:///?socket=$work/few"
	qemu-nbd --fork -t -e 1 -f raw -k "$work/few" --pid-file few.pid disk.img
	pid=$(cat few.pid)
	qemu-io -f raw -r -c 'read 0 512' -c 'sleep 120000' "$uri" >holder.log 2>&1 &
	holder=$!
	until_true refused_in_time "$uri"
	kill -0 $holder || fail "the one that was there has ended: $(cat holder.log)"
	kill -KILL $holder
	wait $holder 2>/dev/null || true
	until_true nbdcopy -- "$uri" null:
	kill "$pid"
	ended "$pid" few few.pid
}

# A server that was killed: what it left does not stop the next one, locks and overlays included.
test_after_kill() {
	local pid round overlays
	for round in 1 2 3; do
		qemu-nbd --fork -t -s -k "$work/kill" --pid-file kill.pid -f qcow2 disk.qcow2 ||
			fail "round $round: status $?"
		pid=$(cat kill.pid)
		qemu-img info "nbd+unix:///?socket=$work/kill" >/dev/null || fail "round $round"
		overlays=$(find "${TMPDIR:-/var/tmp}" -maxdepth 1 -user "$(id -u)" -newer disk.qcow2 -name '*.??????' -size +0 |
			grep -c hawser || true)
		[ "$overlays" = 0 ] || fail "an overlay that others see"
		kill -KILL "$pid"
		until_true test ! -e "/proc/$pid"
		[ -S kill ] || fail "SIGKILL leaves no socket: what is tested here?"
	done
	qemu-nbd --fork -t -k "$work/kill" --pid-file kill.pid -f qcow2 disk.qcow2
	pid=$(cat kill.pid)
	kill "$pid"
	ended "$pid" kill kill.pid
	qemu-img check -q disk.qcow2 || fail "the image"
}

for test in $(compgen -A function test_); do
	$test
	echo "ok: $test"
done
