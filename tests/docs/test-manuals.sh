#!/bin/bash
# SPDX-License-Identifier: MIT
# The manual pages: mandoc finds no fault in them, and the pages of ours that they refer to exist.
set -euo pipefail

cd "$(dirname "$0")/../../man"

if ! command -v mandoc >/dev/null; then
	echo "needs mandoc"
	exit 77
fi

failed=0
for page in *.[1-9]; do
	# Whether other people's pages are installed, and indexed, is not ours to say.
	if mandoc -T lint -W style "$page" 2>&1 |
		grep -v -e 'referenced manual not found' -e 'outdated mandoc.db'; then
		failed=1
	fi
	grep -q "^\.Dt $(basename "${page%.*}" | tr '[:lower:]' '[:upper:]') ${page##*.}\$" "$page" || {
		echo "$page: its .Dt line names another page"
		failed=1
	}
	while read -r name section; do
		case $name in
		hawser* | nbdtab)
			[ -e "$name.$section" ] || {
				echo "$page refers to $name($section), which does not exist"
				failed=1
			}
			;;
		esac
	done < <(sed -n 's/^\.Xr \([^ ]*\) \([0-9]\).*/\1 \2/p' "$page")
done
exit $failed
