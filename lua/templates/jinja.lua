---The template language of chat templates: Jinja as transformers' apply_chat_template runs it (trim_blocks,
---lstrip_blocks, break and continue, {% generation %}, an immutable sandbox), with Python's semantics of values.
---
---Templates come from strangers. They are read into Lua closures, never through `load`; they see copies of the
---context's values and the functions listed in jinja/globals.lua, and nothing else. Work, text and nesting are counted,
---so that any template ends soon, whatever it says.
---
---    local template = assert(jinja.compile(source))
---    local text = assert(template:render({messages = messages, add_generation_prompt = true}))
---
---Errors are returned as nil, message, code. Codes: "corrupt" (syntax; the message starts with "line N: "),
---"unsupported" (an unknown filter or test, include, import, extends), "limit" (a bound was met), "usage" (the
---template's own raise_exception, whose words are the whole message; a context that cannot be given to a template; an
---unknown option), "mismatch" (the template failed on its data: an undefined value, a wrong type; "line N: ...").
local base = require "moonlet.templates.jinja.base"
local context = require "moonlet.templates.jinja.context"
local globals = require "moonlet.templates.jinja.globals".globals
local parser = require "moonlet.templates.jinja.parser"
local run = require "moonlet.templates.jinja.run"
local values = require "moonlet.templates.jinja.text"

local M = {}

---Longest template in bytes.
M.MAX_SOURCE = 1 << 19
---Steps that a rendering may take unless told otherwise: operators, calls, loop turns, bytes looked at by dozens.
M.MAX_STEPS = 300000
---Bytes of text and tables that a rendering may make unless told otherwise, beside BYTES_PER_INPUT for each byte of the
---context (templates that gather text message by message make many times what they are given).
M.MAX_BYTES = 1 << 23
M.BYTES_PER_INPUT = 32
M.STEPS_PER_INPUT = 4

---What stands for Python's None in a context, beside nil: json.null, and without the library a value of its own.
local has_core, core = pcall(require, "moonlet.core")
M.null = has_core and core.json.null
  or setmetatable({}, {__name = "moonlet.jinja.null", __tostring = function() return "null" end})

-- Runs fn; turns what it raises into nil, message, code.
local function guarded(where, fn, ...)
  local results = table.pack(pcall(fn, ...))
  if results[1] then return table.unpack(results, 2, results.n) end
  local err = results[2]
  if type(err) == "table" and err.jinja then
    local message = err.message
    if where and where.line and err.code ~= "usage" then message = ("line %d: %s"):format(where.line, message) end
    return nil, message, err.code
  end
  err = tostring(err)
  if err:find("not enough memory", 1, true) then return nil, "not enough memory for the template", "memory" end
  if err:find("stack overflow", 1, true) then return nil, "the template nests too deeply", "limit" end
  return nil, "the template engine failed: " .. err, "unsupported"
end

---@class moonlet.RenderOptions
---@field now string|number|nil  what strftime_now shows: ISO 8601 (its fields as written) or seconds since the epoch
---@field max_steps integer?
---@field max_bytes integer?
---@field track nil|fun(path: table, s: string): boolean  whether the context's string at a path is data
---@field generation boolean?  tell where {% generation %} stood

---@class moonlet.Template
---@field source string
---@field private program function
local Template = {}
Template.__index = Template
Template.__name = "moonlet.Template"

local OPTIONS = {now = true, max_steps = true, max_bytes = true, track = true, generation = true}

local function positive(options, name)
  local n = options[name]
  if n ~= nil and (type(n) ~= "number" or n ~= n or n <= 0) then
    base.raise("usage", "%s: expected a positive number, found %s", name,
      math.type(n) == "float" and values.float(n) or tostring(n))
  end
  return n
end

-- Marks of one kind as a list of {first, last}, joined where they touch.
local function spans(marks, kind)
  local list = {}
  for i = 1, marks and #marks or 0, 3 do
    if marks[i + 2] == kind then
      local last = list[#list]
      if last and marks[i] <= last[2] + 1 then
        last[2] = math.max(last[2], marks[i + 1])
      else
        list[#list + 1] = {marks[i], marks[i + 1]}
      end
    end
  end
  return list
end

local function render(self, rt, vars, options)
  for name in pairs(options) do
    if not OPTIONS[name] then base.raise("usage", "render: unknown option '%s'", tostring(name)) end
  end
  local max_steps, max_bytes = positive(options, "max_steps"), positive(options, "max_bytes")
  local size
  rt.context, size = context.import(vars, M.null, options.track)
  rt.max_steps = max_steps or M.MAX_STEPS + M.STEPS_PER_INPUT * size
  rt.max_bytes = max_bytes or M.MAX_BYTES + M.BYTES_PER_INPUT * size
  rt.steps, rt.bytes = rt.max_steps, rt.max_bytes
  rt.now, rt.generation = options.now, options.generation
  rt.line = 1
  local text, marks = self.program(rt)
  return text, {data = spans(marks, "data"), generation = spans(marks, "generation")}
end

---Renders the template. The second result tells where text came from, as lists of byte ranges {first, last}: `data`
---(with the option `track`) and `generation` (with the option `generation`: text inside {% generation %}).
---@param vars table  names to values: Lua's own, `null`, and tables: with the metatable name "moonlet.json.array" or
---  "moonlet.json.object" (walked by `pairs`) or unmarked (a sequence or empty: a list; text keys: a dict in their
---  order)
---@param options moonlet.RenderOptions?
---@return string? text
---@return table|string info  or the message of the failure
---@return string? code
function Template:render(vars, options)
  local rt = {vars = {}, globals = globals, depth = 0}
  return guarded(rt, render, self, rt, vars or {}, options or {})
end

---A template ready to be rendered; nil, message, code where the source is none.
---@param source string  a template, UTF-8
---@return moonlet.Template? template
---@return string? message
---@return string? code
function M.compile(source)
  if type(source) ~= "string" then return nil, "a template is a string, not a " .. type(source), "usage" end
  if #source > M.MAX_SOURCE then
    return nil, ("the template has %d bytes, more than %d"):format(#source, M.MAX_SOURCE), "limit"
  end
  if not utf8.len(source) then return nil, "the template is not UTF-8", "corrupt" end
  local program, message, code = guarded(nil, function() return run.compile(parser.parse(source)) end)
  if not program then return nil, message, code end
  return setmetatable({source = source, program = program}, Template)
end

return M
