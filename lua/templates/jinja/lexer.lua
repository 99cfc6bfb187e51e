---Template source to tokens, with the whitespace control of trim_blocks and lstrip_blocks.
---
---A token is {type, value, line}. Types are "data", "block_begin", "block_end", "variable_begin", "variable_end",
---"name", "string", "integer", "float", "eof", and each operator under its own spelling.
local base = require "moonlet.templates.jinja.base"
local quote = require("moonlet.templates.jinja.text").quote
local unicode = require "moonlet.templates.jinja.unicode"

local M = {}

local OPERATORS = {}
for op in ("+ - / // * % ** ~ [ ] ( ) { } == != > >= < <= = . : | , ;"):gmatch("%S+") do OPERATORS[op] = true end
local CLOSER = {["("] = ")", ["["] = "]", ["{"] = "}"}
local CLOSERS = {[")"] = true, ["]"] = true, ["}"] = true}
local ESCAPES = {["\n"] = "", ["\\"] = "\\", ["'"] = "'", ['"'] = '"', a = "\a", b = "\b", f = "\f", n = "\n",
  r = "\r", t = "\t", v = "\v"}

local Lexer = {}
Lexer.__index = Lexer

function Lexer:fail(message, ...)
  if select("#", ...) > 0 then message = message:format(...) end
  base.raise("corrupt", "line %d: %s", self.line, message)
end

-- Moves to `to`, counting the lines passed. `newline` is the first newline not yet counted.
function Lexer:advance(to)
  while self.newline < to do
    self.line = self.line + 1
    self.newline = self.source:find("\n", self.newline + 1, true) or math.huge
  end
  self.pos = to
end

-- The first position at or after `at` that does not hold white space.
local function skip_space(source, at)
  while true do
    at = source:find("[^ \t\n\r\f\v\x1c-\x1f]", at) or #source + 1
    local b = source:byte(at)
    if not b or b < 0x80 or not unicode.is_space(utf8.codepoint(source, at)) then return at end
    at = utf8.offset(source, 2, at)
  end
end

-- The last position of `text` that does not hold white space.
local function last_solid(text)
  local at = #text
  while at > 0 do
    local start = utf8.offset(text, 0, at)
    if not unicode.is_space(utf8.codepoint(text, start)) then return at end
    at = start - 1
  end
  return 0
end

-- Data before a tag, stripped as the tag's sign and lstrip_blocks ask.
function Lexer:strip_data(text, sign, is_variable)
  if sign == "-" then return text:sub(1, last_solid(text)) end
  if sign == "+" or is_variable then return text end
  local at = #text
  while at > 0 and text:byte(at) ~= 10 do at = at - 1 end
  if (at > 0 or self.line_starting) and #text > at and skip_space(text, at + 1) > #text then
    return text:sub(1, at)
  end
  return text
end

-- The position behind the end of a tag that begins at `at`, or nil. `mark` is "%}", "#}" or "}}".
local function tag_end(source, at, mark)
  local c = source:sub(at, at)
  if c == "-" then
    if source:sub(at + 1, at + 2) == mark then return skip_space(source, at + 3) end
  elseif c == "+" then
    if mark ~= "}}" and source:sub(at + 1, at + 2) == mark then return at + 3 end
  elseif source:sub(at, at + 1) == mark then
    if mark ~= "}}" and source:sub(at + 2, at + 2) == "\n" then return at + 3 end
    return at + 2
  end
  return nil
end

function Lexer:finish_tag(to)
  self.line_starting = self.source:sub(to - 1, to - 1) == "\n"
  self:advance(to)
end

-- Behind "{%" and its sign: the position after a whole raw tag, or nil.
local function raw_end(source, at)
  at = skip_space(source, at)
  if source:sub(at, at + 2) ~= "raw" then return nil end
  at = skip_space(source, at + 3)
  if source:sub(at, at + 2) == "-%}" then return skip_space(source, at + 3) end
  return source:sub(at, at + 1) == "%}" and at + 2 or nil
end

local function sign_at(source, at)
  local c = source:sub(at, at)
  return (c == "-" or c == "+") and c or ""
end

