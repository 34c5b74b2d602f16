# SPDX-License-Identifier: MIT
# make soak [MINUTES=n] [SEED=n] [SAN=address|thread]: mixed clients, faults and restarts for so
# long; memory, descriptors and threads of the server must stay flat. `make check` has a short one.
CHECKS      += tests/e2e/soak.sh
CHECK_NEEDS += $(BUILD)/tests/bench-load

.PHONY: soak
soak: $(BUILD)/hawserd $(FAULT_SHIM) $(BUILD)/tests/bench-load ## mixed load, faults, restarts: nothing may grow (MINUTES=n)
	@HAWSERD=$(abspath $(BUILD)/hawserd) SANITIZER=$(or $(SAN),plain) SEED=$(or $(SEED),0) \
		$(if $(filter thread,$(SAN)),setarch -R) tests/soak/soak.py $$(($(MINUTES) * 60))
