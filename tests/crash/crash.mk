# SPDX-License-Identifier: MIT
# Power cuts, and faults of the host at every n-th operation, on all pairs of features of qcow2.
# make crash [CUTS=n] [SEED=n] [OPERATIONS=n]: so many cuts of each pairing. `make check` has few.
CRASH_TESTS := $(BUILD)/tests/crash-qcow2 $(BUILD)/tests/crash-qcow2-faults
CHECKS      += $(CRASH_TESTS)

CRASH_OBJ := $(call objects,$(addprefix tests/crash/,features.c record.c history.c clients.c))

$(BUILD)/tests/crash-qcow2: $(BUILD)/obj/tests/crash/crash-qcow2.o $(CRASH_OBJ)
$(BUILD)/tests/crash-qcow2-faults: $(BUILD)/obj/tests/crash/crash-qcow2-faults.o \
                                   $(call objects,tests/crash/features.c)
$(CRASH_TESTS): $(BUILD)/libserver.a $(BUILD)/libcommon.a
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) $(LDFLAGS_ALL) -o $@ $(filter %.o,$^) $(filter %.a,$^) $(LIBS)

.PHONY: crash
crash: $(CRASH_TESTS) ## power cuts under qcow2, many (CUTS=n of each pairing, SEED=n)
	@$(BUILD)/tests/crash-qcow2-faults -a
	@$< -v -n $(or $(CUTS),3000) -s $(or $(SEED),1) -o $(or $(OPERATIONS),60)
