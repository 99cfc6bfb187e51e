---The filters on sequences and mappings.
local base = require "moonlet.templates.jinja.base"
local access = require "moonlet.templates.jinja.access"
local call = require "moonlet.templates.jinja.call"
local ops = require "moonlet.templates.jinja.ops"
local tests = require "moonlet.templates.jinja.tests"
local text = require "moonlet.templates.jinja.text"
local unicode = require "moonlet.templates.jinja.unicode"
local value = require "moonlet.templates.jinja.value"

local M = {}

local NONE, mismatch, plain = base.NONE, base.mismatch, text.plain
local kind, integer = value.kind, call.integer

---Filters by name; filters.lua adds the others.
M.filters = {}

-- Adds a filter of one name or more.
local function filter(names, params, fn)
  for name in names:gmatch("%S+") do M.filters[name] = call.spec(name, params, fn) end
end
M.filter = filter

local function absent(v)
  return v == nil or v == NONE
end

local function truth(v)
  return v ~= nil and value.truth(v)
end

-- "a.b.0" -> parts, whole numbers as integers
local function path_of(attribute)
  if absent(attribute) then return {} end
  if not text.is(attribute) then return {attribute} end
  local parts = {}
  for part in (plain(attribute) .. "."):gmatch("(.-)%.") do
    parts[#parts + 1] = part:find("^%d+$") and #part < 18 and math.tointeger(tonumber(part)) or part
  end
  return parts
end

-- A function that looks up a dotted attribute.
local function getter(rt, attribute, default)
  local parts = path_of(attribute)
  return function(item)
    for _, part in ipairs(parts) do
      item = access.getitem(rt, item, part)
      if not absent(default) and kind(item) == "undefined" then item = default end
    end
    return item
  end
end

local function fold(v)
  if text.is(v) then return unicode.lower(plain(v)) end
  return v
end

-- The key to compare items by: an attribute, text without regard to case unless asked.
local function key_getter(rt, attribute, case_sensitive, default)
  local get = getter(rt, attribute, default)
  if truth(case_sensitive) then return get end
  return function(item)
    base.step(rt, 1)
    return fold(get(item))
  end
end

filter("length count", "", function(rt, v)
  local n = value.len(rt, v)
  if not n then mismatch("object of type '%s' has no len()", value.type_name(v)) end
  return n
end)

filter("list", "", function(rt, v)
  local items, n = value.collect(rt, v)
  return value.list(rt, items, n)
end)

filter("first", "", function(rt, v)
  local item = value.iter(rt, v)()
  if item == nil then return value.undefined(nil, nil, "No first item, sequence was empty.") end
  return item
end)

local REVERSIBLE = {str = true, list = true, tuple = true, dict = true, view = true, range = true, undefined = true}

filter("last", "", function(rt, v)
  if not REVERSIBLE[kind(v)] then mismatch("'%s' object is not reversible", value.type_name(v)) end
  if kind(v) == "dict" then return v.keys[v.n] or value.undefined(nil, nil, "No last item, sequence was empty.") end
  if kind(v) == "undefined" or v == "" or value.len(rt, v) == 0 then
    return value.undefined(nil, nil, "No last item, sequence was empty.")
  end
  if kind(v) == "view" then return v[v.n] end
  return access.getitem(rt, v, -1)
end)

filter("reverse", "", function(rt, v)
  if kind(v) == "str" then return ops.slice(rt, v, nil, nil, -1) end
  if not value.try_iter(rt, v) then mismatch("argument must be iterable") end
  local items, n = value.collect(rt, v)
  if not REVERSIBLE[kind(v)] then
    for i = 1, n // 2 do items[i], items[n + 1 - i] = items[n + 1 - i], items[i] end
    return value.list(rt, items, n)
  end
  local i = n + 1
  return value.lazy(rt, function()
    i = i - 1
    if i < 1 then return nil end
    base.step(rt, 1)
    return items[i]
  end)
end)

filter("join", "/ d attribute", function(rt, v, d, attribute)
  d = d and value.str(rt, d) or ""
  local get = not absent(attribute) and getter(rt, attribute)
  local items, n = {}, 0
  for item in value.iter(rt, v) do
    n = n + 1
    if get then item = get(item) end
    items[n] = value.str(rt, item)
    base.bytes(rt, 16)
  end
  return text.concat(rt, items, n, d)
end)

filter("items", "", function(rt, v)
  if kind(v) == "undefined" then return value.lazy(rt, function() return nil end) end
  local i = 0
  return value.lazy(rt, function()
    if kind(v) ~= "dict" then mismatch("Can only get item pairs from a mapping.") end
    i = i + 1
    if i > v.n then return nil end
    return value.tuple(rt, {v.keys[i], access.entry(rt, v, v.keys[i])}, 2)
  end)
end)

filter("dictsort", "/ case_sensitive by reverse", function(rt, v, case_sensitive, by, reverse)
  by = by and plain(by) or "key"
  if by ~= "key" and by ~= "value" then mismatch('You can only sort by either "key" or "value"') end
  if kind(v) == "undefined" then value.fail_undefined(v) end
  if kind(v) ~= "dict" then mismatch("'%s' object has no attribute 'items'", value.type_name(v)) end
  local pairs_of, keys = {}, {}
  for i = 1, v.n do
    local key, item = v.keys[i], access.entry(rt, v, v.keys[i])
    pairs_of[i] = value.tuple(rt, {key, item}, 2)
    local by_what = by == "key" and key or item
    if truth(case_sensitive) then keys[i] = by_what else keys[i] = fold(by_what) end
  end
  return value.list(rt, value.sort(rt, pairs_of, keys, v.n, truth(reverse)), v.n)
end)

filter("sort", "/ reverse case_sensitive attribute", function(rt, v, reverse, case_sensitive, attribute)
  local items, n = value.collect(rt, v)
  local gets = {}
  if text.is(attribute or NONE) then
    for each in (plain(attribute) .. ","):gmatch("(.-),") do
      gets[#gets + 1] = key_getter(rt, each, case_sensitive)
    end
  else
    gets[1] = key_getter(rt, attribute, case_sensitive)
  end
  local keys = {}
  for i = 1, n do
    local key = {}
    for j, get in ipairs(gets) do key[j] = get(items[i]) end
    keys[i] = value.list(rt, key, #gets)
  end
  return value.list(rt, value.sort(rt, items, keys, n, truth(reverse)), n)
end)

filter("unique", "/ case_sensitive attribute", function(rt, v, case_sensitive, attribute)
  local get, next, seen = key_getter(rt, attribute, case_sensitive), value.iter(rt, v), {}
  return value.lazy(rt, function()
    for item in next do
      local h = value.hash(rt, get(item))
      if not seen[h] then
        seen[h] = true
        base.bytes(rt, 40)
        return item
      end
    end
    return nil
  end)
end)

local function extreme(op)
  return function(rt, v, case_sensitive, attribute)
    local get = key_getter(rt, attribute, case_sensitive)
    local best, best_key
    for item in value.iter(rt, v) do
      local key = get(item)
      if best == nil or value.compare(rt, op, key, best_key) then best, best_key = item, key end
    end
    if best == nil then return value.undefined(nil, nil, "No aggregated item, sequence was empty.") end
    return best
  end
end
filter("min", "/ case_sensitive attribute", extreme("<"))
filter("max", "/ case_sensitive attribute", extreme(">"))

filter("sum", "/ attribute start", function(rt, v, attribute, start)
  local total = start == nil and 0 or start
  if text.is(total) then mismatch("sum() can't sum strings [use ''.join(seq) instead]") end
  local get = not absent(attribute) and getter(rt, attribute)
  for item in value.iter(rt, v) do
    base.step(rt, 1)
    if get then item = get(item) end
    total = ops.add(rt, total, item)
  end
  return total
end)

filter("slice", "slices / fill_with", function(rt, v, slices, fill)
  local items, n = value.collect(rt, v)
  slices = integer(slices)
  if slices == 0 then mismatch("integer division or modulo by zero") end
  local each, extra = n // slices, n % slices
  local number, at = 0, 0
  return value.lazy(rt, function()
    if number >= slices then return nil end
    local part, count = {}, each + (number < extra and 1 or 0)
    for i = 1, count do part[i] = items[at + i] end
    at = at + count
    if not absent(fill) and number >= extra then
      count = count + 1
      part[count] = fill
    end
    number = number + 1
    base.step(rt, count + 1)
    return value.list(rt, part, count)
  end)
end)

filter("batch", "linecount / fill_with", function(rt, v, size, fill)
  local next, done = value.iter(rt, v), false
  size = integer(size)
  local held = nil
  return value.lazy(rt, function()
    if done then return nil end
    local part, count = {}, 0
    if held ~= nil then part[1], count, held = held, 1, nil end
    for item in next do
      if count == size then
        held = item
        return value.list(rt, part, count)
      end
      count = count + 1
      part[count] = item
    end
    done = true
    if count == 0 then return nil end
    if not absent(fill) and count < size then
      base.bytes(rt, 16 * (size - count))
      base.step(rt, size - count)
      while count < size do
        count = count + 1
        part[count] = fill
      end
    end
    return value.list(rt, part, count)
  end)
end)

filter("groupby", "attribute / default case_sensitive", function(rt, v, attribute, default, case_sensitive)
  local get, real = key_getter(rt, attribute, case_sensitive, default), getter(rt, attribute, default)
  local items, n = value.collect(rt, v)
  local keys, order = {}, {}
  for i = 1, n do keys[i], order[i] = get(items[i]), i end
  order = value.sort(rt, order, keys, n)
  local groups, count = {}, 0
  local members, current
  for _, i in ipairs(order) do
    if not members or not value.eq(rt, keys[i], current) then
      members, current, count = value.list(rt, {}, 0), keys[i], count + 1
      groups[count] = value.tuple(rt, {real(items[i]), members}, 2)
      groups[count].group = true
    end
    members.n = members.n + 1
    members[members.n] = items[i]
    base.bytes(rt, 16)
  end
  return value.list(rt, groups, count)
end)

-- Filters that call filters and tests --------------------------------------------------------------------------------

-- args without the first `skip`
local function rest_of(args, skip)
  return {n = math.max(args.n - skip, 0), table.unpack(args, skip + 1, args.n)}
end

local function named(kinds, name, what)
  local spec = text.is(name) and kinds[plain(name)]
  if not spec then
    mismatch("No %s named %s.", what, text.is(name) and text.quote(plain(name)) or value.type_name(name))
  end
  return spec
end

local function mapper(rt, args, kwargs)
  if args.n == 0 and kwargs and kwargs.map.attribute ~= nil then
    for i = 1, kwargs.n do
      local key = plain(kwargs.keys[i])
      if key ~= "attribute" and key ~= "default" then mismatch("Unexpected keyword argument '%s'", key) end
    end
    return getter(rt, kwargs.map.attribute, kwargs.map.default)
  end
  if args.n == 0 then mismatch("map requires a filter argument") end
  local spec, rest
  return function(item)
    spec, rest = spec or named(M.filters, args[1], "filter"), rest or rest_of(args, 1)
    base.step(rt, 1)
    return call.apply(rt, spec, item, rest, kwargs)
  end
end

M.filters.map = call.raw_spec("map", function(rt, v, args, kwargs)
  if not value.truth(v) then return value.lazy(rt, function() return nil end) end
  local fn, next
  return value.lazy(rt, function()
    fn, next = fn or mapper(rt, args, kwargs), next or value.iter(rt, v)
    local item = next()
    if item == nil then return nil end
    return fn(item)
  end)
end)

-- select, reject and their attr kin
local function selector(wanted, by_attribute)
  return function(rt, v, args, kwargs)
    if not value.truth(v) then return value.lazy(rt, function() return nil end) end
    local skip, get = by_attribute and 1 or 0, nil
    local spec, rest, next
    return value.lazy(rt, function()
      if by_attribute and args.n == 0 then mismatch("Missing parameter for attribute name") end
      get, next = get or by_attribute and getter(rt, args[1]), next or value.iter(rt, v)
      if args.n > skip and not spec then
        spec, rest = named(tests.tests, args[skip + 1], "test"), rest_of(args, skip + 1)
      end
      for item in next do
        base.step(rt, 1)
        local subject = item
        if get then subject = get(item) end
        local holds
        if spec then holds = call.apply(rt, spec, subject, rest, kwargs) else holds = value.truth(subject) end
        if holds == wanted then return item end
      end
      return nil
    end)
  end
end
M.filters.select = call.raw_spec("select", selector(true, false))
M.filters.reject = call.raw_spec("reject", selector(false, false))
M.filters.selectattr = call.raw_spec("selectattr", selector(true, true))
M.filters.rejectattr = call.raw_spec("rejectattr", selector(false, true))

return M
