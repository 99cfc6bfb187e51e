---The `loop` of a for statement: a value whose attributes look at an iteration as it goes.
local base = require "moonlet.templates.jinja.base"
local call = require "moonlet.templates.jinja.call"
local value = require "moonlet.templates.jinja.value"

local M = {}

local END = {}

local function peek(loop)
  if loop.after == nil then
    local item = loop.next()
    if item == nil then item = END end
    loop.after = item
  end
  return loop.after
end

-- Items counted in advance where the iterable cannot say how many it has.
local function length(rt, loop)
  if loop.count then return loop.count end
  local n = value.kind(loop.iterable) ~= "iter" and not loop.filtered and value.len(rt, loop.iterable)
  if not n then
    local ahead, held = {}, 0
    for item in loop.next do
      held = held + 1
      ahead[held] = item
      base.bytes(rt, 16)
    end
    local at = 0
    loop.next = function()
      at = at + 1
      return ahead[at]
    end
    n = held + loop.index0 + 1 + ((loop.after ~= nil and loop.after ~= END) and 1 or 0)
  end
  loop.count = n
  return n
end

local function bound(name, raw)
  local spec = call.raw_spec(name, raw)
  return function(_, loop) return {k = "method", name = name, spec = spec, self = loop} end
end

local function same_items(rt, a, b)
  if not a or a.n ~= b.n then return false end
  for i = 1, a.n do
    if not value.eq(rt, a[i], b[i]) then return false end
  end
  return true
end

local FIELDS = {
  index = function(_, loop) return loop.index0 + 1 end,
  index0 = function(_, loop) return loop.index0 end,
  revindex = function(rt, loop) return length(rt, loop) - loop.index0 end,
  revindex0 = function(rt, loop) return length(rt, loop) - loop.index0 - 1 end,
  first = function(_, loop) return loop.index0 == 0 end,
  last = function(_, loop) return peek(loop) == END end,
  length = function(rt, loop) return length(rt, loop) end,
  depth = function(_, loop) return loop.depth0 + 1 end,
  depth0 = function(_, loop) return loop.depth0 end,
  previtem = function(_, loop)
    if loop.index0 == 0 then return value.undefined(nil, nil, "there is no previous item") end
    return loop.before
  end,
  nextitem = function(_, loop)
    local item = peek(loop)
    if item == END then return value.undefined(nil, nil, "there is no next item") end
    return item
  end,
  cycle = bound("cycle", function(_, loop, args)
    if args.n == 0 then base.mismatch("no items for cycling given") end
    return args[loop.index0 % args.n + 1]
  end),
  changed = bound("changed", function(rt, loop, args)
    if same_items(rt, loop.changed, args) then return false end
    loop.changed = args
    return true
  end),
}

---Moves to the next item and gives it; nil at the end.
function M.advance(loop)
  local item = loop.after
  if item == END then return nil end
  if item ~= nil then loop.after = nil else item = loop.next() end
  if item == nil then return nil end
  loop.index0 = loop.index0 + 1
  loop.before, loop.current = loop.current, item
  return item
end

---@param iterable any  the value that is walked
---@param next function  gives its items
---@param filtered boolean  whether `next` leaves some out
---@param depth0 integer  how many recursive loops are around
---@param recurse function?  (iterable, depth0) -> text, for a recursive loop
function M.new(rt, iterable, next, filtered, depth0, recurse)
  local loop = {k = "loop", iterable = iterable, next = next, filtered = filtered, index0 = -1, depth0 = depth0,
    fields = FIELDS}
  loop.length = function() return length(rt, loop) end
  loop.call = function(_, args)
    if not recurse then
      base.mismatch("The loop must have the 'recursive' marker to be called recursively.")
    end
    if args.n ~= 1 then base.mismatch("loop() takes 1 argument (%d given)", args.n) end
    return recurse(args[1], loop.depth0 + 1)
  end
  base.bytes(rt, 256)
  return loop
end

return M
