---A test file: `local t = require "harness"`, some `t.test(name, fn)`, and `t.done()` last.
---Each test prints "ok - name", "not ok - name: why" or "ok - name # skip why"; the exit status is the number of
---failures, 100 at most.
local M = {failed = 0, skipped = 0, passed = 0}

---Runs fn; a raised error is a failure.
function M.test(name, fn)
  local ok, why = xpcall(fn, function(err)
    if type(err) == "table" and err.skip then return err end
    return type(err) == "string" and err or tostring(err)
  end)
  if ok then
    M.passed = M.passed + 1
    print("ok - " .. name)
  elseif type(why) == "table" and why.skip then
    M.skipped = M.skipped + 1
    print("ok - " .. name .. " # skip " .. why.skip)
  else
    M.failed = M.failed + 1
    print("not ok - " .. name .. ": " .. tostring(why):gsub("\n", "\n    "))
  end
end

---Ends the current test as skipped.
function M.skip(why)
  error({skip = why}, 0)
end

local function show(v)
  if type(v) == "string" then return ("%q"):format(v):gsub("\\\n", "\\n") end
  return tostring(v)
end

---Fails unless got == want.
function M.equal(got, want, what)
  if got ~= want then
    error(("%s: expected %s, got %s"):format(what or "value", show(want), show(got)), 2)
  end
end

---Fails unless v is true.
function M.ok(v, what)
  if not v then error(what or "expected a true value", 2) end
end

---Ends the program.
function M.done()
  os.exit(math.min(M.failed, 100), true)
end

return M
