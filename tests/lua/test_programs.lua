-- Programs made at random mean the same however they are run: tests/lua/programs/ says how.
local ml = require "moonlet"
local across = require "tests.lua.programs.across"
local fuzz = require "tests.lua.programs.fuzz"
local generate = require "tests.lua.programs.generate"
local t = require "tests.lua.harness"

t.leak_check = function() return ml.memory.active() end

local SEED, PROGRAMS = tonumber(os.getenv "SEED") or 1, tonumber(os.getenv "PROGRAMS") or 1000
local GROUP = 100

-- One thread, and two for every fifth group: what is spread over threads is the same whatever their number.
local threads = ml.threads()
for first = SEED, SEED + PROGRAMS - 1, GROUP do
  local last = math.min(first + GROUP, SEED + PROGRAMS) - 1
  t.test(("programs %d to %d"):format(first, last), function()
    ml.threads(first // GROUP % 5 == 4 and 2 or 1)
    local texts = {}
    fuzz.run(first, last, function(seed, text)
      texts[#texts + 1] = ("program %d\n%s"):format(seed, text)
      if #texts == 3 then error(table.concat(texts, "\n"), 0) end
    end)
    t.eq(table.concat(texts, "\n"), "")
  end)
end
ml.threads(threads)

t.test("each operation is within its bounds of the reference kernels", function()
  local last = SEED + PROGRAMS // 2 - 1
  local pipe <close> = across.reference(os.getenv "BUILD" or "build", SEED, last)
  for seed = SEED, last do
    local wrong = across.compare(generate.generate(seed), pipe, {})
    if wrong then error(("program %d: %s"):format(seed, wrong), 0) end
  end
end)

t.done()
