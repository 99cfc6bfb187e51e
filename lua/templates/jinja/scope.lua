---Which variable a name means: resolved before a template runs, as the reference does it.
---
---Each loop body, macro, block and the like is a scope one level below its surroundings; `if` is none. A scope knows
---the names that it stores or looks up first (`refs`: name to slot) and what a slot holds when the scope is entered
---(`loads`): a parameter, the outer slot of the same name ("alias"), what the context holds ("resolve"), or nothing
---("missing"). So a name that is set anywhere in a scope is that scope's own from its start, and what a loop's body
---sets does not leave it. Slots live in the environment table of the function (template, macro, recursive loop ...) in
---which the scope stands.
local parser = require "moonlet.templates.jinja.parser"

local M = {}

local each_child = parser.each_child

local Scope = {}
Scope.__index = Scope

---@param parent table?  the surrounding scope
---@param fn table  {depth}: the function in which the scope stands
function M.new(parent, fn)
  return setmetatable({parent = parent, level = parent and parent.level + 1 or 0, fn = fn, refs = {}, loads = {},
    stores = {}}, Scope)
end

---The slot of a name and the function that holds it, or nil.
function Scope:find(name)
  local scope = self
  while scope do
    local slot = scope.refs[name]
    if slot then return slot, scope.fn end
    scope = scope.parent
  end
  return nil
end

function Scope:define(name, action, from, from_fn)
  local slot = self.level .. "_" .. name
  self.refs[name] = slot
  self.loads[slot] = {action = action, from = from, fn = from_fn}
  return slot
end

function Scope:load(name)
  if not self:find(name) then self:define(name, "resolve", name) end
end

function Scope:store(name)
  self.stores[name] = true
  if self.refs[name] then return end
  local outer, fn
  if self.parent then outer, fn = self.parent:find(name) end
  if outer then
    self:define(name, "alias", outer, fn)
  else
    self:define(name, "missing")
  end
end

function Scope:declare(name)
  self.stores[name] = true
  return self:define(name, "parameter")
end

local function copy_into(to, from)
  for key, item in pairs(from) do to[key] = item end
end

function Scope:copy()
  local twin = M.new(self.parent, self.fn)
  twin.level = self.level
  copy_into(twin.refs, self.refs)
  copy_into(twin.loads, self.loads)
  copy_into(twin.stores, self.stores)
  return twin
end

-- After the branches of an `if`: what only some of them store is looked up outside before.
function Scope:merge(branches)
  local stored = {}
  for _, branch in ipairs(branches) do copy_into(stored, branch.stores) end
  for name in pairs(self.stores) do stored[name] = nil end
  for _, branch in ipairs(branches) do
    copy_into(self.refs, branch.refs)
    copy_into(self.loads, branch.loads)
    copy_into(self.stores, branch.stores)
  end
  for name in pairs(stored) do
    local slot = self:find(name)
    local outer, fn
    if self.parent then outer, fn = self.parent:find(name) end
    if outer then
      self.loads[slot] = {action = "alias", from = outer, fn = fn}
    else
      self.loads[slot] = {action = "resolve", from = name}
    end
  end
end

-- Visiting what stands in a scope, down to where inner scopes begin. `at.scope` is the scope being filled.
local visit

local function visit_all(at, nodes)
  for _, node in ipairs(nodes) do visit(at, node) end
end

local VISIT = {
  Name = function(at, node, as_parameter)
    if as_parameter or node.ctx == "param" then
      at.scope:declare(node.name)
    elseif node.ctx == "store" then
      at.scope:store(node.name)
    else
      at.scope:load(node.name)
    end
  end,
  NSRef = function(at, node) at.scope:load(node.name) end,
  If = function(at, node)
    visit(at, node.test)
    local before = at.scope
    local branches = {}
    for i, body in ipairs {node.body, node.elif_, node.else_} do
      at.scope = before:copy()
      visit_all(at, body)
      branches[i] = at.scope
    end
    at.scope = before
    before:merge(branches)
  end,
  Macro = function(at, node) at.scope:store(node.name) end,
  Assign = function(at, node)
    visit(at, node.node)
    visit(at, node.target)
  end,
  For = function(at, node) visit(at, node.iter) end,
  CallBlock = function(at, node) visit(at, node.call) end,
  Generation = function() end,
  FilterBlock = function(at, node) visit(at, node.filter) end,
  With = function(at, node) visit_all(at, node.values) end,
  AssignBlock = function(at, node)
    visit(at, node.target)
    if node.filter then visit(at, node.filter) end
  end,
  Scope = function() end,
  Block = function() end,
}

function visit(at, node, as_parameter)
  local special = VISIT[node.t]
  if special then return special(at, node, as_parameter) end
  each_child(node, function(child) visit(at, child, as_parameter) end)
end

---Fills a scope from nodes that stand in it.
---@param as_parameter boolean?  names that are stored are parameters (a loop's targets)
function Scope:analyse(nodes, as_parameter)
  local at = {scope = self}
  for _, node in ipairs(nodes) do visit(at, node, as_parameter) end
end

---Which of the names `wanted` (a set) are looked up in `nodes` before they are stored there. Blocks are not entered.
function M.undeclared(nodes, wanted)
  local open, found = {}, {}
  copy_into(open, wanted)
  local function look(node)
    if node.t == "Block" then return end
    if node.t == "Name" then
      if node.ctx == "load" and open[node.name] then
        found[node.name] = true
      else
        open[node.name] = nil
      end
      return
    end
    each_child(node, look)
  end
  for _, node in ipairs(nodes) do look(node) end
  return found
end

---Whether some node at or below one of `nodes` satisfies `test`.
function M.any(nodes, test)
  local function look(node)
    if test(node) then return true end
    local found = false
    each_child(node, function(child) found = found or look(child) end)
    return found
  end
  for _, node in ipairs(nodes) do
    if look(node) then return true end
  end
  return false
end

return M
