# SPDX-License-Identifier: MIT
# The protocol's rules against the server, byte by byte. FAULT_SHIM is the shim that fails its file
# operations; the tests find it beside the program.
FAULT_SHIM := $(BUILD)/tests/libfault.so

$(FAULT_SHIM): tests/protocol/fault.c
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) -D_GNU_SOURCE -std=gnu11 $(WARNINGS) -O2 -g -fPIC -shared -o $@ $< -ldl

CHECK_NEEDS += $(FAULT_SHIM)
CHECKS += $(wildcard tests/protocol/test-*.py)
