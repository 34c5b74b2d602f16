# SPDX-License-Identifier: MIT
# What the server counts, and how it is shown.
CHECKS += tests/e2e/top.py tests/e2e/top-screen.py
