# SPDX-License-Identifier: MIT
# The command line beside that of qemu-nbd, and what only old versions of it had.
CHECKS += tests/e2e/partitions.py tests/e2e/qemu-compat.py tests/e2e/qemu-scripts.sh \
	tests/e2e/wrong-lines.py
