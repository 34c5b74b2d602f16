# SPDX-License-Identifier: MIT
# Power cuts. Longer: build/tests/crash-qcow2 -n 5000 -s SEED
CRASH_TESTS := $(BUILD)/tests/crash-qcow2
CHECKS      += $(CRASH_TESTS)

$(CRASH_TESTS): $(BUILD)/tests/crash-%: $(call objects,tests/crash/crash-qcow2.c tests/crash/record.c) \
                $(BUILD)/libserver.a $(BUILD)/libcommon.a
	@mkdir -p $(@D)
	$(call link)
