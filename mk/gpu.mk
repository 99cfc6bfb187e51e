# gpu.mk: kernels for NVIDIA's GPUs. With nvcc they are compiled and embedded in the library; without it the library has
# none, and says so when a GPU is asked for.
#
#   NVCC=               builds without them
#   GPU_ARCHS="80 90"   kinds of GPU (compute capability without its point); newer ones run the last of them

NVCC      ?= $(firstword $(wildcard $(addsuffix /nvcc,$(subst :, ,$(PATH)) /usr/local/cuda/bin)))
GPU_ARCHS ?= 80 90
GPU_SRC   := $(if $(NVCC),$(sort $(wildcard src/gpu/*.cu)))
GPU_FLAGS := -std=c++17 -O3 -fmad=false -Isrc --compress-mode=size \
             $(foreach a,$(GPU_ARCHS),-gencode arch=compute_$(a),code=sm_$(a)) \
             -gencode arch=compute_$(lastword $(GPU_ARCHS)),code=compute_$(lastword $(GPU_ARCHS))
comma := ,
# What Hopper alone can do is machine code for it alone.
$(BUILD)/obj/src/gpu/wide.fatbin: \
  GPU_FLAGS := $(subst compute_90$(comma)code=sm_90,compute_90a$(comma)code=sm_90a,$(GPU_FLAGS))
GPU_IMAGES := $(GPU_SRC:%.cu=$(BUILD)/obj/%.fatbin)
$(eval $(call stamp,$(BUILD)/gpu_flags,$$(NVCC) : $$(GPU_FLAGS) : $$(GPU_SRC)))

$(BUILD)/obj/%.fatbin: %.cu $(BUILD)/gpu_flags
	@mkdir -p $(@D)
	$(call run,nvcc)$(NVCC) $(GPU_FLAGS) -fatbin -MD -MF $(@:.fatbin=.fatbin.d) -MT $@ -o $@ $<

# The table of them: an assembler takes the bytes as they are.
$(BUILD)/gpu_images.c: $(GPU_IMAGES) $(BUILD)/gpu_flags tools/embed_images.lua
	$(call run,embed)$(LUA) tools/embed_images.lua $(GPU_IMAGES) > $@
$(BUILD)/obj/gpu_images.o: $(BUILD)/gpu_images.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(call run,cc)$(COMPILE) -c $< -o $@
-include $(GPU_IMAGES:=.d)
