-- harness.lua: the Lua tests' common frame. A test file is one script, run from the repository's root:
--
--   local t = require "tests.lua.harness"
--   t.test("addition", function() t.eq(1 + 1, 2) end)
--   t.done()
--
-- Each test prints a line `ok - name`, `not ok - name: why` or `skip - name: why`; done() ends the process with status
-- 1 when any failed. It uses nothing of moonlet, so that it also runs under stock lua5.4.

local M = {
  ---Called after a full collection before and after each test: bytes in use, which a test must leave where they were.
  ---@type fun(): number | nil
  leak_check = nil,
}

local count, failures = 0, 0
local Skip = {}

---How a value is shown in a failure: strings quoted, tables opened to a few levels.
local function show(value, depth)
  if type(value) == "string" then
    local text = #value > 400 and value:sub(1, 400) .. "..." or value
    return (("%q"):format(text):gsub("\\\n", "\\n"))
  end
  if type(value) ~= "table" or (depth or 0) > 3 or getmetatable(value) and getmetatable(value).__tostring then
    return tostring(value)
  end
  local keys, parts = {}, {}
  for key in pairs(value) do keys[#keys + 1] = key end
  table.sort(keys, function(a, b)
    if math.type(a) and math.type(b) then return a < b end
    return tostring(a) < tostring(b)
  end)
  for i, key in ipairs(keys) do
    if i > 40 then
      parts[#parts + 1] = "..."
      break
    end
    local shown = show(value[key], (depth or 0) + 1)
    parts[#parts + 1] = key == i and shown or ("%s = %s"):format(tostring(key), shown)
  end
  return "{" .. table.concat(parts, ", ") .. "}"
end

local function fail(format, ...)
  error(format:format(...), 0)
end

local function say(verdict, name, why)
  count = count + 1
  if verdict == "not ok" then failures = failures + 1 end
  io.write(verdict, " - ", name, why and ": " .. tostring(why):gsub("\n", "\n    ") or "", "\n")
  io.flush()
end

local function collected()
  if not M.leak_check then return 0 end
  collectgarbage()
  collectgarbage() -- what finalisers of the first let go
  return M.leak_check()
end

---Runs one test. An error in it is its failure.
---@param name string
---@param fn fun()
function M.test(name, fn)
  local before = collected()
  local passed, why = xpcall(fn, function(err)
    if getmetatable(err) == Skip then return err end
    return debug.traceback(tostring(err), 2)
  end)
  if not passed and getmetatable(why) == Skip then return say("skip", name, why.why) end
  if not passed then return say("not ok", name, why) end
  local leaked = collected() - before
  if leaked > 0 then return say("not ok", name, ("leaves %d bytes in use"):format(leaked)) end
  say("ok", name)
end

---Ends the running test as skipped.
---@param why string
function M.skip(why)
  error(setmetatable({why = why}, Skip), 0)
end

local function difference(got, want, path)
  if type(got) == "table" and type(want) == "table" and not (getmetatable(want) and getmetatable(want).__eq) then
    for key, value in pairs(want) do
      local found = difference(got[key], value, path .. "[" .. show(key) .. "]")
      if found then return found end
    end
    for key, value in pairs(got) do
      if want[key] == nil then return ("%s[%s]: expected nothing, got %s"):format(path, show(key), show(value)) end
    end
  elseif got ~= want or math.type(got) ~= math.type(want) then
    return ("%s: expected %s, got %s"):format(path, show(want), show(got))
  end
end

---Equal by value, tables by their contents; 1 and 1.0 differ.
function M.eq(got, want, what)
  local found = difference(got, want, what or "value")
  if found then fail("%s", found) end
end

---A condition that must be true (neither nil nor false). Returns it.
function M.ok(condition, what)
  if not condition then fail("%s: expected true, got %s", what or "condition", show(condition)) end
  return condition
end

---Numbers, or nested tables of numbers, within an absolute tolerance; what has `tolist` is asked for its values.
function M.close(got, want, tolerance, what)
  what = what or "value"
  if type(got) ~= "number" and type(got) ~= "table" then got = got:tolist() end
  if type(want) ~= "number" and type(want) ~= "table" then want = want:tolist() end
  if type(want) == "table" and type(got) == "table" then
    if #got ~= #want then fail("%s: expected %d items, got %d", what, #want, #got) end
    for i = 1, #want do M.close(got[i], want[i], tolerance, ("%s[%d]"):format(what, i)) end
  elseif type(want) ~= "number" or type(got) ~= "number" or not (math.abs(got - want) <= tolerance or got == want) then
    fail("%s: expected %s within %s, got %s", what, show(want), show(tolerance), show(got))
  end
end

local function check_error(err, pattern, code)
  if pattern and not tostring(err):find(pattern) then
    fail("expected an error with %s, got: %s", show(pattern), tostring(err))
  end
  local found = type(err) ~= "string" and err.code or nil
  if code and found ~= code then fail("expected the code %s, got %s: %s", show(code), show(found), tostring(err)) end
  return err
end

---The function must raise an error whose text matches the pattern, with this code. Returns the error.
---@param fn fun()
---@param pattern? string
---@param code? string
function M.raises(fn, pattern, code)
  local passed, err = pcall(fn)
  if passed then fail("expected an error%s, got none", pattern and " with " .. show(pattern) or "") end
  if getmetatable(err) == Skip then error(err, 0) end
  return check_error(err, pattern, code)
end

---For calls that return `nil, message, code`: t.fails("no such", "not_found", ml.load(path)).
function M.fails(pattern, code, value, message, found_code)
  if value ~= nil then fail("expected nil and a message with %s, got %s", show(pattern), show(value)) end
  local err = setmetatable({code = found_code}, {__tostring = function() return tostring(message) end})
  return check_error(err, pattern, code)
end

local function readable(path)
  local file = io.open(path, "rb")
  if file then file:close() end
  return file ~= nil
end

---Path of a real model in $MOONLET_TEST_CHECKPOINTS (checkpoints/ unless set; empty leaves them out); skips without it.
---@param file string
---@return string path
function M.checkpoint(file)
  local folder = os.getenv "MOONLET_TEST_CHECKPOINTS" or "checkpoints"
  if folder == "" then M.skip "real models are left out" end
  local path = folder .. "/" .. file
  if not readable(path) then M.skip(path .. " is not here; `make models` fetches it") end
  return path
end

---Folder of one tokenizer (tokenizer.json, tokenizer_config.json) under $MOONLET_TEST_TOKENIZERS, where it lies as a
---folder NAME or as NAME.tar.xz, which is unpacked under build/ once; skips without it.
---@param name string
---@return string path
function M.tokenizer(name)
  local folder = os.getenv "MOONLET_TEST_TOKENIZERS" or ""
  if folder == "" then M.skip "MOONLET_TEST_TOKENIZERS names no folder of tokenizers" end
  if readable(folder .. "/" .. name .. "/tokenizer.json") then return folder .. "/" .. name end
  local archive = folder .. "/" .. name .. ".tar.xz"
  if not readable(archive) then M.skip(("neither %s nor %s.tar.xz in %s"):format(name, name, folder)) end
  local unpacked = (os.getenv "BUILD" or "build") .. "/test-tokenizers"
  local marker = unpacked .. "/" .. name .. ".done"
  if not readable(marker) then
    local command = ("mkdir -p '%s' && tar -xJf '%s' -C '%s' && : > '%s'"):format(unpacked, archive, unpacked, marker)
    if not os.execute(command) then fail("%s cannot be unpacked", archive) end
  end
  return unpacked .. "/" .. name
end

---Ends the test file.
function M.done()
  if count == 0 then say("not ok", "the file tests something", "no test ran") end
  os.exit(failures == 0, true)
end

return M
