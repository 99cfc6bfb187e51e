# install.mk: install, uninstall, the pkg-config file.

PREFIX     ?= /usr/local
DESTDIR    ?=
BINDIR     ?= $(PREFIX)/bin
LIBDIR     ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
SHAREDIR   ?= $(PREFIX)/share
LUA_LMOD   := $(SHAREDIR)/lua/5.4/moonlet
LUA_CMOD   := $(LIBDIR)/lua/5.4
DOCDIR     := $(SHAREDIR)/doc/moonlet
# Folders that uninstall removes when they are empty, each before the one that it is in; the system's own stay.
FOLDERS    := $(LUA_CMOD) $(LIBDIR)/lua $(LIBDIR)/pkgconfig $(SHAREDIR)/lua/5.4 $(SHAREDIR)/lua $(SHAREDIR)/doc \
  $(if $(filter /usr /usr/local,$(PREFIX)),,$(BINDIR) $(LIBDIR) $(INCLUDEDIR) $(SHAREDIR) $(PREFIX))

$(eval $(call stamp,$(BUILD)/prefix,$$(VERSION) $$(PREFIX) $$(LIBDIR) $$(INCLUDEDIR)))
$(BUILD)/moonlet.pc: mk/moonlet.pc.in $(BUILD)/prefix
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@LIBDIR@|$(LIBDIR:$(PREFIX)/%=$${prefix}/%)|' \
	  -e 's|@INCLUDEDIR@|$(INCLUDEDIR:$(PREFIX)/%=$${prefix}/%)|' \
	  -e 's|@VERSION@|$(VERSION)|' $< > $@

.PHONY: install uninstall
install: all $(BUILD)/moonlet.pc  ## install under $(DESTDIR)$(PREFIX)
	install -d '$(DESTDIR)$(BINDIR)' '$(DESTDIR)$(LIBDIR)/pkgconfig' '$(DESTDIR)$(INCLUDEDIR)' '$(DESTDIR)$(LUA_CMOD)' \
	  '$(DESTDIR)$(LUA_LMOD)' '$(DESTDIR)$(DOCDIR)'
	install -m 755 $(BUILD)/moonlet '$(DESTDIR)$(BINDIR)/moonlet'
	install -m 644 src/moonlet.h '$(DESTDIR)$(INCLUDEDIR)/moonlet.h'
	install -m 644 $(BUILD)/libmoonlet.a '$(DESTDIR)$(LIBDIR)/libmoonlet.a'
	install -m 755 $(BUILD)/libmoonlet.so '$(DESTDIR)$(LIBDIR)/libmoonlet.so.$(VERSION)'
	ln -sf libmoonlet.so.$(VERSION) '$(DESTDIR)$(LIBDIR)/$(SONAME)'
	ln -sf $(SONAME) '$(DESTDIR)$(LIBDIR)/libmoonlet.so'
	install -m 644 $(BUILD)/moonlet.pc '$(DESTDIR)$(LIBDIR)/pkgconfig/moonlet.pc'
	install -m 755 $(BUILD)/moonlet.so '$(DESTDIR)$(LUA_CMOD)/moonlet.so'
	cd lua && find . -name '*.lua' -exec sh -c 'for f; do install -D -m 644 "$$f" "$$0/$$f"; done' \
	  '$(abspath $(DESTDIR)$(LUA_LMOD))' {} +
	install -m 644 README.md LICENSE '$(DESTDIR)$(DOCDIR)'
	cp -R docs '$(DESTDIR)$(DOCDIR)'
	@[ -n '$(DESTDIR)' ] || ldconfig 2>/dev/null || true

uninstall:  ## remove what install put there
	rm -f '$(DESTDIR)$(BINDIR)/moonlet' '$(DESTDIR)$(INCLUDEDIR)/moonlet.h' '$(DESTDIR)$(LIBDIR)/libmoonlet.a' \
	  '$(DESTDIR)$(LIBDIR)/libmoonlet.so' '$(DESTDIR)$(LIBDIR)/$(SONAME)' '$(DESTDIR)$(LIBDIR)/libmoonlet.so.$(VERSION)' \
	  '$(DESTDIR)$(LIBDIR)/pkgconfig/moonlet.pc' '$(DESTDIR)$(LUA_CMOD)/moonlet.so'
	rm -rf '$(DESTDIR)$(LUA_LMOD)' '$(DESTDIR)$(DOCDIR)'
	@rmdir $(FOLDERS:%='$(DESTDIR)%') 2>/dev/null || true
