# SPDX-License-Identifier: MIT
# Unit tests with Check, one program for each tests/unit/test-NAME.c.
UNIT_TESTS := $(patsubst tests/unit/test-%.c,$(BUILD)/tests/unit-%,$(wildcard tests/unit/test-*.c))
CHECKS     += $(UNIT_TESTS)

$(UNIT_TESTS): $(BUILD)/tests/unit-%: $(BUILD)/obj/tests/unit/test-%.o $(BUILD)/libserver.a \
               $(BUILD)/libclient.a $(BUILD)/libcommon.a
	@mkdir -p $(@D)
	$(call link,$(shell $(PKG_CONFIG) --libs check))
.SECONDARY: $(patsubst tests/unit/%.c,$(BUILD)/obj/tests/unit/%.o,$(wildcard tests/unit/test-*.c))
