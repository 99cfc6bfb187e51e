-- embed_images.lua FILE...: a C file with the table of src/gpu/images.h over these fat binaries. The build calls it.

print '#include "gpu/images.h"\n'
local rows = {}
for i, path in ipairs(arg) do
  print(('__asm__(".pushsection .rodata\\n.balign 16\\nml_gpu_bytes_%d:\\n"'):format(i))
  print(('        ".incbin \\"%s\\"\\n.popsection\\n");'):format(path))
  print(("extern const char ml_gpu_bytes_%d[];"):format(i))
  rows[i] = ('  {"%s", ml_gpu_bytes_%d},'):format(path:match "([^/]+)%.%w+$", i)
end
rows[#rows + 1] = "  {0, 0},"
print("const ml_gpu_image ml_gpu_images[] = {\n" .. table.concat(rows, "\n") .. "\n};")
