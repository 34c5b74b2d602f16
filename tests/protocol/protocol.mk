# SPDX-License-Identifier: MIT
# The protocol's rules against the server, byte by byte. FAULTS is the shim that fails its file
# operations; the tests find it beside the program.
FAULTS := $(BUILD)/tests/libfault.so

$(FAULTS): tests/protocol/fault.c
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) -D_GNU_SOURCE -std=gnu11 $(WARNINGS) -O2 -g -fPIC -shared -o $@ $< -ldl

CHECK_NEEDS += $(FAULTS)
CHECKS += $(wildcard tests/protocol/test-*.py)
