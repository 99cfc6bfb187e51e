---What is typed or pasted, cut into inputs: each is what the REPL runs, and shows the value of, by itself.
---
---Lines may carry the prompts of a session that they were copied from: `> ` before the first line of an input, `>> `
---before the others. What such a session had printed stands between them without a prompt and is left out.
local M = {}

-- Whether more lines could mend what the compiler complains of. A quoted string goes on only if its line ends in \.
local function unfinished(message, text)
  if message:find "unfinished string near <eof>$" then return text:find "\\z?%s*$" ~= nil end
  return message:find "<eof>$" ~= nil
end

-- A variable to be closed makes the last call no tail call, so that errors inside it find their line here.
local AS_EXPRESSION = "local _repl_ <close> = nil return "

local function as_expression(text) return load(AS_EXPRESSION .. text:gsub("^%s*=", ""), "=(repl)") end

---Turns input into a function.
---@param text string
---@return function? chunk  nil when the text is unfinished or wrong
---@return string? message  what is wrong; nil when more lines are needed
function M.compile(text)
  local expression, why_not = as_expression(text)
  if expression then return expression end
  local chunk, message = load(text, "=(repl)")
  if chunk then return chunk end
  if unfinished(message, text) or unfinished(why_not, text) then return nil end
  if text:find "^%s*=" then message = why_not end
  return nil, message
end

---The line without the prompt in front of it, and whether there was one. Where an input begins, no Lua begins with `>`.
---@param line string
---@return string line
---@return boolean had
function M.without_prompt(line)
  local rest = line:match "^%s*>+ ?(.*)$"
  return rest or line, rest ~= nil
end

---The line that goes on with `text`. One that went on behind a prompt has one of its own; elsewhere `>` may be an
---operator, and is a prompt only where it makes no sense as one.
---@param text string  the input so far
---@param line string
---@param prompted boolean  whether the input began behind a prompt
---@return string text  with the line
function M.add(text, line, prompted)
  local bare, had = M.without_prompt(line)
  local whole = text .. "\n" .. line
  if not had then return whole end
  if prompted then return text .. "\n" .. bare end
  local chunk, message = M.compile(whole)
  if not chunk and message then return text .. "\n" .. bare end
  return whole
end

-- Whether a finished input goes on in the next line all the same: that makes no beginning (`:method()`, `+ 1`), and the
-- two together do.
local function goes_on(text, line)
  local alone, wrong = M.compile(line)
  if alone or not wrong then return false end
  local chunk, message = M.compile(text .. "\n" .. line)
  return chunk ~= nil or message == nil
end

---@param text string
---@return string[]
function M.lines(text)
  local lines = {}
  for line in (text .. "\n"):gmatch "(.-)\r?\n" do lines[#lines + 1] = line end
  return lines
end

-- Whether these lines are a copy of a session: one begins with a prompt, and nothing before it makes sense by itself.
local function is_session(lines)
  for _, line in ipairs(lines) do
    if select(2, M.without_prompt(line)) then return true end
    local chunk, message = M.compile(line)
    if chunk or not message then return false end
  end
  return false
end

-- The input that begins with line `at`, and the line behind it.
local function take_input(lines, at)
  local text, prompted = M.without_prompt(lines[at])
  local chunk, message = M.compile(text)
  at = at + 1
  while at <= #lines and not message do
    local next_prompted = select(2, M.without_prompt(lines[at]))
    if chunk and (next_prompted or not goes_on(text, lines[at])) then break end
    text = M.add(text, lines[at], prompted)
    chunk, message = M.compile(text)
    at = at + 1
  end
  return text, at
end

---Cuts lines into inputs. The last may be unfinished.
---@param lines string[]
---@return string[]
function M.split(lines)
  local inputs, session, at = {}, is_session(lines), 1
  while at <= #lines do
    if session and not select(2, M.without_prompt(lines[at])) then
      at = at + 1 -- printed by that session
    else
      local text
      text, at = take_input(lines, at)
      if text:find "%S" then inputs[#inputs + 1] = text end
    end
  end
  return inputs
end

-- One chunk of inputs that share their local variables; `_repl_` shows the values of those that are expressions.
local function merge(inputs, from)
  local parts = {"local _repl_ = ... "}
  for i = from, #inputs do
    local text = inputs[i]
    -- The newline behind an expression ends a comment in it, and is the one that would follow it.
    if as_expression(text) and text:find "%S" then
      parts[#parts + 1] = "_repl_(" .. text:gsub("^%s*=", "") .. "\n); "
    else
      parts[#parts + 1] = text .. "\n"
    end
  end
  return load(table.concat(parts), "=(repl)")
end

---Inputs as they are to run: from the first on that declares a local variable, those behind it are one, so that they
---see it.
---@param inputs string[]
---@return table[]  {text}, or {text, chunk, merged = true}, whose chunk takes the function that shows values
function M.plan(inputs)
  local plan = {}
  for i, text in ipairs(inputs) do
    local merged = i < #inputs and text:find "^%s*local%s" and merge(inputs, i)
    if merged then
      plan[#plan + 1] = {text = table.concat(inputs, "\n", i), chunk = merged, merged = true}
      return plan
    end
    plan[#plan + 1] = {text = text}
  end
  return plan
end

return M
