# moonlet: build, test, install. `make help` lists the targets.

BUILD   ?= build
CC      ?= gcc
CFLAGS  ?= -O2 -g
PREFIX  ?= /usr/local
WERROR  ?=

PKGS     := lua5.4 json-c libpcre2-8
CPPFLAGS += -Isrc -D_GNU_SOURCE $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
WARN     := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wvla $(if $(WERROR),-Werror)
# No -ffast-math; contraction is off so that a sum has one meaning on every instruction set.
ALL_CFLAGS = -std=c17 -fPIC -fvisibility=hidden -ffp-contract=off -pthread $(WARN) $(CFLAGS)
LIBS     := $(shell pkg-config --libs json-c libpcre2-8 2>/dev/null) -lm -ldl -pthread
LUA_LIBS := $(shell pkg-config --libs lua5.4 2>/dev/null)

# Kernels under src/tensor/cpu/isa and src/tensor/quant are compiled once per instruction set, each time with another ISA prefix.
ISAS        := ref avx2 avx512
ISA_ref     := -DML_ISA=ref -O2
ISA_avx2    := -DML_ISA=avx2 -DML_ISA_AVX2 -O3 -mavx2 -mfma -mf16c -mbmi2
ISA_avx512  := -DML_ISA=avx512 -DML_ISA_AVX512 -O3 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mavx512bf16 -mavx2 -mfma -mf16c -mbmi2 -mprefer-vector-width=512
ifeq ($(filter x86_64 amd64,$(shell uname -m)),)
ISAS        := ref
endif

LIB_SRC  := $(filter-out src/tensor/cpu/isa/% src/tensor/quant/%,$(wildcard src/*.c src/*/*.c src/*/*/*.c))
ISA_SRC  := $(wildcard src/tensor/cpu/isa/*.c src/tensor/quant/*.c)
LIB_OBJ  := $(LIB_SRC:%.c=$(BUILD)/obj/%.o) $(foreach i,$(ISAS),$(ISA_SRC:%.c=$(BUILD)/obj/%.$(i).o))
LIB_OBJ  += $(BUILD)/obj/embedded_lua.o
LUA_SRC  := $(shell find lua -name '*.lua' | sort)
C_TESTS  := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/test_*.c))

.PHONY: all clean
all: $(BUILD)/moonlet $(BUILD)/libmoonlet.a $(BUILD)/libmoonlet.so $(BUILD)/moonlet.so

$(BUILD)/obj/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(ALL_CFLAGS) -MMD -MP -c $< -o $@

define isa_rule
$(BUILD)/obj/%.$(1).o: %.c
	@mkdir -p $$(@D)
	$$(CC) $$(CPPFLAGS) $$(ALL_CFLAGS) $$(ISA_$(1)) -MMD -MP -c $$< -o $$@
endef
$(foreach i,$(ISAS),$(eval $(call isa_rule,$(i))))

# The library carries its own lua/ directory as data.
$(BUILD)/embedded_lua.c: tools/embed.lua $(LUA_SRC)
	@mkdir -p $(@D)
	lua5.4 tools/embed.lua $(LUA_SRC) > $@.tmp && mv $@.tmp $@
$(BUILD)/obj/embedded_lua.o: $(BUILD)/embedded_lua.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(ALL_CFLAGS) -c $< -o $@

$(BUILD)/libmoonlet.a: $(LIB_OBJ)
	rm -f $@ && ar rcs $@ $^
$(BUILD)/libmoonlet.so: $(LIB_OBJ)
	$(CC) -shared -o $@ $^ $(LUA_LIBS) $(LIBS)
# For stock lua5.4: the interpreter brings the Lua symbols.
$(BUILD)/moonlet.so: $(LIB_OBJ)
	$(CC) -shared -o $@ $^ $(LIBS)
$(BUILD)/moonlet: $(BUILD)/obj/repl.o $(BUILD)/libmoonlet.a
	$(CC) -o $@ $^ -lreadline $(LUA_LIBS) $(LIBS)

$(BUILD)/tests/%: tests/%.c $(BUILD)/libmoonlet.a
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) -Itests $(ALL_CFLAGS) -MMD -MP $< -o $@ $(BUILD)/libmoonlet.a $(LUA_LIBS) $(LIBS)

clean:
	rm -rf $(BUILD)

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
