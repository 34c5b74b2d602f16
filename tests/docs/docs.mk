# SPDX-License-Identifier: MIT
# Documents against programs, and the system's pieces against the system.
CHECKS += tests/docs/test-options.py tests/docs/test-texts.py tests/docs/test-manuals.sh \
          tests/docs/test-units.sh tests/docs/test-install.sh tests/docs/test-examples.py
