#!/bin/bash
# SPDX-License-Identifier: MIT
# The systemd units: systemd finds no fault in them, and a mount from the fstab line of the manual
# starts after the device is attached and stops before it is detached. systemd has no question for
# an order, so it is proved by contradiction: a unit between the two, the wrong way round, must
# make a loop, and the right way round must not.
set -euo pipefail

cd "$(dirname "$0")/../.."
build=${BUILD:-build}
generator=/usr/lib/systemd/system-generators/systemd-fstab-generator

if ! command -v systemd-analyze >/dev/null || [ ! -x "$generator" ]; then
	echo "needs systemd-analyze and systemd-fstab-generator (package systemd)"
	exit 77
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

fault() {
	echo "FAIL: $*"
	failed=1
}

verify() {
	systemd-analyze verify --man=no "$@" >"$work/out" 2>&1 || return 1
	[ ! -s "$work/out" ]
}

# A unit that wants $1 started before it and $2 after it.
between() {
	cat >"$work/units/between.service" <<-END
		[Unit]
		DefaultDependencies=no
		Requires=$1 $2
		After=$1
		Before=$2
		[Service]
		Type=oneshot
		ExecStart=/bin/true
	END
}

starts_before() {
	between "$1" "$2"
	verify between.service || fault "$1 before $2: $(cat "$work/out")"
	between "$2" "$1"
	if verify between.service || ! grep -q "ordering cycle" "$work/out"; then
		fault "nothing orders $1 before $2"
	fi
}

make --no-print-directory install BUILD="$build" DESTDIR="$work/root" PREFIX=/usr \
	INSTALLED="\$(UNITS)" >/dev/null
mkdir "$work/units" "$work/mounts"
cp "$work"/root/usr/lib/systemd/system/* "$work/units/"
# verify insists that the programs exist; what it is to check here is all the rest.
sed -i 's|=/usr/bin/hawser\(d\{0,1\}\) |=/bin/true |' "$work"/units/*.service
export SYSTEMD_UNIT_PATH=$work/units:$work/mounts:/usr/lib/systemd/system

# The lines of the manual, put together again.
sed -n '/^\/dev\/nbd.*\\e$/{N;s/\\e\n *//;p}' man/nbdtab.5 >"$work/fstab"
echo '/dev/nbd9 /mnt/plain ext4 _netdev,nofail 0 0' >>"$work/fstab"
[ "$(wc -l <"$work/fstab")" = 3 ] || fault "nbdtab(5) has other fstab lines: $(cat "$work/fstab")"
SYSTEMD_FSTAB=$work/fstab "$generator" "$work/mounts" "$work/mounts" "$work/mounts"

for unit in hawser@nbd0.service hawser@data.service hawserd@data.service hawserd@data.socket \
	mnt-disk.mount mnt-data.mount; do
	verify "$unit" || fault "$unit: $(cat "$work/out")"
done

starts_before hawser@nbd0.service mnt-disk.mount
starts_before hawser@data.service mnt-data.mount
# _netdev alone orders, without naming the unit.
starts_before hawser@data.service mnt-plain.mount
starts_before hawser@data.service remote-fs-pre.target
starts_before network-online.target hawser@data.service
starts_before modprobe@nbd.service hawser@data.service
starts_before hawserd@data.socket hawserd@data.service

# What the mount needs stays up as long as the mount does.
grep -q '^Requires=hawser@nbd0.service' "$work/mounts/mnt-disk.mount" ||
	fault "the mount does not require its device"

exit $failed
