# SPDX-License-Identifier: MIT
# make bench            the table of targets, paired runs against the peers (twenty minutes)
# make bench SHORT=1    the same in less than three minutes
# make bench ROWS=read-4k-d64,connect SERVERS=hawserd,nbdkit ROUNDS=7
# make bench-cipher     the cipher of encrypted images alone (ten seconds)
# BENCH_DIR must be on a disk file system.

BENCH_DIR ?= $(BUILD)/bench
BENCH_OPTIONS := $(if $(filter-out 0,$(SHORT)),--short) $(if $(ROWS),--rows '$(ROWS)') \
                 $(if $(SERVERS),--servers $(SERVERS)) $(if $(ROUNDS),--rounds $(ROUNDS))
BENCH_LOAD_OBJ := $(call objects,$(wildcard tests/bench/load*.c))

$(BUILD)/tests/bench-load: $(BENCH_LOAD_OBJ) $(BUILD)/libcommon.a
	@mkdir -p $(@D)
	$(call link)

$(BUILD)/tests/bench-cipher: $(call objects,tests/bench/cipher.c) $(BUILD)/libserver.a $(BUILD)/libcommon.a
	@mkdir -p $(@D)
	$(call link)

CHECKS      += tests/bench/test-bench.py
CHECK_NEEDS += $(BUILD)/tests/bench-load

.PHONY: bench bench-cipher
bench-cipher: $(BUILD)/tests/bench-cipher ## the cipher of LUKS beside OpenSSL's AES-256-XTS
	@$<

bench: $(BUILD)/hawserd $(BUILD)/tests/bench-load ## throughput, CPU and memory against the peers (SHORT=1)
	@tests/bench/run --build $(BUILD) --dir $(BENCH_DIR) $(BENCH_OPTIONS)

# The kernel's TLS beside ours, in the throw-away VM, whose kernel has it.
.PHONY: bench-kernel-tls
bench-kernel-tls: $(BUILD)/hawserd $(BUILD)/tests/bench-load ## TLS by the kernel against TLS by hawserd, in the VM
	@BUILD=$(BUILD) tests/vm/run tests/bench/kernel-tls.sh $(or $(ROUNDS),5)
