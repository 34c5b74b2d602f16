# SPDX-License-Identifier: MIT
# Power cuts. Longer: build/tests/crash-qcow2 -n 5000 -s SEED
CRASH_TESTS := $(BUILD)/tests/crash-qcow2 $(BUILD)/tests/crash-qcow2-faults
CHECKS      += $(CRASH_TESTS)

$(BUILD)/tests/crash-qcow2: $(call objects,tests/crash/record.c)
$(CRASH_TESTS): $(BUILD)/tests/crash-%: $(BUILD)/obj/tests/crash/crash-%.o $(BUILD)/libserver.a \
                $(BUILD)/libcommon.a
	@mkdir -p $(@D)
	$(call link)
