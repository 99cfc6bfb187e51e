---From the caller's Lua values to the engine's own: a copy, so that no table, metatable or function of the caller is
---within a template's reach.
local base = require "moonlet.templates.jinja.base"
local text = require "moonlet.templates.jinja.text"
local unicode = require "moonlet.templates.jinja.unicode"
local value = require "moonlet.templates.jinja.value"

local M = {}

M.MAX_DEPTH = 100

local Import = {}
Import.__index = Import

function Import:fail(message, ...)
  local at = {}
  for i, key in ipairs(self.path) do
    at[i] = type(key) == "number" and ("[%d]"):format(key) or (i > 1 and "." or "") .. tostring(key)
  end
  base.raise("usage", "%s: %s", table.concat(at), message:format(...))
end

-- "list", "dict" or "sorted" (a dict whose keys have no order of their own)
function Import:shape(t)
  local meta = getmetatable(t)
  local name = type(meta) == "table" and rawget(meta, "__name")
  if name == "moonlet.json.object" then return "dict" end
  if name == "moonlet.json.array" then return "list" end
  local count, strings = 0, 0
  for key in next, t do
    count = count + 1
    if type(key) == "string" then strings = strings + 1 end
  end
  if strings == 0 and count == rawlen(t) then return "list" end
  if strings < count then self:fail("a table with keys of both lists and objects cannot be given to a template") end
  return "sorted"
end

function Import:import_list(t)
  local list = {k = "list", n = #t}
  self.size = self.size + 64 + 16 * list.n
  for i = 1, list.n do
    self.path[#self.path + 1] = i
    list[i] = self:import(t[i])
    self.path[#self.path] = nil
  end
  return list
end

function Import:import_dict(t, shape)
  local keys, values = {}, {}
  if shape == "dict" then
    for key, item in pairs(t) do
      if type(key) ~= "string" then self:fail("an object's keys are strings, not %s", type(key)) end
      keys[#keys + 1], values[key] = key, item
    end
  else
    for key, item in next, t do keys[#keys + 1], values[key] = key, item end
    table.sort(keys, function(a, b) return text.compare({steps = math.huge, max_steps = 0}, a, b) < 0 end)
  end
  local dict = value.dict(nil)
  for _, name in ipairs(keys) do
    self.path[#self.path + 1] = name
    local key = unicode.repair(name)
    self.size = self.size + 64 + #key
    if dict.map[key] == nil then
      dict.n = dict.n + 1
      dict.keys[dict.n] = #self.path > 2 and self:is_data(key) and text.data(key) or key
    end
    dict.map[key] = self:import(values[name])
    self.path[#self.path] = nil
  end
  return dict
end

function Import:is_data(s)
  return self.track ~= nil and self.track(self.path, s)
end

function Import:import(v)
  local t = type(v)
  self.size = self.size + 16
  if v == nil or rawequal(v, self.null) or rawequal(v, base.NONE) then return base.NONE end
  if t == "boolean" or t == "number" then return v end
  if t == "string" then
    v = unicode.repair(v)
    self.size = self.size + #v
    return self:is_data(v) and text.data(v) or v
  end
  if t ~= "table" then self:fail("a %s cannot be given to a template", t) end
  self.depth = self.depth + 1
  if self.depth > M.MAX_DEPTH then self:fail("nested more than %d deep", M.MAX_DEPTH) end
  local shape = self:shape(v)
  local result = shape == "list" and self:import_list(v) or self:import_dict(v, shape)
  self.depth = self.depth - 1
  return result
end

---@param context table  names to values
---@param null any  the value that stands for Python's None (nil does too)
---@param track nil|fun(path: table, s: string): boolean  whether the string at a path is data, to be marked as such
---@return table vars  names to values of the engine
---@return integer size  bytes that the copy takes, roughly
function M.import(context, null, track)
  local self = setmetatable({path = {}, depth = 0, size = 0, null = null, track = track}, Import)
  local vars = {}
  for name, item in pairs(context) do
    if type(name) ~= "string" then self:fail("the context's names are strings, not %s", type(name)) end
    self.path[1] = name
    vars[name] = self:import(item)
  end
  return vars, self.size
end

return M
