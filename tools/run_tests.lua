-- run_tests.lua FILE...: runs test files and adds up what they say. `make test` calls it.
--
-- A test file is a compiled C program, a .lua file (run by the moonlet command; FILE.lua@ISA with this instruction set,
-- or skipped where the processor lacks it; FILE.lua@twin on the device of tests/twin, FILE.lua@cuda on the first GPU,
-- FILE.lua@emulated on the GPU that tests/cuda makes of the processor) or a .sh file. It prints lines
-- `ok - name`, `not ok - name: why`, `skip - name: why`, whatever else it likes, and exits with 0 when nothing failed.
-- A file that crashes, runs past its time, exits with another status without saying what failed, or says nothing at all
-- counts as one failure more. The last line printed here is `N passed, N failed`, with `, N skipped` behind when there
-- are any.

local build = os.getenv "BUILD" or "build"
local timeout = tonumber(os.getenv "TEST_TIMEOUT" or 600)
local jobs = math.max(1, tonumber(os.getenv "TEST_JOBS") or 1)
local only = os.getenv "ONLY" or ""
local verbose = (os.getenv "V" or "") ~= ""

local function quote(text) return "'" .. text:gsub("'", "'\\''") .. "'" end

local function now()
  local file <close> = assert(io.popen "date +%s.%N")
  return tonumber(file:read "l")
end

-- What a command has in its environment to run there: with an instruction set, or on the tests' own device.
local function environment_of(where)
  if where == "cuda" then return "MOONLET_DEVICE=cuda" end
  if where == "emulated" then
    return ('MOONLET_DEVICE=cuda LD_LIBRARY_PATH="$(realpath %s/tests/cuda)"'):format(quote(build))
  end
  if where ~= "twin" then return "MOONLET_ISA=" .. quote(where) end
  return ('MOONLET_DEVICE=twin MOONLET_DEVICE_LIBRARY="$(realpath %s/tests/twin.so)"'):format(quote(build))
end

-- The command that runs a script there.
local function moonlet_of(where) return build .. (where == "emulated" and "/tests/cuda" or "") .. "/moonlet" end

local has = {} -- what was asked for
local function has_place(where)
  if has[where] == nil then
    has[where] = os.execute(("%s %s -e '' 2>/dev/null"):format(environment_of(where), moonlet_of(where))) == true
  end
  return has[where]
end

local function command_of(path)
  local file, where = path:match "^(.*%.lua)@(.*)$"
  if where and not has_place(where) then return ("echo 'skip - %s: this machine lacks it'"):format(where) end
  if where then return ("env %s %s %s"):format(environment_of(where), moonlet_of(where), quote(file)) end
  if path:find "%.lua$" then return build .. "/moonlet " .. quote(path) end
  if path:find "%.sh$" then return "sh " .. quote(path) end
  return quote(path)
end

---Starts a test file; its output goes to a file, and its exit status follows through the pipe.
local function start(path)
  local log = ("%s/test-logs/%s.log"):format(build, path:gsub("[^%w_.-]", "_"))
  local line = ("timeout -k 10 %d %s > %s 2>&1 < /dev/null; echo $?"):format(timeout, command_of(path), quote(log))
  return {path = path, log = log, pipe = assert(io.popen(line)), started = now()}
end

---What went wrong beside the failures that the file itself names; nil when nothing did.
local function trouble(status, seen)
  if status == 124 or status == 137 then return ("stopped after %d seconds"):format(timeout) end
  if status > 128 then return ("crashed by signal %d"):format(status - 128) end
  if status == 126 or status == 127 then return "could not be run" end
  if status ~= 0 and seen.failed == 0 then return ("exited with %d without saying what failed"):format(status) end
  if seen.passed + seen.failed + seen.skipped == 0 then return "says nothing: no test ran" end
end

local function finish(run)
  local status = tonumber(run.pipe:read "l") or 255
  run.pipe:close()
  run.seconds = now() - run.started
  run.seen = {passed = 0, failed = 0, skipped = 0}
  run.failures, run.skips = {}, {}
  for line in io.lines(run.log) do
    if line:find "^ok %- " then
      run.seen.passed = run.seen.passed + 1
    elseif line:find "^not ok %- " then
      run.seen.failed = run.seen.failed + 1
      table.insert(run.failures, line)
    elseif line:find "^skip %- " then
      run.seen.skipped = run.seen.skipped + 1
      table.insert(run.skips, line)
    end
  end
  local why = trouble(status, run.seen)
  if why then
    run.seen.failed = run.seen.failed + 1
    table.insert(run.failures, ("not ok - %s: %s"):format(run.path, why))
  end
end

local function summary(seen)
  local text = ("%d passed, %d failed"):format(seen.passed, seen.failed)
  return seen.skipped > 0 and text .. (", %d skipped"):format(seen.skipped) or text
end

---The last lines of a file's output, for a reader who wants to know why.
local function print_output(path, most)
  local lines = {}
  for line in io.lines(path) do lines[#lines + 1] = line end
  if #lines > most then print(("    ... %d lines before, all in %s"):format(#lines - most, path)) end
  for i = math.max(1, #lines - most + 1), #lines do print("    " .. lines[i]) end
end

local function report(run)
  print(("%-44s %s, %.1f s"):format(run.path, summary(run.seen), run.seconds))
  for _, line in ipairs(run.skips) do print("  " .. line) end
  for _, line in ipairs(run.failures) do print("  " .. line:sub(1, 300)) end
  if #run.failures > 0 or verbose then print_output(run.log, verbose and math.huge or 60) end
  io.flush()
end

---Whether a test file was asked for: its path contains one of the words of ONLY, or there are none.
local function wanted(path)
  if not only:find "%S" then return true end
  for word in only:gmatch "%S+" do
    if path:find(word, 1, true) then return true end
  end
  return false
end

local paths = {}
for _, path in ipairs(arg) do
  if wanted(path) then paths[#paths + 1] = path end
end
assert(os.execute("mkdir -p " .. quote(build .. "/test-logs")))

local total = {passed = 0, failed = 0, skipped = 0}
local bad_files = {}
local running, next_path = {}, 1
while next_path <= #paths or #running > 0 do
  while #running < jobs and next_path <= #paths do
    running[#running + 1] = start(paths[next_path])
    next_path = next_path + 1
  end
  local run = table.remove(running, 1)
  finish(run)
  report(run)
  for kind, n in pairs(run.seen) do total[kind] = total[kind] + n end
  if run.seen.failed > 0 then bad_files[#bad_files + 1] = run.path end
end

if #bad_files > 0 then print("\nfailed: " .. table.concat(bad_files, " ")) end
if #paths == 0 then print(("no test file has a path that contains: %s"):format(only)) end
print(summary(total))
os.exit(total.failed == 0 and total.passed > 0, true)
