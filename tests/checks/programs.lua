-- programs.lua: 100,000 programs (PROGRAMS, from SEED on) mean the same op by op, lazily and compiled, on each ISA
--
-- One process an instruction set. What came up how often is printed; in a run of 20,000 programs or more each row of
-- ops.def, each rewrite of the planner, all that programs have beside operations, and each reason for which an
-- evaluation is struck must have come up a hundred times.
--
-- Beside that, the programs run op by op on the reference kernels and on each other instruction set, each operation
-- with the same inputs: results are equal, or within the bounds that tests/lua/programs/bounds.lua states.
local across = require "tests.lua.programs.across"
local generate = require "tests.lua.programs.generate"
local ml = require "moonlet"
local fuzz = require "tests.lua.programs.fuzz"

local SEED, PROGRAMS = tonumber(os.getenv "SEED") or 1, tonumber(os.getenv "PROGRAMS") or 100000
local ENOUGH = 100

-- ---- the children: one instruction set ----

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
  local enough, passed = PROGRAMS >= 20000 and ENOUGH or nil, true
  for _, what in ipairs {"rows", "rewrites", "happenings", "struck"} do
    passed = print_counts(what, report[what], enough) and passed
  end
  print(("%d programs, %d instructions, %d failed"):format(report.programs, report.instructions, failures))
  os.exit(passed and failures == 0, true)
end

-- Where the bounds of rows were needed: how many results were not equal, the largest difference in ulps of those
-- within that bound, and how many needed the slack that their inputs gave.
local function print_seen(seen)
  local names, line = {}, {}
  for name in pairs(seen) do names[#names + 1] = name end
  table.sort(names)
  for i, name in ipairs(names) do
    local s = seen[name]
    line[i] = ("%s %d (%d ulps, %d by slack)"):format(name, s.n, s.far, s.slack)
  end
  print("not equal: " .. table.concat(line, ", "))
end

-- argv: first and last seed.
local function write_values(first, last)
  ml.threads(1)
  for seed = first, last do across.write(generate.generate(seed), function(bytes) io.write(bytes) end) end
end

local function compare_values(build)
  ml.threads(1)
  local seen, done, last = {}, 0, SEED + PROGRAMS - 1
  local pipe <close> = across.reference(build, SEED, last)
  for seed = SEED, last do
    local wrong = across.compare(generate.generate(seed), pipe, seen)
    if wrong then
      print(("not ok - program %d beside the reference kernels: %s"):format(seed, wrong))
      os.exit(1, true)
    end
    done = done + 1
    if done % 20000 == 0 then print(("%d programs compared with the reference kernels"):format(done)) end
  end
  print_seen(seen)
  os.exit(0, true)
end

local build = os.getenv "BUILD" or "build"
if arg[1] == "run" then run()
elseif arg[1] == "values" then
  write_values(tonumber(arg[2]), tonumber(arg[3]))
  return
elseif arg[1] == "across" then compare_values(build) end

-- ---- each instruction set ----

local passed = true
for _, isa in ipairs {"ref", "avx2", "avx512"} do
  local command = ("MOONLET_ISA=%s '%s/moonlet'"):format(isa, build)
  if os.execute(command .. " -e 'os.exit()' >/dev/null 2>&1") then
    local ok = os.execute(command .. " tests/checks/programs.lua run") == true
    if isa ~= "ref" then ok = os.execute(command .. " tests/checks/programs.lua across") == true and ok end
    print((ok and "ok - %s" or "not ok - %s"):format(isa))
    passed = passed and ok
  else
    print(("skip - %s: this processor has none"):format(isa))
  end
end
os.exit(passed, true)
