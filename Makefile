# moonlet: build, test, install. `make help` lists the targets.
#
# Settings, on the command line or in the environment:
#   CC=clang  CFLAGS="-O2 -g"  LDFLAGS=  BUILD=build  PREFIX=/usr/local  DESTDIR=
#   WERROR=1                     warnings are errors
#   V=1                          show whole commands
#   SANITIZE=address,undefined   builds everything with these sanitizers (choose another BUILD)
# A change of any of them rebuilds what it touches.

BUILD   ?= build
ifeq ($(origin CC),default)
CC      := gcc
endif
CFLAGS  ?= -O2 -g
LUA     ?= lua5.4
WERROR  ?=
SANITIZE ?=
V       ?=

.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules

.PHONY: all
all:  ## the command, the libraries and the module for stock lua5.4, under build/

# $(call run,VERB) starts a recipe line: the command itself under V=1, else a verb and the target.
run = $(if $(V),,@printf '  %-5s %s\n' $(1) $@ && )

# --- flags ----------------------------------------------------------------------------------------------------------

PKGS     := lua5.4 json-c libpcre2-8
WARN     := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wvla \
            $(if $(WERROR),-Werror)
INCLUDES := -Isrc -D_GNU_SOURCE $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
SANITIZE_FLAGS := $(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-sanitize-recover=all -fno-omit-frame-pointer)
# No -ffast-math; contraction is off so that a sum has one meaning on every instruction set.
ALL_CFLAGS  := $(INCLUDES) $(CPPFLAGS) -std=c17 -fPIC -fvisibility=hidden -ffp-contract=off -pthread $(WARN) \
               $(SANITIZE_FLAGS) $(CFLAGS)
ALL_LDFLAGS := -pthread $(SANITIZE_FLAGS) $(LDFLAGS)
LIBS     := $(shell pkg-config --libs json-c libpcre2-8 2>/dev/null) -lm -ldl
LUA_LIBS := $(shell pkg-config --libs lua5.4 2>/dev/null)
COMPILE   = $(CC) $(ALL_CFLAGS) -MMD -MP
# A shared library shows its public functions alone. Sanitizers leave their own symbols for the executable to bring.
SHARED    = $(CC) -shared $(ALL_LDFLAGS) -Wl,--version-script=src/moonlet.map $(if $(SANITIZE),,-Wl,--exclude-libs,ALL)

# Kernels under src/tensor/cpu/isa are compiled once per instruction set, each time with another ISA prefix; processors
# other than x86-64 have the reference kernels.
ISAS        := ref avx2 avx512
ISA_ref     := -DML_ISA=ref -O2
# NaN and infinities keep their meaning; only errno and floating-point traps, which nobody reads, are given up, so that
# loops vectorise.
ISA_FAST    := -O3 -fno-math-errno -fno-trapping-math
ISA_avx2    := -DML_ISA=avx2 -DML_ISA_AVX2 $(ISA_FAST) -mavx2 -mfma -mf16c -mbmi2
ISA_avx512  := -DML_ISA=avx512 -DML_ISA_AVX512 $(ISA_FAST) -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni \
               -mavx512bf16 -mamx-tile -mamx-bf16 -mavx2 -mfma -mf16c -mbmi2 -mprefer-vector-width=512
ifeq ($(filter x86_64-%,$(shell $(CC) -dumpmachine 2>/dev/null)),)
ISAS        := ref
endif

# --- files ----------------------------------------------------------------------------------------------------------

VERSION  := $(shell sed -n 's/^.define ML_VERSION "\(.*\)"/\1/p' src/moonlet.h)
SONAME   := libmoonlet.so.$(firstword $(subst ., ,$(VERSION)))
LIB_SRC  := $(sort $(wildcard src/*.c src/*/*.c src/*/*/*.c))
ISA_SRC  := $(sort $(wildcard src/tensor/cpu/isa/*.c src/tensor/cpu/isa/*/*.c))
LUA_SRC  := $(shell find lua -name '*.lua' 2>/dev/null | LC_ALL=C sort)
LIB_OBJ  := $(LIB_SRC:%.c=$(BUILD)/obj/%.o) $(foreach i,$(ISAS),$(ISA_SRC:%.c=$(BUILD)/obj/%.$(i).o)) \
            $(BUILD)/obj/embedded_lua.o $(BUILD)/obj/gpu_images.o
