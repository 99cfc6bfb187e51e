---Tokens to a syntax tree: expressions, as methods that the parser inherits.
---
---Precedence from loose to tight: if/else, or, and, not, comparisons (chained), + -, ~, * / // %, ** (which
---associates to the left), unary + -, then attributes, items, calls, and last filters and tests, which bind to the
---whole unary expression.
local base = require "moonlet.templates.jinja.base"
local NONE = base.NONE

local M = {}

M.MAX_CHAIN = 200 -- operators, filters or subscripts in a row

local COMPARE = {["=="] = "==", ["!="] = "!=", ["<"] = "<", ["<="] = "<=", [">"] = ">", [">="] = ">="}
local CONSTANTS = {["true"] = true, ["True"] = true, ["false"] = false, ["False"] = false, none = NONE, None = NONE}

function M:check_chain(count)
  if count > M.MAX_CHAIN then
    base.raise("limit", "line %d: an expression of more than %d links", self.token[3], M.MAX_CHAIN)
  end
end

---@param no_cond boolean?  leave `if` to the caller
function M:parse_expression(no_cond)
  if no_cond then return self:parse_or() end
  return self:parse_condexpr()
end

function M:parse_condexpr()
  local line = self.token[3]
  local node = self:parse_or()
  local count = 0
  while self:skip_if("name", "if") do
    count = count + 1
    self:check_chain(count)
    local test = self:parse_or()
    local other
    if self:skip_if("name", "else") then
      self:enter()
      other = self:parse_condexpr()
      self:leave()
    end
    node = {t = "CondExpr", test = test, expr1 = node, expr2 = other, line = line}
    line = self.token[3]
  end
  return node
end

-- A level of left-associative operators; `operator` gives the operator that the current token is, or nil.
local function binary_level(operator, operand)
  return function(self)
    local line = self.token[3]
    local left = self[operand](self)
    local count = 0
    while true do
      local op = operator(self.token)
      if not op then return left end
      count = count + 1
      self:check_chain(count)
      self:next()
      left = {t = "Binary", op = op, left = left, right = self[operand](self), line = line}
    end
  end
end

local function named(name)
  return function(token) return token[1] == "name" and token[2] == name and name or nil end
end

local function among(ops)
  return function(token) return ops[token[1]] and token[1] or nil end
end

M.parse_or = binary_level(named "or", "parse_and")
M.parse_and = binary_level(named "and", "parse_not")
M.parse_math1 = binary_level(among {["+"] = true, ["-"] = true}, "parse_concat")
M.parse_math2 = binary_level(among {["*"] = true, ["/"] = true, ["//"] = true, ["%"] = true}, "parse_pow")
M.parse_pow = binary_level(among {["**"] = true}, "parse_unary")

function M:parse_not()
  if not self:at("name", "not") then return self:parse_compare() end
  local line = self:next()[3]
  self:enter()
  local node = {t = "Unary", op = "not", node = self:parse_not(), line = line}
  self:leave()
  return node
end

