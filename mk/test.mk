# test.mk: tests, longer checks, sanitizers, fuzzers.

C_TESTS    := $(patsubst tests/%.c,$(BUILD)/tests/%,$(sort $(wildcard tests/test_*.c)))
# What programs mean, on every instruction set that the processor has; C tests see to that themselves.
MEANING    := $(patsubst %,tests/lua/test_%.lua, \
  affine arithmetic compile dtypes experts fn layouts plans random scope state tensor)
# And on a device that behaves like a GPU, with what several devices mean.
ON_TWIN    := $(MEANING) \
  $(foreach f,batch classify coroutines devices generate operands session slots,tests/lua/test_$(f).lua)
TEST_FILES  = $(C_TESTS) $(sort $(wildcard tests/lua/test_*.lua)) $(foreach i,ref avx2 avx512,$(MEANING:%=%@$(i))) \
  $(ON_TWIN:%=%@twin) $(if $(EMULATED),$(ON_EMULATED)) $(sort $(wildcard tests/test_*.sh))

# Seconds a test file may take, and how many run at once (more than one disturbs the tests that measure time).
TEST_TIMEOUT ?= 600
TEST_JOBS    ?= 1
# `make test ONLY="one two"` runs the files whose path contains one of the words.
ONLY ?=

# A make of our own, as parallel as the machine unless -j was given. Targets that may first have to install something
# run it, because this one has asked pkg-config before the installation.
PARALLEL = $(if $(filter -j% --jobserver%,$(MAKEFLAGS)),,-j$(shell nproc 2>/dev/null || echo 2))
SUBMAKE  = +@$(MAKE) --no-print-directory $(PARALLEL)

$(BUILD)/tests/%: tests/%.c $(BUILD)/libmoonlet.a $(BUILD)/flags
	@mkdir -p $(@D)
	$(call run,cc)$(COMPILE) -Itests $< -o $@ $(ALL_LDFLAGS) $(BUILD)/libmoonlet.a $(LUA_LIBS) $(LIBS)

# A device of its own, which the tests load: it has the core inside once more.
TWIN := $(BUILD)/tests/twin.so
$(TWIN): tests/twin/twin.c $(BUILD)/libmoonlet.a $(BUILD)/flags
	@mkdir -p $(@D)
	$(call run,cc)$(COMPILE) -shared $< -o $@ $(ALL_LDFLAGS) $(BUILD)/libmoonlet.a $(LIBS)

