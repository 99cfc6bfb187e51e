# project.mk: what is needed from outside, the demo, docs, lint, measurements.

SMOLLM2 := checkpoints/SmolLM2-135M-Instruct.gguf

.PHONY: deps ready
deps:  ## install compiler, libraries and pip with apt-get (Debian 12); quick when nothing is missing
	@CC='$(CC)' LUA='$(LUA)' tools/deps.sh install
ready: deps

.PHONY: demo models
demo: ready  ## build, fetch SmolLM2-135M-Instruct (98 MB), ask it a question
	$(SUBMAKE) all
	@python3 tools/fetch.py smollm2
	@$(BUILD)/moonlet examples/demo.lua $(SMOLLM2)
models: ready  ## fetch both models that tests and measurements use into checkpoints/
	@python3 tools/fetch.py smollm2 gemma3

.PHONY: bench docs lint format
bench: all  ## measure speed beside a peer and beside the machine's own limits
	$(BUILD)/moonlet tools/bench.lua
docs: all  ## write docs/lua from ops.def and the annotations
	$(BUILD)/moonlet tools/make_docs.lua

C_FILES := $(sort $(wildcard *.c src/*.[ch] src/*/*.[ch] src/*/*/*.[ch] src/*/*/*/*.[ch] tests/*.[ch] tests/fuzz/*.[ch] \
           examples/*.c))
lint:  ## luacheck, clang-format and the project's own rules
	@tools/deps.sh lint
	luacheck -q lua tools tests examples
	clang-format --dry-run -Werror $(C_FILES)
	$(LUA) tools/lint.lua
format:  ## clang-format over all C files
	@tools/deps.sh lint
	clang-format -i $(C_FILES)
