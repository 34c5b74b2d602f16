#!/bin/bash
# SPDX-License-Identifier: MIT
# hawserd's front as its user sees it: the words of qemu-nbd, starts that fail, sockets and pid
# files, the background, signals, --run. With qemu-nbd installed, both are asked the same.
set -euo pipefail

cd "$(dirname "$0")/../.."
hawserd=${HAWSERD:-${BUILD:-build}/hawserd}
hawserd=$(realpath "$hawserd")
work=$(mktemp -d "${TMPDIR:-/tmp}/hawserd-front.XXXXXX")
started=()

cleanup() {
	local pid
	for pid in ${started[@]+"${started[@]}"}; do
		kill -KILL "$pid" 2>/dev/null || true
	done
	rm -rf "$work"
}
trap cleanup EXIT
cd "$work"
truncate -s 1M disk.img
truncate -s 1M other.img

fail() {
	echo "FAIL: $*" >&2
	exit 1
}

# until COMMAND... succeeds, for ten seconds
until_true() {
	local i
	for ((i = 0; i < 200; i++)); do
		if "$@" >/dev/null 2>&1; then return 0; fi
		sleep 0.05
	done
	fail "in vain for 10 s: $*"
}

# absent WHAT FILE...: what a start or an end must not leave
absent() {
	local file
	for file in "${@:2}"; do
		[ ! -e "$file" ] || fail "$1 leaves $file"
	done
}

gone() {
	! kill -0 "$1"
}

# Both programs warn of a probed image format first; that is not the subject here.
without_warning() {
	grep -v -e '^WARNING' -e '^hawserd: warning: Image format' -e '^         '
}

# says TEXT ARGUMENT...: must fail with 1 and begin with TEXT
says() {
	local text=$1 output status=0
	shift
	output=$(timeout 20 "$hawserd" "$@" 2>&1) || status=$?
	[ $status = 1 ] || fail "hawserd $*: status $status, said: $output"
	output=$(without_warning <<<"$output")
	[[ $output == "hawserd: $text"* ]] || fail "hawserd $*: said '$output' instead of '$text'"
}

# as_qemu ARGUMENT...: status and words are those of qemu-nbd
as_qemu() {
	local theirs ours status=0
	theirs=$(timeout 20 qemu-nbd "$@" 2>&1 >/dev/null) || status=$?
	[ $status = 1 ] || fail "qemu-nbd $*: status $status"
	theirs=$(without_warning <<<"$theirs")
	status=0
	ours=$(timeout 20 "$hawserd" "$@" 2>&1 >/dev/null) || status=$?
	[ $status = 1 ] || fail "hawserd $*: status $status, said: $ours"
	ours=$(without_warning <<<"$ours")
	[ "${ours//hawserd/qemu-nbd}" = "$theirs" ] || fail "$*: '$ours' instead of '$theirs'"
}

test_words() {
	local long
	long=/$(printf 'a%.0s' {1..110})
	says 'Invalid number of arguments'
	says "Failed to blk_new_open 'none': Could not open 'none': No such file or directory" none
	says "Failed to blk_new_open 'disk.img': Unknown driver 'x'" -f x disk.img
	says 'Failed to bind socket: Cannot assign requested address' -b 192.0.2.1 disk.img
	says "Could not create '/nonexistent/pid'" --pid-file /nonexistent/pid -k "$work/s" disk.img
	says 'standard input is not a connected socket' --stdio disk.img
	type -P qemu-nbd >/dev/null || return 0
	as_qemu
	as_qemu a b
	as_qemu --zzz
	as_qemu -Z disk.img
	as_qemu -p
	as_qemu --port
	as_qemu --fork=3 disk.img
	as_qemu -k relative disk.img
	as_qemu -k "$long" disk.img
	as_qemu -o 1k disk.img
	as_qemu -e x disk.img
	as_qemu -e -1 disk.img
	as_qemu none
	as_qemu -L disk.img
	as_qemu -L -x a
	as_qemu -L --fork
	as_qemu -b host.invalid disk.img
	as_qemu -p nosuchservice disk.img
	as_qemu -d /dev/nothing
	as_qemu --pid-file /nonexistent/pid -k "$work/s" disk.img
}

test_version_and_help() {
	[[ $("$hawserd" -V) == "hawserd "[0-9]*.* ]] || fail "-V: $("$hawserd" -V)"
	"$hawserd" --help | grep -q -- '--export-name=NAME' || fail "--help"
	! "$hawserd" --help >/dev/full 2>&1 || fail "--help into a full disk succeeds"
}

# background NAME OPTION...: forks a server with socket NAME and pid file NAME.pid; sets $server
background() {
	local name=$1
	shift
	"$hawserd" --fork -t -k "$work/$name" --pid-file "$name.pid" "$@" ||
		fail "hawserd --fork $*: status $?"
	server=$(cat "$name.pid")
	started+=("$server")
}

test_background() {
	local session
	background fork -f raw disk.img
	session=$(ps -o sid= -p "$server")
	[ "${session// /}" = "$server" ] || fail "no session of its own"
	[ "$(readlink "/proc/$server/cwd")" = / ] || fail "it keeps the folder busy"
	[ "$(readlink "/proc/$server/fd/1")" = /dev/null ] || fail "it keeps stdout"
	[ "$(stat -c %a fork.pid)" = 600 ] || fail "mode of the pid file: $(stat -c %a fork.pid)"
	"$hawserd" -L -k "$work/fork" >/dev/null || fail "parent gone, but nobody answers"

	says "a server already answers on the socket '$work/fork'" -k "$work/fork" other.img
	says "Cannot lock pid file 'fork.pid'" -k "$work/second" --pid-file fork.pid other.img
	absent "a failed start" second
	says "Failed to blk_new_open 'none'" --fork -k "$work/third" --pid-file third.pid none
	absent "a failed start" third third.pid
	"$hawserd" -L -k "$work/fork" >/dev/null || fail "the first server does not answer any more"
	kill "$server"
	until_true gone "$server"
	absent "the end" fork fork.pid
}

