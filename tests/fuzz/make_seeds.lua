-- lua5.4 tests/fuzz/make_seeds.lua DIRECTORY: writes the fuzzers' seeds to DIRECTORY/gguf, /safetensors, /json and
-- /template.
-- Run it from the repository's root.
package.path = "./?.lua;" .. package.path
local fixtures = require "tests.fixtures"

local root = assert(arg[1], "usage: make_seeds.lua DIRECTORY")

local function write(target, name, bytes)
  local folder = ("%s/%s"):format(root, target)
  assert(os.execute(("mkdir -p '%s'"):format(folder)))
  local file <close> = assert(io.open(folder .. "/" .. name, "wb"))
  assert(file:write(bytes))
end

for name, bytes in pairs(fixtures.all()) do write(name:match "%.(%a+)$", name, bytes) end
for i, case in ipairs(require "tests.lua.hostile_templates") do
  if #case.source < 4096 then write("template", i .. ".jinja", case.source) end
end
