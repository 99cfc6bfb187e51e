-- JSON as scripts see it: what decode keeps, what encode says and refuses.
local t = require "tests.lua.harness"
local json = require("moonlet").json

local function keys(object)
  local list = {}
  for key in pairs(object) do list[#list + 1] = tostring(key) end
  return table.concat(list, " ")
end

local function mark(value)
  return (getmetatable(value) or {}).__name
end

t.test("decode keeps integers from floats", function()
  t.eq(json.decode "[1, 1.0, -0, 1e2, 9223372036854775807]", {1, 1.0, 0, 100.0, math.maxinteger})
  t.eq(json.decode "9223372036854775808", 2.0 ^ 63)
end)

t.test("decode keeps null", function()
  local value = json.decode '{"a": null, "b": [null, 1, null]}'
  t.ok(value.a == json.null and value.b[1] == json.null and value.b[3] == json.null)
  t.eq(#value.b, 3)
  t.ok(json.null, "null is truthy")
  t.ok(json.decode "null" == json.null)
  t.ok(json.null ~= nil and json.null ~= false)
end)

t.test("decode keeps [] from {}", function()
  t.eq(mark(json.decode "[]"), "moonlet.json.array")
  t.eq(mark(json.decode "{}"), "moonlet.json.object")
  for _, text in ipairs {"[]", "{}", "[{}]", '{"a":[]}', '{"a":{"b":[[],{}]}}'} do
    t.eq(json.encode(json.decode(text)), text)
  end
end)

t.test("decode keeps the order of keys", function()
  local text = '{"zeta":1,"alpha":{"y":1,"x":2,"":3},"10":4,"9":5}'
  local object = json.decode(text)
  t.eq(keys(object), "zeta alpha 10 9")
  t.eq(keys(object.alpha), "y x ")
  t.eq(json.encode(object), text)
end)

t.test("pairs follows what is added and removed", function()
  local object = json.decode '{"c":1,"b":2,"a":3}'
  object.b = nil
  object.z, object.d, object[7] = 4, 5, 6
  t.eq(keys(object), "c a 7 d z")
  object.b, object[7] = 9, nil
  t.eq(json.encode(object), '{"c":1,"b":9,"a":3,"d":5,"z":4}')
  local seen = {}
  for key in pairs(object) do
    seen[#seen + 1] = key
    object[key], object.z = nil, nil
  end
  t.eq(seen, {"c", "b", "a", "d"}, "keys removed while walking are passed over")
  t.eq(next(object), nil)
end)

t.test("decode reports what is not JSON", function()
  t.fails("line 2, column 2: expected", "corrupt", json.decode "[\n x]")
  t.fails("duplicate key 'a'", "corrupt", json.decode '{"a":1,"a":2}')
  t.fails("deeper than 128", "corrupt", json.decode(("["):rep(129) .. ("]"):rep(129)))
  t.fails("expected a value", "corrupt", json.decode "NaN")
  t.fails("the end", "corrupt", json.decode "")
  t.raises(function() json.decode(1) end, "json.decode: expected a string, found 1")
  t.raises(function() json.decode() end, "json.decode: expected a string, found nothing")
end)

t.test("decode to the full depth", function()
  local text = ("["):rep(128) .. ("]"):rep(128)
  t.eq(json.encode(json.decode(text)), text)
end)

t.test("strings go both ways", function()
  local text = 'a"\\/\b\f\n\r\t\0\x7fé€😀'
  t.eq(json.decode(json.encode(text)), text)
  t.eq(json.encode "é€😀/", '"é€😀/"')
  t.eq(json.encode "\0\x1f", '"\\u0000\\u001f"')
  t.eq(json.decode [["\u00e9\ud83d\ude00\/"]], "é😀/")
end)

t.test("numbers go both ways", function()
  t.eq(json.encode {1, 1.0, -0.0, 1e16, 1e15, 0.1, math.mininteger, 5e-324},
    "[1,1.0,-0.0,1e+16,1000000000000000.0,0.1,-9223372036854775808,5e-324]")
end)

t.test("tables made in Lua", function()
  t.eq(json.encode {}, "[]")
  t.eq(json.encode {3, 2, 1}, "[3,2,1]")
  t.eq(json.encode {b = 1, a = {true, false}, ["c d"] = json.null}, '{"a":[true,false],"b":1,"c d":null}')
  t.eq(json.encode(json.object {}), "{}")
  t.eq(json.encode(json.array {}), "[]")
  t.eq(json.encode(json.object {b = 1, a = 2}), '{"a":2,"b":1}')
  local marked = {1}
  t.ok(json.array(marked) == marked, "array returns its table")
  t.eq(keys(json.object {z = 1, b = 2, a = 3}), "a b z")
end)

t.test("marks may be changed", function()
  local value = json.decode '{"b":1,"a":2}'
  t.eq(keys(json.object(value)), "b a", "an object's order is kept")
  t.eq(json.encode(json.object(json.decode "[]")), "{}")
  t.eq(json.encode(json.array(json.decode "{}")), "[]")
  t.raises(function() json.array(setmetatable({}, {})) end, "without a metatable")
  t.raises(function() json.object(setmetatable({}, {})) end, "without a metatable")
  t.raises(function() json.array(1) end, "expected a table")
end)

t.test("encode with an indent", function()
  t.eq(json.encode({a = {1, {}}, b = json.object {}}, {indent = 2}), [[
{
  "a": [
    1,
    []
  ],
  "b": {}
}]])
  t.eq(json.encode({1, 2}, {indent = 0}), "[\n1,\n2\n]")
  t.raises(function() json.encode({}, {indent = -1}) end, "indent: expected an integer from 0 to 32")
  t.raises(function() json.encode({}, {indent = 1.5}) end, "indent")
  t.raises(function() json.encode({}, {intent = 1}) end, "unknown option 'intent'")
  t.raises(function() json.encode({}, {1}) end, "unknown option")
  t.raises(function() json.encode({}, 2) end, "expected a table")
end)

t.test("encode refuses what JSON cannot say", function()
  local function refused(value, pattern)
    t.raises(function() json.encode(value) end, pattern)
  end
  refused(0 / 0, "json.encode: NaN is not a JSON number")
  refused({a = {1, math.huge}}, "key 'a': item 2: infinity is not")
  refused({a = print}, "key 'a': a function is not JSON")
  refused(nil, "a nil is not JSON")
  refused(io.stdout, "a FILE%* is not JSON")
  refused(coroutine.create(print), "a thread is not JSON")
  refused("\xff", "not valid UTF%-8")
  refused({["\xff"] = 1}, "not valid UTF%-8")
  refused({1, 2, x = 3}, "keys beside its items")
  refused({1, nil, 3}, "a hole")
  refused({[2] = 1}, "number")
  refused(json.array {1, nil, 3}, "a hole")
  refused(json.array {x = 1}, "keys beside its items")
  refused(json.object {1}, "expected keys that are strings, found a number")
  refused({[true] = 1}, "found a boolean")
  t.raises(function() json.encode() end, "expected a value")
end)

t.test("encode ends on cycles and depth", function()
  local cycle = {1}
  cycle[2] = {cycle}
  t.raises(function() json.encode(cycle) end, "deeper than 128 levels, or within itself")
  local object = json.object {}
  object.a = object
  t.raises(function() json.encode(object) end, "within itself")
  local deep = {}
  for _ = 2, 128 do deep = {deep} end
  t.eq(json.encode(deep), ("["):rep(128) .. ("]"):rep(128))
  t.raises(function() json.encode {deep} end, "deeper than 128")
end)

t.test("a shared table is no cycle", function()
  local shared = {1}
  t.eq(json.encode {shared, shared}, "[[1],[1]]")
end)

t.test("the same bytes in every process", function()
  local object = {}
  for i = 1, 100 do object["key" .. i * 7919 % 101] = i end
  local names = {}
  for key in pairs(json.object(object)) do names[#names + 1] = key end
  local sorted = table.move(names, 1, #names, 1, {})
  table.sort(sorted)
  t.eq(#names, 100)
  t.eq(names, sorted)
end)

t.done()