# A warning is no failure, and nobody waits for the closing of stderr.
test_warning_keeps_status() {
	local output
	output=$("$hawserd" --fork -v -t -k "$work/warn" --pid-file warn.pid -f raw disk.img 2>warn.log)
	started+=("$(cat warn.pid)")
	[ -z "$output" ] || fail "-v writes to stdout: $output"
	grep -q "listening on $work/warn" warn.log || fail "-v says nothing: $(cat warn.log)"
	kill "$(cat warn.pid)"
	until_true test ! -e warn
}

test_stale() {
	local first
	background stale -f raw disk.img
	first=$server
	kill -KILL "$first"
	until_true gone "$first"
	[ -S stale ] || fail "SIGKILL left no socket: what is tested here?"
	[ -e stale.pid ] || fail "SIGKILL left no pid file: what is tested here?"
	background stale -f raw disk.img
	mv stale moved
	echo 'not ours' >stale
	kill "$server"
	until_true gone "$server"
	[ "$(cat stale)" = 'not ours' ] || fail "it removed somebody else's file"
	says "'$work/stale' exists and is not a socket" -k "$work/stale" disk.img
	[ "$(cat stale)" = 'not ours' ] || fail "a start removed somebody else's file"
}

test_signals() {
	local signal pid status
	set -m # else a shell starts children in the background with SIGINT ignored
	for signal in TERM INT HUP; do
		"$hawserd" -t -k "$work/signal" --pid-file signal.pid -f raw disk.img &
		pid=$!
		started+=("$pid")
		until_true test -s signal.pid
		kill -$signal $pid
		status=0
		wait $pid || status=$?
		[ $status = 0 ] || fail "SIG$signal: status $status"
		absent "SIG$signal" signal signal.pid
	done
	set +m
}

# Between any two steps of the start and of the end: nothing is left, whatever was reached.
test_signal_at_any_time() {
	local i pid status
	for ((i = 0; i < 60; i++)); do
		"$hawserd" -t -k "$work/any" --pid-file any.pid -f raw disk.img &
		pid=$!
		sleep "0.00$((i % 10))"
		kill -TERM $pid
		status=0
		wait $pid || status=$?
		[ $status = 0 ] || [ $status = 143 ] || fail "round $i: status $status"
		absent "round $i (status $status)" any any.pid
	done
}

test_last_client() {
	local pid
	"$hawserd" -k "$work/last" -f raw disk.img &
	pid=$!
	started+=("$pid")
	until_true "$hawserd" -L -k "$work/last"
	kill -0 $pid || fail "a list ended the server"
	[ "$(qemu-img info --output=json "nbd+unix:///?socket=$work/last" |
		sed -n 's/.*"virtual-size": \([0-9]*\).*/\1/p')" = 1048576 ] || fail "size"
	wait $pid || fail "the last client has left: status $?"
	absent "the last client" last
}

test_run() {
	local status=0 output
	# shellcheck disable=SC2016 # for the command
	output=$("$hawserd" -x 'a b' --run 'echo "$uri"; test -S "$unixsocket" && exit 7' -f raw disk.img) ||
		status=$?
	[ $status = 7 ] || fail "--run: status $status"
	[[ $output == "nbd+unix:///a%20b?socket=/"*/socket ]] || fail "--run: uri $output"
	absent "--run" "$(dirname "${output#*socket=}")"
	status=0
	# shellcheck disable=SC2016
	"$hawserd" --run 'kill -KILL $$' -f raw disk.img || status=$?
	[ $status = 137 ] || fail "--run of a killed command: status $status"
	# shellcheck disable=SC2016
	"$hawserd" --run 'for i in 1 2 3; do qemu-img info "$uri" || exit; done' -f raw disk.img >/dev/null ||
		fail "three clients one after the other"
	# Told to end, it ends its command, too.
	"$hawserd" --run 'echo $$ >run.pid; exec sleep 100' -f raw disk.img &
	local pid=$!
	until_true test -s run.pid
	kill $pid
	wait $pid && fail "success of a command that was ended"
	until_true gone "$(cat run.pid)"
}

# The list against the one that qemu-nbd makes of the same server. (Lines of newer QEMU aside.)
test_list() {
	local options theirs
	type -P qemu-nbd >/dev/null || return 0
	for options in '' '-r' '-e 0' '-x name -D text'; do
		# shellcheck disable=SC2086 # options
		background list $options -f raw disk.img
		diff <(qemu-nbd -L -k "$work/list" | grep -v 'transaction size') \
			<("$hawserd" -L -k "$work/list" | grep -v 'transaction size') ||
			fail "-L of hawserd $options"
		kill "$server"
		until_true gone "$server"
	done
	qemu-nbd --fork -f raw -t -k "$work/q" --pid-file q.pid -x name -D text disk.img
	theirs=$(cat q.pid)
	started+=("$theirs")
	diff <(qemu-nbd -L -k "$work/q" | grep -v 'transaction size') \
		<("$hawserd" -L -k "$work/q" | grep -v 'transaction size') || fail "-L of qemu-nbd"
	kill "$theirs"
	until_true gone "$theirs" # it locks the image
	says '' -L -k "$work/nobody"
}

for test in $(compgen -A function test_); do
	$test
	echo "ok: $test"
done
