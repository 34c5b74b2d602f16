# SPDX-License-Identifier: MIT
# Real peers from Debian packages, end to end.
CHECKS += tests/e2e/peers.py tests/e2e/tls.py tests/e2e/qcow2-lent.py tests/e2e/qcow2-read.py \
	tests/e2e/qcow2-write.py tests/e2e/luks.py tests/e2e/image-options.py tests/e2e/bitmaps.py tests/e2e/trace.py
