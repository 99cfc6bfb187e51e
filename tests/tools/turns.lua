-- turns.lua: what `moonlet bench` says of two commands that take turns, the best of each line, since noise only slows.
local ml = require "moonlet"

local M = {}

---A folder under BUILD with a config.json, for `bench --random`.
---@return string path
function M.shapes(build, name, config)
  local folder = ("%s/shapes/%s"):format(build, name)
  assert(os.execute(("mkdir -p '%s'"):format(folder)))
  local file <close> = assert(io.open(folder .. "/config.json", "w"))
  assert(file:write(config))
  return folder
end

---What a command prints.
function M.output_of(command)
  local pipe <close> = assert(io.popen(command .. " 2>/dev/null"))
  local text = pipe:read "a"
  assert(text ~= "", command .. " prints nothing")
  return text
end

local function take(command, most, labels)
  local found = ml.json.decode(M.output_of(command))
  local function keep(label, rate)
    if not most[label] then labels[#labels + 1] = label end
    most[label] = math.max(most[label] or 0, rate)
  end
  for _, p in ipairs(found.prefill) do keep(("prefill %d"):format(p.tokens), p.median) end
  for _, d in ipairs(found.decode) do keep(("decode after %d"):format(d.depth), d.median) end
end

---Two `bench --json` commands in turns: `rounds` times, and up to `more` times again while a line of the first is below
---bound_of(label) of the second's. A list of {label, first, second, ratio, bound}.
function M.compare(first, second, rounds, more, bound_of)
  local most, labels = {[1] = {}, [2] = {}}, {}
  local function ratio(label) return most[1][label] / most[2][label] end
  local function is_done()
    for _, label in ipairs(labels) do
      if ratio(label) < bound_of(label) then return false end
    end
    return true
  end
  for round = 1, rounds + more do
    if round > rounds and is_done() then break end
    for i = 1, 2 do
      local which = round % 2 == 0 and 3 - i or i
      take(which == 1 and first or second, most[which], which == 1 and labels or {})
    end
  end
  local lines = {}
  for i, label in ipairs(labels) do
    lines[i] = {
      label = label, first = most[1][label], second = most[2][label], ratio = ratio(label), bound = bound_of(label),
    }
  end
  return lines
end

return M
