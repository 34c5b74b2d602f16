# SPDX-License-Identifier: MIT
# Fuzz targets: tests/fuzz/target-NAME.c each. With driver.c they are checks of a few seconds; with
# clang's libFuzzer, `make fuzz` lets them run for long.
FUZZ_TARGETS := $(patsubst tests/fuzz/target-%.c,%,$(wildcard tests/fuzz/target-*.c))
FUZZ_HELPERS := $(filter-out tests/fuzz/target-%.c tests/fuzz/driver.c,$(wildcard tests/fuzz/*.c))
FUZZ_LIBS    := $(BUILD)/libserver.a $(BUILD)/libclient.a $(BUILD)/libcommon.a

FUZZ_CHECKS := $(FUZZ_TARGETS:%=$(BUILD)/tests/fuzz-%)
CHECKS      += $(FUZZ_CHECKS)

$(FUZZ_CHECKS): $(BUILD)/tests/fuzz-%: $(BUILD)/obj/tests/fuzz/target-%.o \
                $(call objects,tests/fuzz/driver.c $(FUZZ_HELPERS)) $(FUZZ_LIBS)
	@mkdir -p $(@D)
	$(call link)

# In the build that `make fuzz` starts: the same objects with libFuzzer's main.
LIBFUZZER_TARGETS := $(FUZZ_TARGETS:%=$(BUILD)/fuzz/%)
$(LIBFUZZER_TARGETS): $(BUILD)/fuzz/%: $(BUILD)/obj/tests/fuzz/target-%.o \
                      $(call objects,$(FUZZ_HELPERS)) $(FUZZ_LIBS)
	@mkdir -p $(@D)
	$(call link,-fsanitize=fuzzer)
.PHONY: libfuzzer-targets
libfuzzer-targets: $(LIBFUZZER_TARGETS)
.SECONDARY: $(FUZZ_TARGETS:%=$(BUILD)/obj/tests/fuzz/target-%.o)

# make fuzz [MINUTES=n] [TARGET=name]: n minutes for each target (or that one). What was learnt
# stays in build-fuzzer/corpus, what crashed in build-fuzzer/crashes.
MINUTES   ?= 1
FUZZER_CC ?= clang
.PHONY: fuzz
fuzz: ## long fuzzing with clang (MINUTES=n for each, TARGET=name)
	@$(MAKE) --no-print-directory BUILD=build-fuzzer CC=$(FUZZER_CC) SAN=address \
		CFLAGS='-O1 -g -fsanitize=fuzzer-no-link' libfuzzer-targets
	@tests/fuzz/run build-fuzzer $(MINUTES) $(or $(TARGET),$(FUZZ_TARGETS))