-- From behind a raw tag to behind its end; gives the text between.
function Lexer:lex_raw()
  local source, at = self.source, self.pos
  while true do
    at = source:find("{%", at, true)
    if not at then self:fail("Missing end of raw directive") end
    local sign = sign_at(source, at + 2)
    local name = skip_space(source, at + 2 + #sign)
    local after = source:sub(name, name + 5) == "endraw"
      and tag_end(source, skip_space(source, name + 6), "%}")
    if after then
      local text = self:strip_data(source:sub(self.pos, at - 1), sign, false)
      local line = self.line
      self:finish_tag(after)
      return text, line
    end
    at = at + 2
  end
end

function Lexer:skip_comment()
  local source, from, at = self.source, self.pos, self.pos
  while true do
    at = source:find("#}", at, true)
    if not at then self:fail("Missing end of comment tag") end
    local start = at > from and source:find("^[-+]", at - 1) and at - 1 or at
    local after = tag_end(source, start, "#}")
    if after then return self:finish_tag(after) end
    at = at + 1
  end
end

-- Data up to the next tag; leaves the lexer behind the tag's opening.
function Lexer:lex_data()
  local source = self.source
  while self.pos <= #source do
    local at = source:find("{[%%{#]", self.pos)
    local line = self.line
    if not at then
      local text = source:sub(self.pos)
      self:advance(#source + 1)
      return {"data", text, line}
    end
    local kind = source:sub(at + 1, at + 1)
    local sign = sign_at(source, at + 2)
    local text = self:strip_data(source:sub(self.pos, at - 1), sign, kind == "{")
    self:advance(at + 2 + #sign)
    local raw = kind == "%" and raw_end(source, self.pos)
    if raw then
      self:finish_tag(raw)
      local inside, raw_line = self:lex_raw()
      self.queued = {"data", inside, raw_line}
    elseif kind == "#" then
      self:skip_comment()
    else
      self.mode = kind == "%" and "%}" or "}}"
      self.queued = {kind == "%" and "block_begin" or "variable_begin", kind, self.line}
    end
    if text ~= "" then return {"data", text, line} end
    if self.queued then
      local token = self.queued
      self.queued = nil
      return token
    end
  end
  return {"eof", "", self.line}
end

-- The end of digits with single underscores between them, from `at` on; nil when there is no digit.
local function digits_end(source, at, class)
  local _, last = source:find("^" .. class .. "+", at)
  while last do
    local _, more = source:find("^_" .. class .. "+", last + 1)
    if not more then return last end
    last = more
  end
  return nil
end

-- The last byte of a float at `at`, or nil.
local function float_end(source, at)
  if source:sub(at - 1, at - 1) == "." then return nil end
  local last = digits_end(source, at, "%d")
  local fraction = last and source:sub(last + 1, last + 1) == "." and digits_end(source, last + 2, "%d")
  local mantissa = fraction or last
  if not mantissa then return nil end
  local _, exponent = source:find("^[eE][-+]?", mantissa + 1)
  local power = exponent and digits_end(source, exponent + 1, "%d")
  return power or fraction or nil
end

-- The last byte of an integer at `at`, and its base.
local function integer_end(source, at)
  local prefix = source:match("^0([bBoOxX])", at)
  if prefix then
    prefix = prefix:lower()
    local class = prefix == "b" and "[01]" or prefix == "o" and "[0-7]" or "%x"
    local start = source:sub(at + 2, at + 2) == "_" and at + 3 or at + 2
    local last = digits_end(source, start, class)
    if last then return last, prefix == "b" and 2 or prefix == "o" and 8 or 16 end
  end
  if source:find("^[1-9]", at) then return digits_end(source, at, "%d"), 10 end
  return digits_end(source, at, "0"), 10
end

function Lexer:lex_number()
  local source, at = self.source, self.pos
  local last = float_end(source, at)
  if last then
    local text = source:sub(at, last):gsub("_", "")
    return last, {"float", tonumber(text) + 0.0, self.line}
  end
  local base_of
  last, base_of = integer_end(source, at)
  local digits = source:sub(base_of == 10 and at or at + 2, last):gsub("_", "")
  local value = 0
  for digit in digits:gmatch("%x") do
    local d = tonumber(digit, 16)
    if value > (math.maxinteger - d) // base_of then
      base.raise("limit", "line %d: an integer literal beyond 64 bits", self.line)
    end
    value = value * base_of + d
  end
  return last, {"integer", value, self.line}
end

-- "\x", "\u", "\U": `count` hex digits behind `at`.
function Lexer:hex_escape(text, at, letter, count)
  local digits = text:match("^%x+", at) or ""
  if #digits < count then self:fail("truncated \\%s escape", letter .. ("X"):rep(count)) end
  local c = tonumber(digits:sub(1, count), 16)
  if c > 0x10ffff or (c >= 0xd800 and c <= 0xdfff) then self:fail("illegal Unicode character") end
  return utf8.char(c), at + count
end

-- Python spells a character beyond ASCII that follows a backslash as an escape of its own.
local function spelled(c)
  return (c < 0x100 and "x%02x" or c < 0x10000 and "u%04x" or "U%08x"):format(c)
end

-- Text of a string literal with its escapes resolved, as Python's unicode-escape does.
function Lexer:unescape(text)
  local out, at = {}, 1
  while true do
    local slash = text:find("\\", at, true)
    out[#out + 1] = text:sub(at, (slash or 0) - 1)
    if not slash then return table.concat(out) end
    local c = text:sub(slash + 1, slash + 1)
    at = slash + 2
    local octal = text:match("^[0-7][0-7]?[0-7]?", slash + 1)
    if ESCAPES[c] then
      out[#out + 1] = ESCAPES[c]
    elseif octal then
      out[#out + 1] = utf8.char(tonumber(octal, 8))
      at = slash + 1 + #octal
    elseif c == "x" or c == "u" or c == "U" then
      out[#out + 1], at = self:hex_escape(text, at, c, c == "x" and 2 or c == "u" and 4 or 8)
    elseif c == "N" then
      self:fail("character names in strings are not supported")
    elseif c:byte() >= 0x80 then
      out[#out + 1] = "\\" .. spelled(utf8.codepoint(text, slash + 1))
      at = utf8.offset(text, 2, slash + 1)
    else
      out[#out + 1] = "\\" .. c
    end
  end
end

-- The end of a string that opens at the current position, or nil when it never closes.
function Lexer:string_end()
  local source, at = self.source, self.pos
  local stop = "[\\" .. source:sub(at, at) .. "]"
  at = at + 1
  while true do
    at = source:find(stop, at)
    if not at then return nil end
    if source:byte(at) ~= 92 then return at end
    at = at + 2
  end
end

function Lexer:unexpected_char()
  local c = utf8.codepoint(self.source, self.pos)
  self:fail("unexpected char %s at %d", quote(utf8.char(c)), unicode.points_before(self.source, self.pos))
end

function Lexer:lex_operator()
  local source, at = self.source, self.pos
  local op = source:sub(at, at + 1)
  if not OPERATORS[op] then op = source:sub(at, at) end
  if not OPERATORS[op] then self:unexpected_char() end
  local stack = self.balance
  if CLOSER[op] then
    stack[#stack + 1] = CLOSER[op]
  elseif CLOSERS[op] then
    local expected = table.remove(stack)
    if not expected then self:fail("unexpected '%s'", op) end
    if expected ~= op then self:fail("unexpected '%s', expected '%s'", op, expected) end
  end
  return at + #op - 1, {op, op, self.line}
end

-- Names are word characters; Unicode's own spaces end them.
local function name_end(source, at)
  local last = at - 1
  while true do
    local _, ascii = source:find("^[A-Za-z0-9_]+", last + 1)
    last = ascii or last
    local b = source:byte(last + 1)
    if not b or b < 0x80 then return last end
    local c = utf8.codepoint(source, last + 1)
    if not (unicode.is("alpha", c) or unicode.is("numeric", c)) then return last end
    last = utf8.offset(source, 2, last + 1) - 1
  end
end

function Lexer:lex_tag()
  local source = self.source
  self:advance(skip_space(source, self.pos))
  if self.pos > #source then return {"eof", "", self.line} end
  local after = #self.balance == 0 and tag_end(source, self.pos, self.mode)
  if after then
    local token = {self.mode == "%}" and "block_end" or "variable_end", self.mode, self.line}
    self.mode = nil
    self:finish_tag(after)
    return token
  end
  local c = source:sub(self.pos, self.pos)
  local last, token
  if c:find("%d") then
    last, token = self:lex_number()
  elseif c == "'" or c == '"' then
    last = self:string_end()
    if not last then self:unexpected_char() end
    token = {"string", self:unescape(source:sub(self.pos + 1, last - 1)), self.line}
  else
    last = name_end(source, self.pos)
    if last >= self.pos then
      token = {"name", source:sub(self.pos, last), self.line}
    else
      last, token = self:lex_operator()
    end
  end
  self:advance(last + 1)
  return token
end

---The next token; after the last one, "eof" for ever.
function Lexer:next()
  local token = self.queued
  if token then
    self.queued = nil
    return token
  end
  if self.mode then return self:lex_tag() end
  return self:lex_data()
end

---@param source string  UTF-8
function M.open(source)
  source = source:gsub("\r\n?", "\n"):gsub("\n$", "")
  return setmetatable({source = source, pos = 1, line = 1, newline = source:find("\n", 1, true) or math.huge,
    line_starting = true, balance = {}}, Lexer)
end

return M
