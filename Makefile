# SPDX-License-Identifier: MIT
# Everything a person types. `make help` lists the targets.
#
# Sources are found by folder: a new .c file in common/, server/ or client/ is built without an
# edit here. Objects stay outside the source tree; SAN=address|undefined|thread builds beside the
# ordinary build (build-address/ ...).

PREFIX     ?= /usr/local
BINDIR     ?= $(PREFIX)/bin
SBINDIR    ?= $(PREFIX)/sbin
MANDIR     ?= $(PREFIX)/share/man
LIBEXECDIR ?= $(PREFIX)/libexec/hawser
COMPDIR    ?= $(PREFIX)/share/bash-completion/completions
MODPROBEDIR ?= $(PREFIX)/lib/modprobe.d
MODULESDIR ?= $(PREFIX)/lib/modules-load.d
UNITDIR    ?= $(PREFIX)/lib/systemd/system
DOCDIR     ?= $(PREFIX)/share/doc/hawser
DESTDIR    ?=

SAN   ?=
BUILD ?= build$(if $(SAN),-$(SAN))
V     ?= 0

CC           ?= cc
PKG_CONFIG   ?= pkg-config
CLANG_FORMAT ?= clang-format
INSTALL      ?= install

VERSION  := 0.1.0
PACKAGES := libnl-genl-3.0 libnbd libssl libcrypto zlib libzstd

WARNINGS := -Wall -Wextra -Wshadow -Wvla -Wmissing-prototypes -Wformat=2 -Wpointer-arith \
            -Wundef -Wstrict-prototypes -Wwrite-strings
# CI sets CI=true in its environment: there a warning is an error.
ifneq ($(CI),)
WARNINGS += -Werror
endif

ifeq ($(SAN),address)
SANFLAGS := -fsanitize=address,undefined -fno-omit-frame-pointer -fno-sanitize-recover=undefined
else ifeq ($(SAN),undefined)
SANFLAGS := -fsanitize=undefined -fno-sanitize-recover=undefined
else ifeq ($(SAN),thread)
SANFLAGS := -fsanitize=thread
else ifneq ($(SAN),)
$(error SAN is address, undefined or thread, not '$(SAN)')
endif

ifeq ($(SAN),)
HARDENING := -fstack-protector-strong -D_FORTIFY_SOURCE=2
else
# Fault layer and sanitizers belong together: tests record, fail, cut and delay file operations.
HARDENING :=
endif

CFLAGS  ?= -O2 -g
CFLAGS_ALL = -std=gnu11 $(WARNINGS) $(CFLAGS) $(HARDENING) $(SANFLAGS) -fPIE -pthread -MMD -MP
# Static probes (systemtap-sdt-dev) where the header is there: nothing at run time needs it.
SDT := $(shell printf '\043include <sys/sdt.h>\nvoid f(void) { STAP_PROBEV(a, b, 1); }\n' | \
         $(CC) -DSDT_USE_VARIADIC -c -x c -o /dev/null - 2>/dev/null && \
         echo -DHAVE_SYS_SDT_H -DSDT_USE_VARIADIC)
CPPFLAGS_ALL = -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -DHAWSER_VERSION='"$(VERSION)"' -I. \
               $(shell $(PKG_CONFIG) --cflags $(PACKAGES) 2>/dev/null) $(SDT) $(CPPFLAGS)
LDFLAGS_ALL = $(SANFLAGS) -pthread -pie -Wl,-z,relro,-z,now $(LDFLAGS)
LIBS = $(shell $(PKG_CONFIG) --libs $(PACKAGES) 2>/dev/null)

ifeq ($(V),0)
Q := @
say = @printf '  %-7s %s\n' $(1) $(2)
else
Q :=
say = @:
endif

COMMON_SRC := $(wildcard common/*.c common/*/*.c)
SERVER_SRC := $(wildcard server/*.c server/*/*.c server/*/*/*.c)
CLIENT_SRC := $(wildcard client/*.c client/*/*.c)
objects     = $(patsubst %.c,$(BUILD)/obj/%.o,$(1))
SERVER_LIB := $(filter-out server/main.c,$(SERVER_SRC))
CLIENT_LIB := $(filter-out client/main.c,$(CLIENT_SRC))

PROGRAMS := $(BUILD)/hawserd $(BUILD)/hawser

.PHONY: all help programs
all: programs
programs: $(PROGRAMS)

help: ## this list
	@awk -F':.*## ' '/^[a-z][a-z-]*:.*## /{printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST) tests/*.mk

.PHONY: need-packages
need-packages:
	@$(PKG_CONFIG) --exists $(PACKAGES) 2>/dev/null || \
		{ echo "libraries are missing ($(PACKAGES)): run 'make deps' first" >&2; exit 1; }

$(BUILD)/obj/%.o: %.c | need-packages
	$(call say,CC,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) -c $< -o $@

define archive
	$(call say,AR,$@)
	@rm -f $@
	$(Q)$(AR) rcs $@ $^
endef

$(BUILD)/libcommon.a: $(call objects,$(COMMON_SRC))
	$(archive)
$(BUILD)/libserver.a: $(call objects,$(SERVER_LIB))
	$(archive)
$(BUILD)/libclient.a: $(call objects,$(CLIENT_LIB))
	$(archive)

define link
	$(call say,LD,$@)
	$(Q)$(CC) $(LDFLAGS_ALL) -o $@ $(filter %.o %.a,$^) $(LIBS) $(1)
endef

$(BUILD)/hawserd: $(BUILD)/obj/server/main.o $(BUILD)/libserver.a $(BUILD)/libcommon.a
	$(call link)
$(BUILD)/hawser: $(BUILD)/obj/client/main.o $(BUILD)/libclient.a $(BUILD)/libcommon.a
	$(call link)

include kmod-helpers/install.mk
-include tests/tests.mk

.PHONY: format format-check clean
FORMATTED = $(wildcard common/*.[ch] common/*/*.[ch] server/*.[ch] server/*/*.[ch] server/*/*/*.[ch] client/*.[ch] \
            client/*/*.[ch] tests/*/*.[ch])
format: ## put all C files into the house's form
	$(CLANG_FORMAT) -i $(FORMATTED)
format-check: ## fail where a C file is not in the house's form
	$(CLANG_FORMAT) --dry-run -Werror $(FORMATTED)

clean: ## remove all builds
	rm -rf build build-*

-include $(shell find $(BUILD)/obj -name '*.d' 2>/dev/null)
