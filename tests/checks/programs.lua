-- programs.lua: 100,000 programs (PROGRAMS, from SEED on) mean the same op by op, lazily and compiled, on each ISA
--
-- One process an instruction set. What ran how often is printed; in a run of 10,000 programs or more each row of
-- ops.def and each rewrite of the planner must have come up a hundred times.
local ml = require "moonlet"
local fuzz = require "tests.lua.programs.fuzz"

local SEED, PROGRAMS = tonumber(os.getenv "SEED") or 1, tonumber(os.getenv "PROGRAMS") or 100000
local ENOUGH = 100

-- ---- the child: one instruction set ----

local function print_counts(what, counts, enough)
  local names, line, passed = {}, {}, true
  for name in pairs(counts) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do
    line[#line + 1] = ("%s %d"):format(name, counts[name])
    if enough and counts[name] < enough then
      passed = false
      print(("not ok - %s %s came up %d times"):format(what, name, counts[name]))
    end
  end
  print(what .. ": " .. table.concat(line, ", "))
  return passed
end

local function run()
  local failures = 0
  ml.threads(1)
  local report = fuzz.run(SEED, SEED + PROGRAMS - 1, function(seed, text)
    failures = failures + 1
    print(("not ok - program %d\n%s"):format(seed, text))
    if failures == 20 then os.exit(1, true) end
  end, function(seed)
    local done = seed - SEED + 1
    if done % 500 == 0 then ml.threads(done // 500 % 5 == 4 and 2 or 1) end
    if done % 5000 == 0 then print(("%d programs, %d failed"):format(done, failures)) end
  end)
  local enough = PROGRAMS >= 10000 and ENOUGH or nil
  local passed = print_counts("rows", report.rows, enough)
  passed = print_counts("rewrites", report.rewrites, enough) and passed
  print(("%d programs, %d instructions, %d failed"):format(report.programs, report.instructions, failures))
  os.exit(passed and failures == 0, true)
end

if arg[1] == "run" then run() end

-- ---- each instruction set ----

local build = os.getenv "BUILD" or "build"
local passed = true
for _, isa in ipairs {"ref", "avx2", "avx512"} do
  local command = ("MOONLET_ISA=%s '%s/moonlet'"):format(isa, build)
  if os.execute(command .. " -e 'os.exit()' >/dev/null 2>&1") then
    local ok = os.execute(command .. " tests/checks/programs.lua run")
    print((ok and "ok - %s" or "not ok - %s"):format(isa))
    passed = passed and ok
  else
    print(("skip - %s: this processor has none"):format(isa))
  end
end
os.exit(passed, true)
