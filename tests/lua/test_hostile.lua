-- Templates that mean harm: each, in a process of its own with 64 MB of address space, ends within a second, with a
-- text or an error that has a code. Usage: lua5.4 tests/lua/test_hostile.lua
local here = arg[0]:match("^(.*)/") or "."
package.path = here .. "/?.lua;" .. package.path
local t = require "harness"
local templates = require "hostile_templates"

local SECONDS, KIBIBYTES = 1.0, 64 * 1024
local CODES = {text = true, corrupt = true, unsupported = true, limit = true, usage = true, mismatch = true}

-- A sanitizer's own tables do not fit; the templates' code is all Lua, which the stock interpreter runs as well.
local sanitized = (os.getenv "SANITIZE" or "") ~= ""
local interpreter = not sanitized and arg[-1] or os.getenv "LUA" or "lua5.4"

local function run(number)
  local pipe = assert(io.popen(("ulimit -v %d && exec timeout 20 '%s' '%s/run_hostile.lua' %d 2>&1"):format(KIBIBYTES,
    interpreter, here, number)))
  local line = pipe:read("a")
  local ok, _, status = pipe:close()
  if not ok then return nil, ("ended with status %s: %s"):format(status, line) end
  local seconds, code, outcome = line:match("^([%d.]+) (%S+) (.*)\n$")
  return {seconds = tonumber(seconds), code = code, outcome = outcome}, line
end

t.test("there are a hundred of them", function() t.ok(#templates >= 100, #templates .. " templates") end)

for number, case in ipairs(templates) do
  t.test(case.name, function()
    local result, why = run(number)
    -- A machine that is busy with other things may take longer once.
    if result and result.seconds and result.seconds > SECONDS then result, why = run(number) end
    t.ok(result, why)
    local known = CODES[result.code] and not result.outcome:find("engine failed", 1, true)
    t.ok(known, result.code .. ": " .. result.outcome)
    t.ok(result.seconds <= SECONDS, ("took %.2f s"):format(result.seconds))
    if case.text then
      t.eq(result.code, "text", result.outcome)
      t.eq(result.outcome, case.text)
    end
  end)
end

t.done()
