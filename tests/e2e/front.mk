# SPDX-License-Identifier: MIT
# hawserd's command line, starts and ends.
CHECKS += tests/e2e/hawserd-front.sh tests/e2e/hawserd-front-activation.py
