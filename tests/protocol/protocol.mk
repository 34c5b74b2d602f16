# SPDX-License-Identifier: MIT
# The protocol's rules against the server, byte by byte. FAULT_SHIM is the shim that fails its file
# operations, HASTY_SHIM the one that makes LUKS images cheap; the tests find them beside the program.
FAULT_SHIM := $(BUILD)/tests/libfault.so
HASTY_SHIM := $(BUILD)/tests/libhasty.so

$(FAULT_SHIM) $(HASTY_SHIM): $(BUILD)/tests/lib%.so: tests/protocol/%.c
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) -D_GNU_SOURCE -std=gnu11 $(WARNINGS) -O2 -g -fPIC -shared -o $@ $< -ldl

CHECK_NEEDS += $(FAULT_SHIM) $(HASTY_SHIM)
CHECKS += $(wildcard tests/protocol/test-*.py)