function M:parse_compare()
  local line = self.token[3]
  local first, ops = self:parse_math1(), {}
  while true do
    local token = self.token
    local op = COMPARE[token[1]]
    if op then
      self:next()
    elseif self:skip_if("name", "in") then
      op = "in"
    elseif self:at("name", "not") and self:look()[1] == "name" and self:look()[2] == "in" then
      self:next()
      self:next()
      op = "not in"
    else
      break
    end
    self:check_chain(#ops)
    ops[#ops + 1] = {t = "Operand", op = op, expr = self:parse_math1(), line = token[3]}
  end
  if #ops == 0 then return first end
  return {t = "Compare", expr = first, ops = ops, line = line}
end

function M:parse_concat()
  local line = self.token[3]
  local first = self:parse_math2()
  if not self:at("~") then return first end
  local nodes = {first}
  while self:skip_if("~") do nodes[#nodes + 1] = self:parse_math2() end
  return {t = "Concat", nodes = nodes, line = line}
end

function M:parse_unary(no_filter)
  local token = self.token
  local node
  self:enter()
  if token[1] == "-" or token[1] == "+" then
    self:next()
    node = {t = "Unary", op = token[1], node = self:parse_unary(true), line = token[3]}
  else
    node = self:parse_primary()
  end
  node = self:parse_postfix(node)
  if not no_filter then node = self:parse_filter_expr(node) end
  self:leave()
  return node
end

---@param with_namespace boolean?  read `a.b` as a target
function M:parse_primary(with_namespace)
  local token = self.token
  local kind = token[1]
  if kind == "name" then
    return self:parse_name(with_namespace)
  elseif kind == "string" then
    local parts = {}
    while self:at("string") do parts[#parts + 1] = self:next()[2] end
    return {t = "Const", value = table.concat(parts), line = token[3]}
  elseif kind == "integer" or kind == "float" then
    self:next()
    return {t = "Const", value = token[2], line = token[3]}
  elseif kind == "(" then
    self:next()
    local node = self:parse_tuple {parentheses = true}
    self:expect(")")
    return node
  elseif kind == "[" then
    return self:parse_list()
  elseif kind == "{" then
    return self:parse_dict()
  end
  self:fail(token[3], "unexpected '%s'", self:describe(token))
end

function M:parse_name(with_namespace)
  local token = self:next()
  local constant = CONSTANTS[token[2]]
  if constant ~= nil then return {t = "Const", value = constant, line = token[3]} end
  if with_namespace and self:skip_if(".") then
    return {t = "NSRef", name = token[2], attr = self:expect("name")[2], line = token[3]}
  end
  return {t = "Name", name = token[2], ctx = "load", line = token[3]}
end

local NO_OPTIONS = {}

---One expression, or a tuple of several with commas between them.
---@param options table?  simplified (names and literals only), namespace, no_cond, parentheses
function M:parse_tuple(options)
  options = options or NO_OPTIONS
  local line = self.token[3]
  local items, is_tuple = {}, false
  while true do
    if #items > 0 then self:expect(",") end
    if self:at("variable_end") or self:at("block_end") or self:at(")") then break end
    if options.simplified then
      self:enter()
      items[#items + 1] = self:parse_primary(options.namespace)
      self:leave()
    else
      items[#items + 1] = self:parse_expression(options.no_cond)
    end
    if not self:at(",") then break end
    is_tuple = true
  end
  if not is_tuple then
    if items[1] then return items[1] end
    if not options.parentheses then
      self:fail(self.token[3], "Expected an expression, got '%s'", self:describe(self.token))
    end
  end
  return {t = "Tuple", items = items, line = line}
end

function M:parse_list()
  local line, items = self:expect("[")[3], {}
  while not self:at("]") do
    if #items > 0 then self:expect(",") end
    if self:at("]") then break end
    items[#items + 1] = self:parse_expression()
  end
  self:expect("]")
  return {t = "List", items = items, line = line}
end

function M:parse_dict()
  local line, items = self:expect("{")[3], {}
  while not self:at("}") do
    if #items > 0 then self:expect(",") end
    if self:at("}") then break end
    local key = self:parse_expression()
    self:expect(":")
    items[#items + 1] = {t = "Pair", key = key, value = self:parse_expression(), line = key.line}
  end
  self:expect("}")
  return {t = "Dict", items = items, line = line}
end

-- What stands behind a node, link by link, as long as `link` finds one.
local function parse_chain(self, node, link)
  local count, longer = 0, link(self, node)
  while longer do
    count = count + 1
    self:check_chain(count)
    node, longer = longer, link(self, longer)
  end
  return node
end

local function postfix(self, node)
  if self:at(".") or self:at("[") then return self:parse_subscript(node) end
  return self:at("(") and self:parse_call(node)
end

local function filter_or_test(self, node)
  if self:at("|") then return self:parse_filter(node) end
  if self:at("name", "is") then return self:parse_test(node) end
  return self:at("(") and self:parse_call(node)
end

function M:parse_postfix(node) return parse_chain(self, node, postfix) end
function M:parse_filter_expr(node) return parse_chain(self, node, filter_or_test) end

function M:parse_subscript(node)
  local token = self:next()
  if token[1] == "." then
    local name = self:next()
    if name[1] == "name" then return {t = "Getattr", node = node, attr = name[2], line = token[3]} end
    if name[1] ~= "integer" then self:fail(name[3], "expected name or number") end
    return {t = "Getitem", node = node, arg = {t = "Const", value = name[2], line = name[3]}, line = token[3]}
  end
  local args = {}
  while not self:at("]") do
    if #args > 0 then self:expect(",") end
    args[#args + 1] = self:parse_subscribed()
  end
  self:expect("]")
  local arg = #args == 1 and args[1] or {t = "Tuple", items = args, line = token[3]}
  return {t = "Getitem", node = node, arg = arg, line = token[3]}
end

-- An index or a slice.
function M:parse_subscribed()
  local slice = {t = "Slice", line = self.token[3]}
  if not self:at(":") then
    local node = self:parse_expression()
    if not self:at(":") then return node end
    slice.start = node
  end
  self:expect(":")
  if not (self:at(":") or self:at("]") or self:at(",")) then slice.stop = self:parse_expression() end
  if self:skip_if(":") and not (self:at("]") or self:at(",")) then slice.step = self:parse_expression() end
  return slice
end

---Fills args, kwargs, dyn_args and dyn_kwargs of a node from "(a, b=1, *c, **d)".
function M:parse_call_args(node)
  local line = self:expect("(")[3]
  local function ensure(ok)
    if not ok then self:fail(line, "invalid syntax for function call expression") end
  end
  node.args, node.kwargs = {}, {}
  local first = true
  while not self:at(")") do
    if not first then
      self:expect(",")
      if self:at(")") then break end
    end
    first = false
    if self:skip_if("*") then
      ensure(not node.dyn_args and not node.dyn_kwargs)
      node.dyn_args = self:parse_expression()
    elseif self:skip_if("**") then
      ensure(not node.dyn_kwargs)
      node.dyn_kwargs = self:parse_expression()
    elseif self:at("name") and self:look()[1] == "=" then
      ensure(not node.dyn_kwargs)
      local key = self:next()
      self:next()
      node.kwargs[#node.kwargs + 1] = {t = "Keyword", key = key[2], value = self:parse_expression(), line = key[3]}
    else
      ensure(not node.dyn_args and not node.dyn_kwargs and #node.kwargs == 0)
      node.args[#node.args + 1] = self:parse_expression()
    end
  end
  self:expect(")")
  return node
end

function M:parse_call(node)
  return self:parse_call_args {t = "Call", node = node, line = self.token[3]}
end

-- A dotted name of a filter or a test.
function M:parse_dotted()
  local name = self:expect("name")[2]
  while self:skip_if(".") do name = name .. "." .. self:expect("name")[2] end
  return name
end

---Filters applied to `node`; nil stands for the text of a block. `inline`: the first one comes without a bar.
function M:parse_filter(node, inline)
  local count = 0
  while inline or self:at("|") do
    if not inline then self:next() end
    inline = false
    count = count + 1
    self:check_chain(count)
    local filter = {t = "Filter", node = node, args = {}, kwargs = {}, line = self.token[3]}
    filter.name = self:parse_dotted()
    if self:at("(") then self:parse_call_args(filter) end
    node = filter
  end
  return node
end

local ARGUMENT = {name = true, string = true, integer = true, float = true, ["["] = true, ["{"] = true}
local NOT_ARGUMENT = {["else"] = true, ["or"] = true, ["and"] = true}

function M:parse_test(node)
  local line = self:next()[3]
  local negated = self:skip_if("name", "not")
  local test = {t = "Test", node = node, args = {}, kwargs = {}, line = line}
  test.name = self:parse_dotted()
  local token = self.token
  if token[1] == "(" then
    self:parse_call_args(test)
  elseif ARGUMENT[token[1]] and not (token[1] == "name" and NOT_ARGUMENT[token[2]]) then
    if self:at("name", "is") then self:fail(token[3], "You cannot chain multiple tests with is") end
    self:enter()
    test.args[1] = self:parse_postfix(self:parse_primary())
    self:leave()
  end
  if negated then return {t = "Unary", op = "not", node = test, line = line} end
  return test
end

return M
