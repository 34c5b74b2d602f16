# SPDX-License-Identifier: MIT
# The tests. Each folder brings a .mk file that appends executables to CHECKS (exit status 0 pass,
# 77 skip, else fail) and files they need to CHECK_NEEDS. `make check` runs them all under prove;
# the sanitizer builds run all but the VM, which has the ordinary programs.

CHECKS      :=
CHECK_NEEDS :=
include $(sort $(wildcard tests/*/*.mk))

# A test's kind is the folder it came from; a built one is named KIND-SUBJECT.
kind_of      = $(filter $(BUILD)/tests/$(1)-% tests/$(1)/%,$(CHECKS))
CHECKS_BUILT := $(filter $(BUILD)/%,$(CHECKS))
SAN_KINDS    := unit fuzz protocol e2e
KINDS        := vm crash e2e protocol fuzz unit docs bench

.PHONY: deps check check-list check-programs check-sanitized demo
deps: ## install what building, testing and the demo need (Debian and others)
	@tests/deps/install-deps build test

check-programs: $(PROGRAMS) $(CHECK_NEEDS) $(CHECKS_BUILT)

# One line a test: build folder, sanitizer, kind, executable. VM tests come first: they last.
check-list:
	@$(foreach kind,$(if $(SAN),$(SAN_KINDS),$(KINDS)),$(foreach test,$(call kind_of,$(kind)), \
		printf '%s %s %s %s\n' '$(BUILD)' '$(or $(SAN),plain)' '$(kind)' '$(test)';))

SUBMAKE = $(MAKE) --no-print-directory
# What was just installed is seen by a make of its own.
ifeq ($(SAN),)
check: ## all tests, kernel tests in the VM included (SAN=address|undefined|thread: on that build)
	@tests/deps/install-deps build test
	+@$(SUBMAKE) check-programs
	+@$(SUBMAKE) check-programs SAN=address
	+@$(SUBMAKE) check-programs SAN=thread
	+@{ $(SUBMAKE) -s check-list; $(SUBMAKE) -s check-list SAN=address; \
	   $(SUBMAKE) -s check-list SAN=thread; } > $(BUILD)/check-list
	@tests/lib/check $(BUILD) $(BUILD)/check-list
else
check:
	@tests/deps/install-deps build test
	+@$(SUBMAKE) check-programs
	+@$(SUBMAKE) -s check-list > $(BUILD)/check-list
	@tests/lib/check $(BUILD) $(BUILD)/check-list
endif

# make check-vm, check-unit ...: one kind.
.PHONY: $(KINDS:%=check-%)
$(KINDS:%=check-%): check-%:
	+@$(SUBMAKE) check-programs
	+@$(SUBMAKE) -s check-list | awk '$$3 == "$*"' > $(BUILD)/check-list
	@tests/lib/check $(BUILD) $(BUILD)/check-list

# make check-one TEST=tests/protocol/test-read.py: one test, its output shown.
.PHONY: check-one
check-one: check-programs
	@tests/lib/run-test $(BUILD) $(or $(SAN),plain) '' $(TEST)

demo: ## serve an image, attach it to /dev/nbdX, mount, write, detach (IMAGE=path WRITE=1)
	@tests/deps/install-deps build demo
	+@$(SUBMAKE) programs
	@BUILD=$(BUILD) tests/demo/demo $(if $(IMAGE),'$(IMAGE)')
