---Tokens to a syntax tree: statements. Expressions are in expr.lua.
---
---A node is a table with its type in `t`, its line, and the fields that `FIELDS` lists in the order in which names are
---looked for. Names carry `ctx`: "load", "store" or "param".
local base = require "moonlet.templates.jinja.base"
local lexer = require "moonlet.templates.jinja.lexer"
local expr = require "moonlet.templates.jinja.expr"

local M = {}

M.MAX_NESTING = 100 -- tags within tags, and parentheses within parentheses
M.MAX_TOKENS = 50000

-- Fields of a node that hold nodes or lists of nodes.
local FIELDS = {
  Template = {"body"}, Output = {"nodes"}, Data = {}, Const = {}, Name = {}, NSRef = {},
  For = {"target", "iter", "body", "else_", "test"}, If = {"test", "body", "elif_", "else_"},
  Macro = {"args", "defaults", "body"}, CallBlock = {"call", "args", "defaults", "body"},
  FilterBlock = {"body", "filter"}, With = {"targets", "values", "body"}, Block = {"body"},
  Scope = {"body"}, Assign = {"target", "node"}, AssignBlock = {"target", "filter", "body"},
  Generation = {"args", "defaults", "body"}, Break = {}, Continue = {}, Loader = {"template"},
  Tuple = {"items"}, List = {"items"}, Dict = {"items"}, Pair = {"key", "value"},
  Keyword = {"value"}, CondExpr = {"test", "expr1", "expr2"},
  Filter = {"node", "args", "kwargs", "dyn_args", "dyn_kwargs"},
  Test = {"node", "args", "kwargs", "dyn_args", "dyn_kwargs"},
  Call = {"node", "args", "kwargs", "dyn_args", "dyn_kwargs"},
  Getattr = {"node"}, Getitem = {"node", "arg"}, Slice = {"start", "stop", "step"}, Concat = {"nodes"},
  Compare = {"expr", "ops"}, Operand = {"expr"}, Binary = {"left", "right"}, Unary = {"node"},
}

---Calls `visit(child)` for each node right below `node`.
function M.each_child(node, visit)
  for _, field in ipairs(FIELDS[node.t]) do
    local value = node[field]
    if value and value.t then
      visit(value)
    elseif value then
      for _, child in ipairs(value) do visit(child) end
    end
  end
end

local Parser = setmetatable({}, {__index = expr})
Parser.__index = Parser

function Parser.fail(_, line, message, ...)
  if select("#", ...) > 0 then message = message:format(...) end
  base.raise("corrupt", "line %d: %s", line, message)
end

-- Moves on; gives the token that was current.
function Parser:next()
  local token = self.token
  self.token = self.ahead or self.lexer:next()
  self.ahead = nil
  self.tokens = self.tokens + 1
  if self.tokens > M.MAX_TOKENS then
    base.raise("limit", "the template has more than %d tokens", M.MAX_TOKENS)
  end
  return token
end

function Parser:look()
  if not self.ahead then self.ahead = self.lexer:next() end
  return self.ahead
end

---Whether the current token is of a type, or is the name given second.
function Parser:at(kind, name)
  local token = self.token
  return token[1] == kind and (name == nil or token[2] == name)
end

function Parser:skip_if(kind, name)
  if not self:at(kind, name) then return false end
  self:next()
  return true
end

local DESCRIBED = {block_begin = "begin of statement block", block_end = "end of statement block",
  variable_begin = "begin of print statement", variable_end = "end of print statement",
  data = "template data / text", eof = "end of template"}

function Parser.describe(_, token)
  if token[1] == "name" then return token[2] end
  return DESCRIBED[token[1]] or token[1]
end

function Parser:expect(kind, name)
  if not self:at(kind, name) then
    local wanted = name or DESCRIBED[kind] or kind
    if self.token[1] == "eof" then
      self:fail(self.token[3], "unexpected end of template, expected '%s'.", wanted)
    end
    self:fail(self.token[3], "expected token '%s', got '%s'", wanted, self:describe(self.token))
  end
  return self:next()
end

function Parser:enter()
  self.depth = self.depth + 1
  if self.depth > M.MAX_NESTING then
    base.raise("limit", "line %d: nested more than %d deep", self.token[3], M.MAX_NESTING)
  end
end

function Parser:leave()
  self.depth = self.depth - 1
end

local function quoted(names)
  local out = {}
  for i, name in ipairs(names) do out[i] = "'" .. name .. "'" end
  return table.concat(out, " or ")
end

