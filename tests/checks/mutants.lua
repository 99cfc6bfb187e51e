-- mutants.lua: the programs find what once was wrong and 200 one-token changes (MUTANTS) of the planner
--
-- Two kinds of mutants. Causes (mutants/causes.lua) are what once gave wrong values in silence, put back, and kernels
-- that are wrong on one instruction set: each must be found, by programs or by the test that it names. Mechanical ones
-- (mutants/mutate.lua) change one token of src/tensor/plan/ or src/tensor/state.c: a comparison, a connective, a sign,
-- a constant, a negation, a condition. SEED chooses MUTANTS of them; those that do not compile, or to the same code, do
-- not count. Each is linked with the objects of the build that is there, and tried in turn with
--
--   * PROGRAMS programs (2,000) from seed FIRST on: a difference, an error, a crash or no end in time has found it;
--   * stored results of NumPy (tests/lua/test_numbers.lua): programs compare ways of running with each other, and do
--     not see what is wrong in a single operation, and so in all of them alike;
--   * the stored plan texts (tests/lua/test_plan_texts.lua), which find what changes cost or order alone; where their
--     programs crash, a value was changed.
--
-- What survives all must stand in the table of survivors of docs/testing.md, with the reason. Of the mutants that can
-- change a value, those found by the first two or by a crash and those that the table calls "missed", 90 % must be
-- found.
--
--   make check-mutants                     all of it; JOBS at a time (as many as there are processors)
--   MUTANTS=0 make check-mutants           the causes alone
--   MUTANTS=0 ON=twin make check-mutants   those on the device that behaves like a GPU
--   ONLY=select.c MUTANTS=50 SEED=3 ...    mutants of the files whose path contains the text, and no causes
--
-- Results are kept in build/mutants/ until the library, the programs or the texts change: what was cut off goes on.
local build = require "tests.checks.mutants.build"
local mutate = require "tests.checks.mutants.mutate"

local BUILD = os.getenv "BUILD" or "build"
local MUTANTS, SEED = tonumber(os.getenv "MUTANTS") or 200, tonumber(os.getenv "SEED") or 1
local PROGRAMS, FIRST = tonumber(os.getenv "PROGRAMS") or 2000, tonumber(os.getenv "FIRST") or 1
local ONLY = os.getenv "ONLY" or ""
local ENOUGH = 0.9
local DOCS = "docs/testing.md"

-- ---- the child: programs until one fails ----

if arg[1] == "programs" then
  local ml = require "moonlet"
  local check = require "tests.lua.programs.check"
  local generate = require "tests.lua.programs.generate"
  local function in_use()
    collectgarbage()
    collectgarbage()
    return ml.memory.active()
  end
  ml.threads(1)
  local before
  for seed = tonumber(arg[2]), tonumber(arg[3]) do
    if seed == tonumber(arg[2]) + 10 then before = in_use() end
    local failure = check.check(generate.generate(seed))
    if failure then
      print(("program %d: %s"):format(seed, failure.message:match "[^\n]*"):sub(1, 200))
      os.exit(3)
    end
  end
  if before and in_use() > before then
    print(("programs leave %d bytes in use"):format(in_use() - before))
    os.exit(3)
  end
  os.exit(0)
end

-- ---- one mutant ----

local function execute(command)
  local pipe <close> = assert(io.popen(("(%s); status=$?; echo; echo $status"):format(command)))
  local text, status = pipe:read "a":match "^(.-)\n*(%d+)\n$"
  return assert(tonumber(status), command), text
end

-- Runs a mutant within a time and, but for the twin's, address space. Returns nil where all is well, or how it failed.
local function try(program, seconds, rest, isa, twin)
  local environment = isa and ("MOONLET_ISA=%s PROGRAMS=%d SEED=%d"):format(isa, PROGRAMS, FIRST) or
    twin and ("MOONLET_DEVICE=twin MOONLET_DEVICE_LIBRARY=%s"):format(build.quote(twin)) or "ulimit -v 8000000;"
  local command = "ulimit -c 0; %s exec timeout -k 1 %d %s %s 2>/dev/null"
  local status, text = execute(command:format(environment, seconds, build.quote(program), rest))
  if status == 0 then return nil end
  if status == 124 or status == 137 then return "no end" end
  if status == 130 or status == 143 then os.exit(255) end -- somebody ends all this: it has found nothing
  if status > 128 then return "signal " .. status - 128 end
  return text:match "program[^\n]*" or text:match "not ok[^\n]*" or "status " .. status
