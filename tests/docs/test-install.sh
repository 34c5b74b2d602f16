#!/bin/bash
# SPDX-License-Identifier: MIT
# make install puts every file where the system looks for it, complete and with the right mode;
# make uninstall takes away exactly that and nothing of anybody else's.
set -euo pipefail

cd "$(dirname "$0")/../.."
build=${BUILD:-build}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

fault() {
	echo "FAIL: $*"
	failed=1
}

in_root() {
	make --no-print-directory BUILD="$build" DESTDIR="$work/root" PREFIX=/opt/h "$@" >/dev/null
}

in_root install
for file in bin/hawser bin/hawserd; do
	[ -x "$work/root/opt/h/$file" ] || fault "$file is no program"
done
for file in share/man/man8/hawser.8 share/man/man8/hawserd.8 share/man/man5/nbdtab.5 \
	share/bash-completion/completions/hawser share/bash-completion/completions/hawserd \
	lib/modprobe.d/hawser.conf lib/modules-load.d/hawser.conf \
	lib/systemd/system/hawser@.service lib/systemd/system/hawserd@.service \
	lib/systemd/system/hawserd@.socket share/doc/hawser/README.md share/doc/hawser/LICENSE; do
	[ -s "$work/root/opt/h/$file" ] || fault "$file is missing or empty"
	[ ! -x "$work/root/opt/h/$file" ] || fault "$file is executable"
done
if grep -rn '@[A-Z]*DIR@' "$work/root"; then
	fault "a folder was not filled in"
fi
grep -q '^ExecStart=/opt/h/bin/hawser attach %i$' \
	"$work/root/opt/h/lib/systemd/system/hawser@.service" || fault "the unit starts something else"
"$work/root/opt/h/bin/hawserd" --version >/dev/null || fault "the installed hawserd does not run"
link=$work/root/opt/h/libexec/hawser/qemu-nbd
[ "$(readlink "$link")" = /opt/h/bin/hawserd ] || fault "qemu-nbd leads to $(readlink "$link")"
[[ $(exec -a qemu-nbd "$work/root/opt/h/bin/hawserd" -V) == "qemu-nbd "[1-9]*.*.*" ("*")" ]] ||
	fault "under the name qemu-nbd it is another program"
"$work/root/opt/h/bin/hawser" --version >/dev/null || fault "the installed hawser does not run"

echo "somebody else's" >"$work/root/opt/h/share/doc/hawser/notes"
in_root uninstall
left=$(find "$work/root" ! -type d -printf '%P\n')
[ "$left" = opt/h/share/doc/hawser/notes ] || fault "left behind, or too much removed: $left"
in_root uninstall || fault "a second uninstall fails"

exit $failed
