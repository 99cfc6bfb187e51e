---The tests of `is`.
local base = require "moonlet.templates.jinja.base"
local call = require "moonlet.templates.jinja.call"
local format = require "moonlet.templates.jinja.format"
local ops = require "moonlet.templates.jinja.ops"
local text = require "moonlet.templates.jinja.text"
local unicode = require "moonlet.templates.jinja.unicode"
local value = require "moonlet.templates.jinja.value"

local M = {}

local kind = value.kind

---Tests by name; each a specification of call.lua.
M.tests = {}

local function test(names, params, fn)
  for name in names:gmatch("%S+") do M.tests[name] = call.spec(name, params, fn) end
end

local function remainder(rt, v, n)
  return ops.mod(rt, v, n, format.printf)
end

test("odd", "", function(rt, v) return remainder(rt, v, 2) == 1 end)
test("even", "", function(rt, v) return remainder(rt, v, 2) == 0 end)
test("divisibleby", "num", function(rt, v, num) return remainder(rt, v, num) == 0 end)
test("defined", "", function(_, v) return kind(v) ~= "undefined" end)
test("undefined", "", function(_, v) return kind(v) == "undefined" end)
test("none", "", function(_, v) return v == base.NONE end)
test("boolean", "", function(_, v) return kind(v) == "bool" end)
test("true", "", function(_, v) return v == true end)
test("false", "", function(_, v) return v == false end)
test("integer", "", function(_, v) return kind(v) == "int" end)
test("float", "", function(_, v) return kind(v) == "float" end)
test("number", "", function(_, v) return value.number_of(v) ~= nil end)
test("string", "", function(_, v) return text.is(v) end)
test("mapping", "", function(_, v) return kind(v) == "dict" end)

local SEQUENCES = {str = true, list = true, tuple = true, dict = true, range = true, undefined = true}
test("sequence", "", function(_, v) return SEQUENCES[kind(v)] == true end)
test("iterable", "", function(rt, v) return kind(v) == "loop" or value.try_iter(rt, v) ~= nil end)

local CALLABLE = {macro = true, method = true, ["function"] = true, loop = true, joiner = true, undefined = true}
test("callable", "", function(_, v) return CALLABLE[kind(v)] == true end)

local function has_only_case(rt, v, wanted, other)
  local s = text.plain(value.str(rt, v))
  base.step(rt, #s // 2)
  return unicode.has_only_case(s, wanted, other)
end
test("lower", "", function(rt, v) return has_only_case(rt, v, "lower", "upper") end)
test("upper", "", function(rt, v) return has_only_case(rt, v, "upper", "lower") end)
test("escaped", "", function(_, v) return type(v) == "table" and v.safe == true end)
test("sameas", "other", function(_, v, other)
  if text.is(v) and text.is(other) then return text.plain(v) == text.plain(other) end
  return rawequal(v, other) and math.type(v) == math.type(other)
end)
test("in", "seq", function(rt, v, seq) return value.contains(rt, v, seq) end)

test("== eq equalto", "other", function(rt, v, other) return value.eq(rt, v, other) end)
test("!= ne", "other", function(rt, v, other) return not value.eq(rt, v, other) end)
for names, op in pairs {["> gt greaterthan"] = ">", [">= ge"] = ">=", ["< lt lessthan"] = "<", ["<= le"] = "<="} do
  test(names, "other", function(rt, v, other) return value.compare(rt, op, v, other) end)
end

return M
