#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# A short soak (tests/soak): two lives of a server under mixed load, faults among it, each ended
# under that load.
set -euo pipefail

exec "$(dirname "${BASH_SOURCE[0]}")/../soak/soak.py" 20
