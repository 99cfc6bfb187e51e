---tojson: what Python's json.dumps writes.
local base = require "moonlet.templates.jinja.base"
local text = require "moonlet.templates.jinja.text"
local unicode = require "moonlet.templates.jinja.unicode"
local value = require "moonlet.templates.jinja.value"

local M = {}

local mismatch = base.mismatch

local ESCAPES = {['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t", ["\f"] = "\\f",
  ["\b"] = "\\b"}

local function escape(c)
  return ESCAPES[c] or ("\\u%04x"):format(c:byte())
end

local function escape_point(ch)
  if #ch == 1 then return nil end
  local c = utf8.codepoint(ch)
  if c < 0x10000 then return ("\\u%04x"):format(c) end
  c = c - 0x10000
  return ("\\u%04x\\u%04x"):format(0xd800 + (c >> 10), 0xdc00 + (c & 0x3ff))
end

local function quote(s, ascii)
  s = s:gsub('[\0-\31"\\]', escape)
  if ascii then
    s = s:gsub("\127", escape)
    if not unicode.is_ascii(s) then s = s:gsub(utf8.charpattern, escape_point) end
  end
  return '"' .. s .. '"'
end

local function number(x)
  if math.type(x) == "integer" then return ("%d"):format(x) end
  if x ~= x then return "NaN" end
  if x == math.huge then return "Infinity" elseif x == -math.huge then return "-Infinity" end
  return text.float(x)
end

local Writer = {}
Writer.__index = Writer

function Writer:put(s)
  base.bytes(self.rt, 3 * #s + 32)
  base.step(self.rt, #s // 16)
  self.out[#self.out + 1] = s
end

function Writer:newline(level)
  if self.indent then self:put("\n" .. self.indent:rep(level)) end
end

function Writer:write_list(v, level)
  if v.n == 0 then return self:put("[]") end
  self:put("[")
  for i = 1, v.n do
    if i > 1 then self:put(self.comma) end
    self:newline(level + 1)
    self:write(v[i], level + 1)
  end
  self:newline(level)
  self:put("]")
end

local function key_text(key)
  if text.is(key) then return text.plain(key) end
  if key == base.NONE then return "null" end
  if type(key) == "boolean" then return key and "true" or "false" end
  if type(key) == "number" then return number(key) end
  mismatch("keys must be str, int, float, bool or None, not %s", value.type_name(key))
end

function Writer:keys(dict)
  if not self.sort_keys then return dict.keys end
  local sorted = {}
  for i = 1, dict.n do sorted[i] = dict.keys[i] end
  return value.sort(self.rt, sorted, dict.keys, dict.n)
end

function Writer:write_dict(v, level)
  if v.n == 0 then return self:put("{}") end
  self:put("{")
  for i, key in ipairs(self:keys(v)) do
    if i > 1 then self:put(self.comma) end
    self:newline(level + 1)
    self.data = self.data or text.has_data(key)
    self:put(quote(key_text(key), self.ascii) .. self.colon)
    self:write(v.map[value.hash(self.rt, key)], level + 1)
  end
  self:newline(level)
  self:put("}")
end

function Writer:write(v, level)
  base.step(self.rt, 1)
  local kind = value.kind(v)
  if kind == "str" then
    self.data = self.data or text.has_data(v)
    return self:put(quote(text.plain(v), self.ascii))
  elseif kind == "bool" then
    return self:put(v and "true" or "false")
  elseif kind == "int" or kind == "float" then
    return self:put(number(v))
  elseif kind == "none" then
    return self:put("null")
  end
  base.enter(self.rt)
  if kind == "list" or kind == "tuple" then
    self:write_list(v, level)
  elseif kind == "dict" then
    self:write_dict(v, level)
  else
    mismatch("Object of type %s is not JSON serializable", value.type_name(v))
  end
  base.leave(self.rt)
end

-- indent=: a number of spaces, or a text
local function indentation(rt, indent)
  if indent == nil or indent == base.NONE then return nil end
  if text.is(indent) then return text.plain(indent) end
  local n = value.number_of(indent)
  if math.type(n) ~= "integer" then
    mismatch("can't multiply sequence by non-int of type '%s'", value.type_name(indent))
  end
  if n > rt.bytes then base.bytes(rt, n) end
  return (" "):rep(n)
end

---@return table|string  the JSON text of `v`, a string value
function M.dumps(rt, v, ascii, indent, separators, sort_keys)
  local self = setmetatable({rt = rt, out = {}, indent = indentation(rt, indent), colon = ": "}, Writer)
  self.comma = self.indent and "," or ", "
  self.data = text.has_data(indent)
  self.ascii = ascii ~= nil and value.truth(ascii)
  self.sort_keys = sort_keys ~= nil and value.truth(sort_keys)
  if separators ~= nil and separators ~= base.NONE then
    local items, n = value.collect(rt, separators)
    if n ~= 2 or not (text.is(items[1]) and text.is(items[2])) then
      mismatch("not enough values to unpack (expected 2, got %d)", n)
    end
    self.comma, self.colon = text.plain(items[1]), text.plain(items[2])
    self.data = self.data or text.has_data(items[1]) or text.has_data(items[2])
  end
  self:write(v, 0)
  local s = table.concat(self.out)
  return self.data and text.data(s) or s
end

return M
