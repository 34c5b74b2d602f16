# SPDX-License-Identifier: MIT
# make mutation               each fault of tests/mutation/*.faults must make its test fail
# make mutation FAULTS="flush lock"   those with such names; JOBS=n copies at once
# `make check` only sees that the list still fits the tree.
CHECKS += tests/docs/test-mutations.py

.PHONY: mutation
mutation: ## put small faults into the server, one by one: each must make its test fail (FAULTS=names)
	@JOBS=$(or $(JOBS),2) tests/mutation/run $(BUILD)/mutation $(FAULTS)
