-- lua5.4 tests/fuzz/make_seeds.lua DIRECTORY: writes the fuzzers' seeds to DIRECTORY/gguf, /safetensors and /json.
-- Run it from the repository's root.
package.path = "./?.lua;" .. package.path
local fixtures = require "tests.fixtures"

local root = assert(arg[1], "usage: make_seeds.lua DIRECTORY")
for name, bytes in pairs(fixtures.all()) do
  local folder = ("%s/%s"):format(root, name:match "%.(%a+)$")
  assert(os.execute(("mkdir -p '%s'"):format(folder)))
  local file = assert(io.open(folder .. "/" .. name, "wb"))
  assert(file:write(bytes))
  assert(file:close())
end
