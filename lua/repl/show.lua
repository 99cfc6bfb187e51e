---How the REPL prints a value: tables bounded in depth and size, tensors by their own summary.
local M = {}

---@class moonlet.repl.Limits
M.limits = {width = 100, depth = 4, items = 40, nodes = 400, text = 200}

local function has_tostring(value)
  local meta = debug.getmetatable(value)
  return type(meta) == "table" and rawget(meta, "__tostring") ~= nil
end

local function to_text(value)
  local ok, text = pcall(tostring, value)
  if ok then return text end
  return ("<%s: %s>"):format(type(value), tostring(text))
end

local escapes = {["\n"] = "\\n", ["\t"] = "\\t", ["\r"] = "\\r", ['"'] = '\\"', ["\\"] = "\\\\"}

local function quote(text, limit)
  local cut = #text > limit
  if cut then text = text:sub(1, (utf8.offset(text, 0, limit + 1) or limit + 1) - 1) end
  text = text:gsub('[%c"\\]', function(c) return escapes[c] or ("\\%d"):format(c:byte()) end)
  return '"' .. text .. '"' .. (cut and "..." or "")
end

-- A tensor among other things: what it is, not what is in it.
local function brief_tensor(value)
  local ok, text = pcall(function()
    local shape, dtype = value.shape, value.dtype
    return type(shape) == "table" and ("%s tensor (%s)"):format(dtype, table.concat(shape, ", "))
  end)
  return ok and text or nil
end

-- Numbers, then strings by alphabet, then the rest.
local rank = {number = 1, string = 2}
local function key_order(a, b)
  local ra, rb = rank[type(a)] or 3, rank[type(b)] or 3
  if ra ~= rb then return ra < rb end
  if ra == 3 then return tostring(a) < tostring(b) end
  return a < b
end

local function show_key(key)
  if type(key) ~= "string" then return "[" .. to_text(key) .. "]" end
  if key:find "^[%a_][%w_]*$" and load("local " .. key) then return key end -- load knows the keywords
  return "[" .. quote(key, 60) .. "]"
end

local show

-- The entries of a table in the order in which they are shown: what is in the list, then the other keys. An order that
-- the table has itself (__pairs) is kept.
local function entries(t, most)
  local list, keys = {}, {}
  local n = rawlen(t)
  local meta = getmetatable(t)
  local ordered = type(meta) == "table" and rawget(meta, "__pairs") ~= nil
  for i = 1, math.min(n, most) do list[i] = {nil, rawget(t, i)} end
  local left = math.max(0, n - most)
  for key, value in pairs(t) do
    if not (math.type(key) == "integer" and key >= 1 and key <= n) then keys[#keys + 1] = {key, value} end
  end
  if not ordered then table.sort(keys, function(a, b) return key_order(a[1], b[1]) end) end
  for i = 1, math.min(#keys, most) do list[#list + 1] = keys[i] end
  return list, left + math.max(0, #keys - most)
end

local function lay_out(items, scalars, indent, limits)
  local one_line = "{" .. table.concat(items, ", ") .. "}"
  if #one_line <= limits.width - indent and not one_line:find "\n" then return one_line end
  local inner = (" "):rep(indent + 2)
  local lines = {}
  for _, item in ipairs(items) do
    local last = lines[#lines]
    if scalars and last and #last + #item + 3 <= limits.width then
      lines[#lines] = last .. ", " .. item
    else
      if last then lines[#lines] = last .. "," end
      lines[#lines + 1] = inner .. item
    end
  end
  return "{\n" .. table.concat(lines, "\n") .. "\n" .. (" "):rep(indent) .. "}"
end

local function show_table(t, state, depth, indent)
  local limits = state.limits
  if state.open[t] then return "<itself>" end
  if next(t) == nil then return "{}" end
  if depth > limits.depth or state.nodes <= 0 then return "{...}" end
  state.open[t] = true
  local items, scalars = {}, true
  local list, left = entries(t, limits.items)
  for i, entry in ipairs(list) do
    if state.nodes <= 0 then
      left = left + #list - i + 1
      break
    end
    local text = show(entry[2], state, depth + 1, indent + 2)
    if type(entry[2]) == "table" then scalars = false end
    if entry[1] ~= nil then
      text = show_key(entry[1]) .. " = " .. text
      scalars = false
    end
    items[#items + 1] = text
  end
  if left > 0 then items[#items + 1] = ("... %d more"):format(left) end
  state.open[t] = nil
  return lay_out(items, scalars, indent, limits)
end

-- What `complete` gives.
local function is_result(t)
  local ids, metrics = rawget(t, "ids"), rawget(t, "metrics")
  return type(ids) == "table" and type(metrics) == "table" and rawget(t, "finish_reason") ~= nil
end

-- A result in a line: how many entries its tables have, and as much of its text as fits.
local function show_result(t, limits)
  local items, text = {}, nil
  for _, entry in ipairs((entries(t, limits.items))) do
    local key, value = entry[1], entry[2]
    if key == "text" and type(value) == "string" then text = value
    elseif type(value) == "table" then
      local n = #value
      items[#items + 1] = ("%s = {%s}"):format(show_key(key), n > 0 and n .. " entries" or next(value) and "..." or "")
    else
      items[#items + 1] = show_key(key) .. " = " .. (type(value) == "string" and quote(value, 30) or to_text(value))
    end
  end
  local line = table.concat(items, ", ")
  if text then line = ("text = %s, "):format(quote(text, math.max(10, limits.width - #line - 20))) .. line end
  return "{" .. line .. "}"
end

function show(value, state, depth, indent)
  state.nodes = state.nodes - 1
  local kind = type(value)
  if kind == "string" then return quote(value, state.limits.text) end
  if kind == "userdata" or (kind == "table" and has_tostring(value)) then
    local text = depth > 1 and (brief_tensor(value) or to_text(value)) or tostring(value) -- its own error, if any
    return (text:gsub("\n", "\n" .. (" "):rep(indent)))
  end
  if kind == "table" and is_result(value) then return show_result(value, state.limits) end
  if kind == "table" then return show_table(value, state, depth, indent) end
  if kind == "function" and depth > 1 then return kind end -- an address says nothing to anyone
  return to_text(value)
end

---A value as the REPL prints it. Strings stand as they are, as `print` has them.
---@param value any
---@param limits? moonlet.repl.Limits
---@return string
function M.show(value, limits)
  if type(value) == "string" then return value end
  limits = setmetatable(limits or {}, {__index = M.limits})
  return show(value, {limits = limits, nodes = limits.nodes, open = {}}, 1, 0)
end

return M