LIBRARIES := $(BUILD)/libmoonlet.a $(BUILD)/libmoonlet.so $(BUILD)/moonlet.so
EXAMPLES := $(patsubst examples/%.c,$(BUILD)/examples/%,$(wildcard examples/*.c))

all: $(BUILD)/moonlet $(LIBRARIES)

# $(call stamp,FILE,TEXT): FILE holds TEXT, and is newer than what depends on it whenever TEXT has changed.
define stamp
ifneq ($$(strip $$(file <$(1))),$$(strip $(2)))
.PHONY: $(1)
endif
$(1):
	@$(3) mkdir -p $$(@D) && printf '%s\n' '$$(subst ','\'',$$(strip $(2)))' > $$@
endef
FLAGS    := $(ALL_CFLAGS) : $(ALL_LDFLAGS) : $(LIBS) $(LUA_LIBS) : $(foreach i,$(ISAS),$(ISA_$(i)) :) \
            $(CC) $(shell $(CC) -dumpversion 2>/dev/null)
# Where a tool or library is missing, the first build stops here and says so.
$(eval $(call stamp,$(BUILD)/flags,$$(FLAGS),CC='$(CC)' LUA='$(LUA)' tools/deps.sh check &&))
$(eval $(call stamp,$(BUILD)/objects,$$(LIB_OBJ)))
$(eval $(call stamp,$(BUILD)/lua_files,$$(LUA_SRC)))

# --- rules ----------------------------------------------------------------------------------------------------------

$(BUILD)/obj/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(call run,cc)$(COMPILE) -c $< -o $@

define isa_rule
$(BUILD)/obj/%.$(1).o: %.c $(BUILD)/flags
	@mkdir -p $$(@D)
	$$(call run,cc)$$(COMPILE) $$(ISA_$(1)) -c $$< -o $$@
endef
$(foreach i,$(ISAS),$(eval $(call isa_rule,$(i))))

# The library carries its own lua/ directory as data.
$(BUILD)/embedded_lua.c: tools/embed.lua $(LUA_SRC) $(BUILD)/lua_files $(BUILD)/flags
	$(call run,embed)$(LUA) tools/embed.lua $(LUA_SRC) > $@
$(BUILD)/obj/embedded_lua.o: $(BUILD)/embedded_lua.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(call run,cc)$(COMPILE) -c $< -o $@

include mk/gpu.mk

$(BUILD)/libmoonlet.a: $(LIB_OBJ) $(BUILD)/objects
	$(call run,ar)rm -f $@ && $(AR) rcs $@ $(LIB_OBJ)
$(BUILD)/libmoonlet.so: $(LIB_OBJ) $(BUILD)/objects src/moonlet.map
	$(call run,link)$(SHARED) $(if $(SANITIZE),,-Wl,--no-undefined) -Wl,-soname,$(SONAME) -o $@ $(LIB_OBJ) \
	  $(LUA_LIBS) $(LIBS)
	@ln -sf $(@F) $(@D)/$(SONAME)
# For stock lua5.4: the interpreter brings the Lua symbols.
$(BUILD)/moonlet.so: $(LIB_OBJ) $(BUILD)/objects src/moonlet.map
	$(call run,link)$(SHARED) -o $@ $(LIB_OBJ) $(LIBS)
# The one user of readline, which is GPL: the libraries stay free of it.
$(BUILD)/moonlet: $(BUILD)/obj/repl.o $(BUILD)/libmoonlet.a
	$(call run,link)$(CC) $(ALL_LDFLAGS) -o $@ $^ -lreadline $(LUA_LIBS) $(LIBS)

.PHONY: examples
examples: $(EXAMPLES)  ## the C programs of examples/, linked as a host links them
$(BUILD)/examples/%: examples/%.c $(BUILD)/libmoonlet.a
	@mkdir -p $(@D)
	$(call run,cc)$(COMPILE) $< -o $@ $(ALL_LDFLAGS) $(BUILD)/libmoonlet.a $(LUA_LIBS) $(LIBS)

include mk/test.mk mk/project.mk mk/install.mk

.PHONY: clean help
clean:  ## remove what was built (checkpoints/ stays)
	rm -rf $(BUILD) $(BUILD)-asan $(BUILD)-tsan $(BUILD)-fuzz

help:  ## this list
	@sed -n '/^# Settings/,/^$$/s/^# \{0,1\}//p' Makefile
	@echo 'Targets:'
	@sed -n 's/^\([a-z][a-z-]*\):.*  ## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | \
	  while IFS='|' read -r target text; do printf '  %-18s %s\n' "$$target" "$$text"; done
	@for f in $(CHECK_SCRIPTS); do \
	  printf '  %-18s %s\n' "check-$$(basename "$${f%.*}")" \
	    "$$(sed -n 's/^[-#"]* *[a-z_0-9-]*\.[a-z]*: //p' "$$f" | head -n 1)"; done

-include $(LIB_OBJ:.o=.d) $(BUILD)/obj/repl.d $(C_TESTS:%=%.d) $(EXAMPLES:%=%.d)