end

local function try_programs(program, extra)
  local last, soon = FIRST + PROGRAMS - 1, math.min(PROGRAMS, 100)
  local own = "tests/checks/mutants.lua programs %d %d"
  return try(program, 30, own:format(FIRST, FIRST + soon - 1)) or
    soon < PROGRAMS and try(program, 60 + extra * PROGRAMS // 10, own:format(FIRST + soon, last))
end

-- What became of it: {verdict, how}; verdicts are values, numbers, crash, texts, test, survived, same, broken, skipped.
local function judge(program, cause, twin)
  if cause and cause.by then
    local how = try(program, 300, cause.by, nil, twin)
    return how and "test" or "survived", how or ""
  elseif cause and cause.isa then
    if try(program, 10, "-e 'os.exit()'", cause.isa) then return "skipped", "this processor has no " .. cause.isa end
    local how = try(program, 300, "tests/checks/programs.lua across", cause.isa)
    return how and "values" or "survived", how or ""
  end
  local how = try_programs(program, 1)
  if how then return "values", how end
  how = try(program, 60, "tests/lua/test_numbers.lua")
  if how then return "numbers", how end
  how = try(program, 120, "tests/lua/test_plan_texts.lua")
  if not how then return "survived", "" end
  return how:find "^signal" and "crash" or "texts", how
end

local function build_mechanical(commands, folder, mutant)
  local text = build.read(mutant.path)
  local base = folder .. "/base"
  os.execute("mkdir -p " .. build.quote(base))
  local object = build.compile(commands, folder, mutant.path, mutate.apply(text, mutant))
  if not object then return nil, "broken" end
  local original = build.compile(commands, base, mutant.path, text)
  if os.execute(("cmp -s %s %s"):format(build.quote(object), build.quote(original))) then return nil, "same" end
  local program = build.link(commands, folder, {object})
  return program, not program and "broken" or nil
end

local function build_cause(commands, folder, cause)
  local texts, lua, objects, twin = {}, {}, {}, cause.on and BUILD .. "/tests/twin.so"
  for _, edit in ipairs(cause.edits) do
    local path = edit[1]
    texts[path] = build.replace(path, texts[path] or build.read(path), edit[2], edit[3])
  end
  for path, text in pairs(texts) do
    if path:find "%.lua$" then lua[path] = text
    elseif path:find "^tests/twin" then twin = assert(build.compile_twin(folder, text))
    else
      local object = build.compile(commands, folder, path, text, cause.isa)
      objects[#objects + 1] = assert(object, path .. " does not compile")
    end
  end
  if next(lua) then objects[#objects + 1] = assert(build.compile_lua(commands, folder, lua)) end
  return assert(build.link(commands, folder, objects)), twin
end

-- ---- the list of them ----

local function change_text(m)
  local new = m.new == "" and "nothing" or ("`%s`"):format(m.new)
  return ("`%s` to %s%s"):format(m.old, new, m.nth > 1 and (" (%d)"):format(m.nth) or "")
end

-- FNV-1a, 64 bits.
local function number_of(text)
  local h = 0xcbf29ce484222325
  for i = 1, #text do h = (h ~ text:byte(i)) * 0x100000001b3 end
  return h
end

-- In an order of chance that goes by what each mutant is: where a line is added, all others keep theirs, and what has
-- been said of survivors stays.
local function shuffled(list, seed)
  local ranks = {}
  for _, m in ipairs(list) do ranks[m] = number_of(("%d %s %s %s"):format(seed, m.path, m.code, change_text(m))) end
  table.sort(list, function(a, b)
    if ranks[a] ~= ranks[b] then return ranks[a] < ranks[b] end
    return a.line < b.line
  end)
  return list
end

local function mechanical()
  local paths, list = {}, {}
  local pipe <close> = assert(io.popen "LC_ALL=C ls src/tensor/plan/*.c src/tensor/state.c")
  for path in pipe:lines() do
    if path:find(ONLY, 1, true) then paths[#paths + 1] = path end
  end
  for _, path in ipairs(paths) do
    for _, m in ipairs(mutate.mutants(path, build.read(path))) do list[#list + 1] = m end
  end
  return shuffled(list, SEED)
end

-- All, or with ON those on that device.
local function causes()
  local list, on = {}, os.getenv "ON"
  for _, cause in ipairs(ONLY == "" and require "tests.checks.mutants.causes" or {}) do
    if not on or cause.on == on then list[#list + 1] = cause end
  end
  return list
end

local function title(m) return m.edits and m.name or ("%s:%d: %s"):format(m.path, m.line, change_text(m)) end

-- ---- a job: mutants.lua one KIND NUMBER ----

local function results_path(kind, m)
  local name = kind == "cause" and "cause " .. m.name or title(m) .. m.at
  return ("%s/mutants/results/%016x"):format(BUILD, number_of(name))
end

local function known(kind, m)
  local file <close> = io.open(results_path(kind, m))
  if not file then return nil end
  local verdict, how = file:read "a":match "^(%w+)\n([^\n]*)"
  return verdict, how
end

local function one(kind, number)
  local m = (kind == "cause" and causes() or mechanical())[number]
  local commands = build.commands()
  local folder = ("%s/mutants/%s-%d"):format(BUILD, kind, number)
  os.execute(("rm -rf %s && mkdir -p %s"):format(build.quote(folder), build.quote(folder)))
  local verdict, how, program, twin
  if kind == "cause" then program, twin = build_cause(commands, folder, m)
  else program, verdict = build_mechanical(commands, folder, m) end
  if program then verdict, how = judge(program, kind == "cause" and m, twin) end
  os.execute("rm -rf " .. build.quote(folder))
  build.write(results_path(kind, m), ("%s\n%s\n"):format(verdict, how or ""))
  print(("%-8s  %s%s"):format(verdict, title(m), how and how ~= "" and ": " .. how or ""))
end

if arg[1] == "one" then
  one(arg[2], tonumber(arg[3]))
  os.exit(0)
end

-- ---- the whole ----

-- Forgets results of another library, other programs or other texts.
local function open_results()
  local parts = ("%s/libmoonlet.a tests/lua/programs tests/lua/test_plan_texts.lua tests/goldens/plans"):format(
    build.quote(BUILD))
  local _, now = execute(("find %s tests/checks/mutants* -type f | LC_ALL=C sort | xargs cksum"):format(parts))
  now = ("%s\n%d programs from %d on"):format(now, PROGRAMS, FIRST)
  local folder = BUILD .. "/mutants"
  local file = io.open(folder .. "/of")
  local same = file and file:read "a" == now
  if file then file:close() end
  if not same then
    os.execute(("rm -rf %s && mkdir -p %s/results"):format(build.quote(folder), build.quote(folder)))
    build.write(folder .. "/of", now)
  end
end

-- Runs the jobs of these numbers, JOBS at a time.
local function run(kind, list, numbers)
  local left = {}
  for _, i in ipairs(numbers) do
    if not known(kind, list[i]) then left[#left + 1] = i end
  end
  if #left == 0 then return end
  local jobs = os.getenv "JOBS" or "$(nproc)"
  local command = "xargs -P %s -I{} %s/moonlet tests/checks/mutants.lua one %s {}"
  local pipe = assert(io.popen(command:format(jobs, build.quote(BUILD), kind), "w"))
  pipe:write(table.concat(left, "\n"), "\n")
  pipe:close()
end

-- Rows of the table of survivors of docs/testing.md, `file` | `` line `` | `old` to `new` | kind | reason: kinds by
-- what stands before them.
local function explained()
  local list = {}
  for line in io.lines(DOCS) do
    local mutant, kind = line:match "^(| `[%w_.]+`.*|) (%l+) | [^|]+ |$"
    if mutant then list[mutant] = kind end
  end
  return list
end

local function row_text(m)
  local text = ("| `%s` | `` %s `` | %s |"):format(m.path:match "[^/]+$", m.code:gsub("|", "\\|"),
    change_text(m):gsub("|", "\\|"))
  return text
end

-- Rows of the table whose line is gone, or changes otherwise.
local function check_rows(list, kinds)
  local known_rows, passed = {}, true
  for _, m in ipairs(list) do known_rows[row_text(m)] = true end
  for row in pairs(kinds) do
    if not known_rows[row] then
      passed = false
      print(("not ok - a row of %s for what is not there: %s"):format(DOCS, row))
    end
  end
  return passed
end

local function check_causes()
  local list, numbers, passed = causes(), {}, true
  for i in ipairs(list) do numbers[i] = i end
  run("cause", list, numbers)
  for _, cause in ipairs(list) do
    local verdict, how = known("cause", cause)
    local found = verdict == (cause.by and "test" or "values") or verdict == "skipped"
    print(("%s - %s: %s"):format(found and "ok" or "not ok", cause.name, how or "it could not be built"))
    passed = passed and found
  end
  return passed
end

-- The first mutants of the list, in order, that count: MUTANTS of them.
local function those_that_count(list)
  local counting, at, skipped = {}, 0, {same = 0, broken = 0}
  while #counting < MUTANTS and at < #list do
    local numbers = {}
    for i = at + 1, math.min(#list, at + MUTANTS - #counting) do numbers[#numbers + 1] = i end
    run("mutant", list, numbers)
    for _, i in ipairs(numbers) do
      local verdict = known("mutant", list[i]) or "broken"
      if skipped[verdict] then skipped[verdict] = skipped[verdict] + 1
      else counting[#counting + 1] = list[i] end
    end
    at = numbers[#numbers]
  end
  return counting, skipped
end

local function check_mechanical()
  local list = mechanical()
  local counting, skipped = those_that_count(list)
  local kinds = explained()
  local passed = ONLY ~= "" or check_rows(list, kinds)
  local count = {values = 0, numbers = 0, crash = 0, texts = 0, cost = 0, none = 0, missed = 0}
  for _, m in ipairs(counting) do
    local verdict = known("mutant", m)
    local kind = kinds[row_text(m)]
    if verdict ~= "survived" then count[verdict] = count[verdict] + 1
    elseif kind then count[kind] = count[kind] + 1
    else
      passed = false
      print(("not ok - a survivor that %s does not explain: %s\n  %s"):format(DOCS, title(m), row_text(m)))
    end
  end
  local found = count.values + count.numbers + count.crash
  local share = found > 0 and found / (found + count.missed) or 1
  print(("%d mutants of %d, %d more to the same code, %d not to be built"):format(#counting, #list, skipped.same,
    skipped.broken))
  print(("found: %d by programs, %d by single operations, %d by a crash of plan texts, %d by plan texts"):format(
    count.values, count.numbers, count.crash, count.texts))
  print(("survivors explained: %d change nothing, %d cost alone, %d missed"):format(count.none, count.cost,
    count.missed))
  print(("%s - %.1f %% of those that can change a value were found"):format(share >= ENOUGH and "ok" or "not ok",
    100 * share))
  return passed and share >= ENOUGH
end

-- What is not changed passes all that is tried of mutants, in half of their time: else it would be found itself.
local function check_unchanged()
  local program, done = BUILD .. "/moonlet", {}
  local function want(wrong, what) assert(not wrong, ("%s fails where nothing is changed: %s"):format(what, wrong)) end
  want(try_programs(program, 1), "a run of programs")
  want(try(program, 60, "tests/lua/test_plan_texts.lua"), "tests/lua/test_plan_texts.lua")
  for _, cause in ipairs(causes()) do
    local twin = cause.on and BUILD .. "/tests/twin.so"
    local key = ("%s %s"):format(cause.by, twin or "")
    if cause.by and not done[key] then want(try(program, 150, cause.by, nil, twin), key) end
    done[key] = true
  end
end

open_results()
check_unchanged()
local passed = check_causes()
if MUTANTS > 0 then passed = check_mechanical() and passed end
os.exit(passed, true)
