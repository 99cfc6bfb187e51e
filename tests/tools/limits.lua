-- limits.lua: what the machine can do at this moment, by tools/measure_limits.c, for checks that compare with it
--
-- On a machine that others use, rates move by half within minutes: a figure is compared with the limits measured just
-- before and after it, and of many such shares the median counts.

local ml = require "moonlet"

local limits = {}

local program = (os.getenv "BUILD" or "build") .. "/measure_limits"
local compile = "%s -std=gnu17 -O3 -pthread -o '%s' tools/measure_limits.c"
assert(os.execute(compile:format(os.getenv "CC" or "cc", program)))

local function measure(...)
  local pipe <close> = assert(io.popen(("'%s' %d %.6f %d"):format(program, ml.threads(), ...)))
  return assert(ml.json.decode(pipe:read "a"))
end

-- `f32_gflop_s` and `bf16_gflop_s` of all threads, over windows of `seconds`.
function limits.arithmetic(seconds) return measure(seconds, 0) end

-- `read_gb_s` and `copy_gb_s` of all threads over `bytes` in all.
function limits.memory(bytes) return measure(0.02, math.max(1, math.min(bytes // 1000000, 134 * ml.threads()))) end

function limits.median(values)
  local sorted = table.move(values, 1, #values, 1, {})
  table.sort(sorted)
  local n = #sorted
  return (sorted[(n + 1) // 2] + sorted[n // 2 + 1]) / 2
end

return limits
