---JSON for tests that run without the library: objects keep their order, null is `M.null`.
local M = {null = setmetatable({}, {__tostring = function() return "null" end})}

local Array = {__name = "moonlet.json.array"}

local function object()
  local keys = {}
  return setmetatable({}, {
    __name = "moonlet.json.object",
    keys = keys,
    __pairs = function(t)
      local i = 0
      return function()
        i = i + 1
        if keys[i] ~= nil then return keys[i], rawget(t, keys[i]) end
      end
    end,
  })
end

local UNESCAPED = {b = "\b", f = "\f", n = "\n", r = "\r", t = "\t"}

local function read_string(s, at)
  local out = {}
  while true do
    local stop = s:find('["\\]', at)
    out[#out + 1] = s:sub(at, stop - 1)
    if s:sub(stop, stop) == '"' then return table.concat(out), stop + 1 end
    local c = s:sub(stop + 1, stop + 1)
    at = stop + 2
    if c == "u" then
      local code = tonumber(s:sub(at, at + 3), 16)
      at = at + 4
      if code >= 0xd800 and code < 0xdc00 and s:sub(at, at + 1) == "\\u" then
        code = 0x10000 + ((code - 0xd800) << 10) + tonumber(s:sub(at + 2, at + 5), 16) - 0xdc00
        at = at + 6
      end
      out[#out + 1] = utf8.char(code)
    else
      out[#out + 1] = UNESCAPED[c] or c
    end
  end
end

local read

local function skip(s, at)
  return s:find("[^ \t\r\n]", at) or #s + 1
end

local function read_array(s, at)
  local list = setmetatable({}, Array)
  at = skip(s, at)
  while s:sub(at, at) ~= "]" do
    list[#list + 1], at = read(s, at)
    at = skip(s, at)
    if s:sub(at, at) == "," then at = skip(s, at + 1) end
  end
  return list, at + 1
end

local function read_object(s, at)
  local map = object()
  local keys = getmetatable(map).keys
  at = skip(s, at)
  while s:sub(at, at) ~= "}" do
    local key
    key, at = read_string(s, at + 1)
    at = skip(s, at) + 1
    if rawget(map, key) == nil then keys[#keys + 1] = key end
    map[key], at = read(s, at)
    at = skip(s, at)
    if s:sub(at, at) == "," then at = skip(s, at + 1) end
  end
  return map, at + 1
end

local WORDS = {["true"] = true, ["false"] = false}

function read(s, at)
  at = skip(s, at)
  local c = s:sub(at, at)
  if c == '"' then return read_string(s, at + 1) end
  if c == "[" then return read_array(s, at + 1) end
  if c == "{" then return read_object(s, at + 1) end
  local word = s:match("^%l+", at)
  if word == "null" then return M.null, at + 4 end
  if WORDS[word] ~= nil then return WORDS[word], at + #word end
  local digits = s:match("^[-+%deE.]+", at)
  if not digits then error(("JSON: nothing to read at byte %d"):format(at)) end
  return digits:find("[.eE]") and tonumber(digits) + 0.0 or tonumber(digits), at + #digits
end

---The value of a JSON text that is known to be sound.
function M.decode(s)
  return (read(s, 1))
end

return M
