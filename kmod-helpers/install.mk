# SPDX-License-Identifier: MIT
# make install, make uninstall: one list drives both. The folders are set at the top of the
# Makefile; DESTDIR goes in front of all of them. Files that name a program's path are templates
# (*.in) and are finished in the build folder.
#
# hawserd is installed a second time under the name qemu-nbd, as a link in a folder of its own:
# /usr/bin/qemu-nbd belongs to QEMU's package. Who wants it puts $(LIBEXECDIR) first in PATH.

# A folder for each PREFIX, so that installs below several do not disturb one another.
HELPERS := $(BUILD)/kmod-helpers$(PREFIX)

# Made each time, because BINDIR or DOCDIR may be another one; replaced only when the content is.
$(HELPERS)/%: kmod-helpers/%.in always
	@mkdir -p $(@D)
	$(Q)sed -e 's|@BINDIR@|$(BINDIR)|g' -e 's|@DOCDIR@|$(DOCDIR)|g' $< >$@.new
	$(Q)if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi
.PHONY: always
always:

# mode:source:folder
UNITS := \
	644:$(HELPERS)/systemd/hawser@.service:$(UNITDIR) \
	644:$(HELPERS)/systemd/hawserd@.service:$(UNITDIR) \
	644:kmod-helpers/systemd/hawserd@.socket:$(UNITDIR)

INSTALLED := \
	755:$(BUILD)/hawserd:$(BINDIR) \
	755:$(BUILD)/hawser:$(BINDIR) \
	644:man/hawserd.8:$(MANDIR)/man8 \
	644:man/hawser.8:$(MANDIR)/man8 \
	644:man/nbdtab.5:$(MANDIR)/man5 \
	644:kmod-helpers/bash-completion/hawserd:$(COMPDIR) \
	644:kmod-helpers/bash-completion/hawser:$(COMPDIR) \
	644:kmod-helpers/modprobe.d/hawser.conf:$(MODPROBEDIR) \
	644:kmod-helpers/modules-load.d/hawser.conf:$(MODULESDIR) \
	$(UNITS) \
	644:kmod-helpers/systemd/server-example.conf:$(DOCDIR) \
	644:README.md:$(DOCDIR) \
	644:ARCHITECTURE.md:$(DOCDIR) \
	644:SECURITY.md:$(DOCDIR) \
	644:LICENSE:$(DOCDIR)

colon := :
field  = $(word $(1),$(subst $(colon), ,$(2)))
source_of = $(call field,2,$(1))
target_of = $(DESTDIR)$(call field,3,$(1))/$(notdir $(call field,2,$(1)))

define install_one
	$(Q)$(INSTALL) -D -m $(call field,1,$(1)) $(call source_of,$(1)) '$(call target_of,$(1))'

endef

.PHONY: install uninstall
install: $(foreach i,$(INSTALLED),$(call source_of,$(i))) ## install below DESTDIR and PREFIX
	$(foreach i,$(INSTALLED),$(call install_one,$(i)))
	$(Q)$(INSTALL) -d '$(DESTDIR)$(LIBEXECDIR)'
	$(Q)ln -sfn '$(BINDIR)/hawserd' '$(DESTDIR)$(LIBEXECDIR)/qemu-nbd'
	@echo "installed below '$(DESTDIR)$(PREFIX)'; systemd wants to know: systemctl daemon-reload"

uninstall: ## remove what install has put there
	$(Q)rm -f $(foreach i,$(INSTALLED),'$(call target_of,$(i))') '$(DESTDIR)$(LIBEXECDIR)/qemu-nbd'
	$(Q)for folder in '$(DESTDIR)$(DOCDIR)' '$(DESTDIR)$(LIBEXECDIR)'; do \
		if [ -d "$$folder" ]; then rmdir --ignore-fail-on-non-empty "$$folder"; fi; done
