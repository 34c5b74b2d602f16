# SPDX-License-Identifier: MIT
# Kernel tests: each runs as root in a throw-away VM (tests/vm/run SCRIPT by hand).
CHECKS += $(wildcard tests/vm/*.test)