-- An end tag that nobody waits for, an unknown tag, or (name nil) the end of the template inside a block.
function Parser:fail_tag(name, line)
  local ends = self.ends[#self.ends]
  local message = {name and ("Encountered unknown tag '%s'."):format(name) or "Unexpected end of template."}
  if ends then
    local nested = false
    for _, names in ipairs(self.ends) do
      for _, each in ipairs(names) do nested = nested or each == name end
    end
    message[#message + 1] = (nested and "You probably made a nesting mistake. Jinja is expecting this tag, but"
      .. " currently looking for %s." or "Jinja was looking for the following tags: %s."):format(quoted(ends))
  end
  if #self.tags > 0 then
    message[#message + 1] = ("The innermost block that needs to be closed is '%s'."):format(self.tags[#self.tags])
  end
  self:fail(line, "%s", table.concat(message, " "))
end

---Statements up to one of the end tags `ends`, whose name becomes the current token; without `ends`, to the end.
function Parser:subparse(ends)
  local body, output = {}, nil
  self:enter()
  if ends then self.ends[#self.ends + 1] = ends end
  local function add(node)
    if not output then
      output = {t = "Output", nodes = {}, line = node.line}
      body[#body + 1] = output
    end
    output.nodes[#output.nodes + 1] = node
  end
  while not self:at("eof") do
    local token = self.token
    if token[1] == "data" then
      if token[2] ~= "" then add {t = "Data", data = token[2], line = token[3]} end
      self:next()
    elseif token[1] == "variable_begin" then
      self:next()
      add(self:parse_tuple())
      self:expect("variable_end")
    else
      output = nil
      self:expect("block_begin")
      if ends and self:at_any(ends) then break end
      body[#body + 1] = self:parse_statement()
      self:expect("block_end")
    end
  end
  if ends then table.remove(self.ends) end
  self:leave()
  return body
end

function Parser:at_any(names)
  for _, name in ipairs(names) do
    if self:at("name", name) then return true end
  end
  return false
end

---The body of a block; ends at one of the names, which is consumed when `drop` is set.
function Parser:parse_body(ends, drop)
  self:skip_if(":")
  self:expect("block_end")
  local body = self:subparse(ends)
  if self:at("eof") then
    self.ends[#self.ends + 1] = ends
    self:fail_tag(nil, self.token[3])
  end
  if drop then self:next() end
  return body
end

local STATEMENTS = {}

function Parser:parse_statement()
  local token = self.token
  if token[1] ~= "name" then self:fail(token[3], "tag name expected") end
  local parse = STATEMENTS[token[2]]
  if not parse then self:fail_tag(token[2], token[3]) end
  self.tags[#self.tags + 1] = token[2]
  self:next()
  local node = parse(self, token[3], token[2])
  table.remove(self.tags)
  return node
end

local ASSIGNABLE = {Name = true, NSRef = true}

local function can_assign(node)
  if node.t ~= "Tuple" then return ASSIGNABLE[node.t] == true end
  for _, item in ipairs(node.items) do
    if not can_assign(item) then return false end
  end
  return true
end

local function set_store(node)
  if node.t == "Name" then
    node.ctx = "store"
  elseif node.t == "Tuple" then
    for _, item in ipairs(node.items) do set_store(item) end
  end
end

---@param with_namespace boolean?  `a.b` may be a target
function Parser:parse_target(with_namespace)
  local target = self:parse_tuple {simplified = true, namespace = with_namespace}
  if not can_assign(target) then
    local kind = (target.t == "Binary" or target.t == "Unary") and target.op or target.t:lower()
    self:fail(target.line, "can't assign to '%s'", kind)
  end
  set_store(target)
  return target
end

function Parser:parse_name_target()
  local token = self:expect("name")
  return {t = "Name", name = token[2], ctx = "store", line = token[3]}
end

STATEMENTS["for"] = function(self, line)
  local target = self:parse_target()
  self:expect("name", "in")
  local iter = self:parse_tuple {no_cond = true}
  local test = self:skip_if("name", "if") and self:parse_expression() or nil
  local recursive = self:skip_if("name", "recursive")
  local body = self:parse_body({"endfor", "else"})
  local else_ = {}
  if self:next()[2] == "else" then else_ = self:parse_body({"endfor"}, true) end
  return {t = "For", target = target, iter = iter, test = test, recursive = recursive, body = body, else_ = else_,
    line = line}
end

STATEMENTS["if"] = function(self, line)
  local root = {t = "If", elif_ = {}, else_ = {}, line = line}
  local node = root
  while true do
    node.test = self:parse_tuple {no_cond = true}
    node.body = self:parse_body({"elif", "else", "endif"})
    local token = self:next()
    if token[2] == "elif" then
      node = {t = "If", elif_ = {}, else_ = {}, line = token[3]}
      root.elif_[#root.elif_ + 1] = node
    else
      if token[2] == "else" then root.else_ = self:parse_body({"endif"}, true) end
      return root
    end
  end
end

STATEMENTS["set"] = function(self, line)
  local target = self:parse_target(true)
  if self:skip_if("=") then
    return {t = "Assign", target = target, node = self:parse_tuple(), line = line}
  end
  local filter = self:parse_filter(nil)
  return {t = "AssignBlock", target = target, filter = filter, body = self:parse_body({"endset"}, true), line = line}
end

STATEMENTS["with"] = function(self, line)
  local targets, values = {}, {}
  while not self:at("block_end") do
    if #targets > 0 then self:expect(",") end
    local target = self:parse_target()
    M.set_param(target)
    targets[#targets + 1] = target
    self:expect("=")
    values[#values + 1] = self:parse_expression()
  end
  return {t = "With", targets = targets, values = values, body = self:parse_body({"endwith"}, true), line = line}
end

---Marks the names of a target as parameters.
function M.set_param(node)
  if node.t == "Name" then
    node.ctx = "param"
  elseif node.t == "Tuple" then
    for _, item in ipairs(node.items) do M.set_param(item) end
  end
end

-- "(a, b=1)" of a macro or a call block.
function Parser:parse_signature(node)
  node.args, node.defaults = {}, {}
  self:expect("(")
  while not self:at(")") do
    if #node.args > 0 then self:expect(",") end
    local arg = self:parse_name_target()
    arg.ctx = "param"
    if self:skip_if("=") then
      node.defaults[#node.defaults + 1] = self:parse_expression()
    elseif #node.defaults > 0 then
      self:fail(self.token[3], "non-default argument follows default argument")
    end
    node.args[#node.args + 1] = arg
  end
  self:expect(")")
end

STATEMENTS["macro"] = function(self, line)
  local node = {t = "Macro", name = self:parse_name_target().name, line = line}
  self:parse_signature(node)
  node.body = self:parse_body({"endmacro"}, true)
  return node
end

STATEMENTS["call"] = function(self, line)
  local node = {t = "CallBlock", args = {}, defaults = {}, line = line}
  if self:at("(") then self:parse_signature(node) end
  node.call = self:parse_expression()
  if node.call.t ~= "Call" then self:fail(line, "expected call") end
  node.body = self:parse_body({"endcall"}, true)
  return node
end

STATEMENTS["filter"] = function(self, line)
  local filter = self:parse_filter(nil, true)
  return {t = "FilterBlock", filter = filter, body = self:parse_body({"endfilter"}, true), line = line}
end

STATEMENTS["generation"] = function(self, line)
  return {t = "Generation", args = {}, defaults = {}, body = self:parse_body({"endgeneration"}, true), line = line}
end

STATEMENTS["print"] = function(self, line)
  local node = {t = "Output", nodes = {}, line = line}
  while not self:at("block_end") do
    if #node.nodes > 0 then self:expect(",") end
    node.nodes[#node.nodes + 1] = self:parse_expression()
  end
  return node
end

STATEMENTS["autoescape"] = function(self, line)
  local flag = self:parse_expression()
  if flag.t ~= "Const" or flag.value ~= false then
    base.raise("unsupported", "line %d: escaping (autoescape) is not supported", line)
  end
  return {t = "Scope", body = self:parse_body({"endautoescape"}, true), line = line}
end

STATEMENTS["block"] = function(self, line)
  local name = self:expect("name")[2]
  if self.blocks[name] then self:fail(line, "block '%s' defined twice", name) end
  self.blocks[name] = true
  local scoped = self:skip_if("name", "scoped")
  self:skip_if("name", "required")
  if self:at("-") then
    self:fail(line, "Block names in Jinja have to be valid Python identifiers and may not contain hyphens, use an"
      .. " underscore instead.")
  end
  local body = self:parse_body({"endblock"}, true)
  self:skip_if("name", name)
  return {t = "Block", name = name, scoped = scoped, body = body, line = line}
end

STATEMENTS["break"] = function(_, line) return {t = "Break", line = line} end
STATEMENTS["continue"] = function(_, line) return {t = "Continue", line = line} end

-- Tags that read other templates: there is none to read, so they fail by name when they are reached.
local function loader(self, line, tag)
  local node = {t = "Loader", tag = tag, template = self:parse_expression(), line = line}
  while not self:at("block_end") and not self:at("eof") do self:next() end
  return node
end
for _, tag in ipairs {"include", "import", "from", "extends"} do STATEMENTS[tag] = loader end

---@param source string  a template, UTF-8
---@return table  the Template node; raises an error of base.lua where the source is wrong
function M.parse(source)
  local self = setmetatable({lexer = lexer.open(source), depth = 0, tokens = 0, ends = {}, tags = {}, blocks = {}},
    Parser)
  self:next()
  return {t = "Template", body = self:subparse(nil), line = 1}
end

return M