# The kernels of GPUs run by the processor, for tests: a libcuda.so.1 of our own, and the command with the table of
# kernels that stands for nvcc's. Where there is no C++ compiler, neither.
HAS_CXX  := $(shell command -v $(CXX) 2>/dev/null)
EMULATED := $(if $(HAS_CXX),$(BUILD)/tests/cuda/libcuda.so.1 $(BUILD)/tests/cuda/moonlet)
EMULATED_OBJ := $(patsubst src/gpu/%.cu,$(BUILD)/tests/cuda/%.o,$(wildcard src/gpu/*.cu)) $(BUILD)/tests/cuda/driver.o
EMULATE   = $(CXX) -std=c++17 -O1 -g -fPIC -ffp-contract=off -fvisibility=hidden -Wall -Wextra -Wno-unknown-pragmas \
            $(if $(WERROR),-Werror) -Isrc -Itests/cuda -MMD -MP
$(BUILD)/tests/cuda/%.o: src/gpu/%.cu $(BUILD)/flags
	@mkdir -p $(@D)
	$(call run,c++)$(EMULATE) -x c++ -c $< -o $@
$(BUILD)/tests/cuda/%.o: tests/cuda/%.cpp $(BUILD)/flags
	@mkdir -p $(@D)
	$(call run,c++)$(EMULATE) -c $< -o $@
$(BUILD)/tests/cuda/libcuda.so.1: $(EMULATED_OBJ)
	$(call run,link)$(CXX) -shared -Wl,-soname,libcuda.so.1 -o $@ $^ -ldl
$(BUILD)/tests/cuda/images.o: tests/cuda/images.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(call run,cc)$(COMPILE) -c $< -o $@
$(BUILD)/tests/cuda/moonlet: $(BUILD)/obj/repl.o $(BUILD)/tests/cuda/images.o $(filter-out %/gpu_images.o,$(LIB_OBJ))
	$(call run,link)$(CC) $(ALL_LDFLAGS) -o $@ $^ -lreadline $(LUA_LIBS) $(LIBS)
-include $(EMULATED_OBJ:.o=.d)

# Under ThreadSanitizer: what it has to know of Lua.
PRELOAD := $(if $(findstring thread,$(SANITIZE)),$(BUILD)/tests/tools/tsan_longjmp.so)
$(BUILD)/tests/tools/tsan_longjmp.so: tests/tools/tsan_longjmp.c
	@mkdir -p $(@D)
	$(call run,cc)$(CC) -std=c17 -O1 -U_FORTIFY_SOURCE -shared -fPIC $(WARN) $< -o $@

.PHONY: test test-build test-run
test: ready  ## build, run all tests, close with `N passed, N failed`
	$(SUBMAKE) test-run
test-build: all examples $(C_TESTS) $(TWIN) $(EMULATED)
test-run: test-build $(PRELOAD)
	@$(if $(PRELOAD),LD_PRELOAD='$(abspath $(PRELOAD))') BUILD='$(BUILD)' CC='$(CC)' LUA='$(LUA)' SANITIZE='$(SANITIZE)' \
	  TEST_TIMEOUT='$(TEST_TIMEOUT)' TEST_JOBS='$(TEST_JOBS)' ONLY='$(ONLY)' $(LUA) tools/run_tests.lua $(TEST_FILES)

# The device that behaves like a GPU: whatever runs scripts runs on it.
# What starts commands of its own, or compares texts of the CPU's plans, does not.
NOT_ON_TWIN := $(foreach f,docs repl help hub hostile cmd plan_texts,tests/lua/test_$(f).lua)
TWIN_FILES  := $(patsubst %,%@twin,$(filter-out $(NOT_ON_TWIN),$(sort $(wildcard tests/lua/test_*.lua))))
.PHONY: check-twin
check-twin: ready  ## all Lua tests, 10,000 programs and 1,050 generations on a device that behaves like a GPU
	$(SUBMAKE) test-run TEST_FILES='$(TWIN_FILES)'
	PROGRAMS=$${PROGRAMS-10000} $(AS_TWIN) tests/checks/programs.lua run
	GENERATIONS=$${GENERATIONS-300} $(AS_TWIN) tests/checks/endurance.lua
	PROMPTS=$${PROMPTS-100} MODELS=tiny $(AS_TWIN) tests/checks/batches.lua
AS_TWIN = MOONLET_DEVICE=twin MOONLET_DEVICE_LIBRARY='$(abspath $(TWIN))' BUILD='$(BUILD)' $(BUILD)/moonlet

# What the processor makes of the kernels in an acceptable time; all of them on a real GPU.
ON_EMULATED := $(foreach f,affine compile dtypes fn layouts products sequences state tensor,\
  tests/lua/test_$(f).lua@emulated)
CUDA_FILES  := $(TWIN_FILES:%@twin=%@cuda)
.PHONY: check-cuda
check-cuda: ready  ## all Lua tests on the first GPU
	$(SUBMAKE) test-run TEST_FILES='$(CUDA_FILES)'

# The same tests under sanitizers, real models left out: these take minutes there and touch no other code.
.PHONY: check-asan check-tsan
check-asan: ready  ## all tests under AddressSanitizer and UndefinedBehaviorSanitizer, without real models
	$(call SANITIZED,asan,address$(comma)undefined)
check-tsan: ready  ## all tests under ThreadSanitizer, without real models
	$(call SANITIZED,tsan,thread)
SANITIZED = +@MOONLET_TEST_CHECKPOINTS= $(MAKE) --no-print-directory $(PARALLEL) BUILD=$(BUILD)-$(1) SANITIZE=$(2) \
  CFLAGS='-O1 -g' TEST_TIMEOUT=1200 test-run

# Longer checks: `make check-NAME` runs tests/checks/NAME.sh, .lua or .py; its first comment line is its help.
CHECK_SCRIPTS := $(sort $(wildcard tests/checks/*.sh tests/checks/*.lua tests/checks/*.py))
define check_rule
.PHONY: check-$(basename $(notdir $(1)))
check-$(basename $(notdir $(1))): all
	BUILD='$(BUILD)' CC='$(CC)' $(2) $(1)
endef
$(foreach f,$(CHECK_SCRIPTS),$(eval $(call check_rule,$(f),$(if $(filter %.lua,$(f)),$$(BUILD)/moonlet,$(if \
  $(filter %.py,$(f)),python3,sh)))))

check-sessions: $(TWIN) # which runs on it as well

# libFuzzer, with clang. Corpus and findings lie under build-fuzz/NAME/.
FUZZ_SECONDS ?= 60
.PHONY: fuzz
fuzz: ready  ## run each fuzz target for FUZZ_SECONDS (60), with clang
	@BUILD='$(BUILD)' LUA='$(LUA)' sh tests/fuzz/run.sh $(FUZZ_SECONDS)
