-- mutate.lua: C text with one token changed: each comparison, connective, sign, constant, negation, condition.
--
-- What asks whether memory was had is left alone: where it is refused no value comes of it, and C tests refuse each
-- allocation in turn.
local M = {}

local OPERATORS = {"<<=", ">>=", "...", "->", "++", "--", "<<", ">>", "<=", ">=", "==", "!=", "&&", "||", "+=", "-=",
  "*=", "/=", "%=", "&=", "|=", "^="}

-- ---- tokens ----

local function skip_quoted(text, at)
  local quote = text:sub(at, at)
  at = at + 1
  while text:sub(at, at) ~= quote do at = at + (text:sub(at, at) == "\\" and 2 or 1) end
  return at + 1
end

local function operator_at(text, at)
  for _, op in ipairs(OPERATORS) do
    if text:sub(at, at + #op - 1) == op then return op end
  end
  return text:sub(at, at)
end

---Tokens {text, at, kind}: comments, white space, strings and preprocessor lines are none.
function M.tokens(text)
  local list, at = {}, 1
  local function add(kind, word)
    list[#list + 1] = {text = word, at = at, kind = kind}
    at = at + #word
  end
  while at <= #text do
    local c = text:sub(at, at)
    if text:find("^%s", at) then at = text:find("%S", at) or #text + 1
    elseif text:find("^/%*", at) then at = select(2, text:find("*/", at, true)) + 1
    elseif text:find("^//", at) then at = text:find("\n", at, true) or #text + 1
    elseif c == "#" then
      local last = text:find("[^\\]\n", at)
      at = last and last + 2 or #text + 1
    elseif c == '"' or c == "'" then at = skip_quoted(text, at)
    elseif text:find("^[%a_]", at) then add("name", text:match("^[%w_]+", at))
    elseif text:find("^%d", at) then add("number", text:match("^[%w_.]+", at))
    else add("operator", operator_at(text, at)) end
  end
  return list
end

-- ---- changes ----

local swaps = {["<"] = {"<=", ">="}, ["<="] = {"<", ">"}, [">"] = {">=", "<="}, [">="] = {">", "<"}, ["=="] = {"!="},
  ["!="] = {"=="}, ["&&"] = {"||"}, ["||"] = {"&&"}, ["+="] = {"-="}, ["-="] = {"+="}, ["true"] = {"false"},
  ["false"] = {"true"}}
local opening = {["("] = 1, ["["] = 1, ["{"] = 1, [")"] = -1, ["]"] = -1, ["}"] = -1}
local ends = {["&&"] = true, ["||"] = true, ["?"] = true, [":"] = true, [";"] = true, [","] = true, ["="] = true,
  ["return"] = true, ["&="] = true, ["|="] = true}

-- The tokens of the operand that begins at token i, in steps of `by`: the last one.
local function operand_end(tokens, i, by)
  local depth = 0
  while tokens[i] do
    local word = tokens[i].text
    local step = (opening[word] or 0) * by
    if depth == 0 and (step < 0 or ends[word]) then return i - by end
    depth = depth + step
    i = i + by
  end
  return i - by
end

local function is_operand_end(token)
  return token and (token.kind ~= "operator" and token.text ~= "return" or token.text == ")" or token.text == "]")
end

---All changes of a text: {at, length, old, new, line, code, nth}: `nth` of equal ones in a line, `code` the line.
function M.changes(text)
  local tokens, list = M.tokens(text), {}
  local function change(from, to, new)
    local at, last = tokens[from].at, tokens[to].at + #tokens[to].text - 1
    list[#list + 1] = {at = at, length = last - at + 1, old = text:sub(at, last):gsub("%s+", " "), new = new}
  end
  for i, token in ipairs(tokens) do
    local word, before, after = token.text, tokens[i - 1], tokens[i + 1]
    for _, new in ipairs(swaps[word] or {}) do change(i, i, new) end
    if (word == "+" or word == "-") and is_operand_end(before) then change(i, i, word == "+" and "-" or "+") end
    if token.kind == "number" and math.tointeger(tonumber(word)) then
      change(i, i, ("%d"):format(tonumber(word) + 1))
      if tonumber(word) > 0 then change(i, i, ("%d"):format(tonumber(word) - 1)) end
    end
    if word == "!" then change(i, i, "") end
    if (word == "continue" or word == "break") and after.text == ";" then change(i, i, "") end
    if word == "if" then
      local last = operand_end(tokens, i + 2, 1)
      change(i + 2, last, "1")
      change(i + 2, last, "0")
    end
    if word == "&&" or word == "||" then
      local neutral = word == "&&" and "1" or "0"
      change(operand_end(tokens, i - 1, -1), i - 1, neutral)
      change(i + 1, operand_end(tokens, i + 1, 1), neutral)
    end
  end
  return list
end

-- Where lines begin.
local function line_starts(text)
  local starts = {1}
  for at in text:gmatch "\n()" do starts[#starts + 1] = at end
  return starts
end

---The mutants of a file, in order: `changes` with where they are, without those that come twice.
function M.mutants(path, text)
  local starts, list, seen, line = line_starts(text), {}, {}, 1
  local changes = M.changes(text)
  table.sort(changes, function(a, b)
    if a.at ~= b.at then return a.at < b.at end
    if a.length ~= b.length then return a.length < b.length end
    return a.new < b.new
  end)
  for _, c in ipairs(changes) do
    while starts[line + 1] and starts[line + 1] <= c.at do line = line + 1 end
    local code = text:sub(starts[line], (starts[line + 1] or #text + 2) - 2):match "^%s*(.-)%s*$"
    local key = ("%d:%d:%s"):format(c.at, c.length, c.new)
    if not seen[key] and not code:find "ML_MEMORY" and c.old ~= c.new then
      seen[key] = true
      local same = ("%d:%s:%s"):format(line, c.old, c.new)
      seen[same] = (seen[same] or 0) + 1
      c.path, c.line, c.code, c.nth = path, line, code, seen[same]
      list[#list + 1] = c
    end
  end
  return list
end

---The text with a change made.
function M.apply(text, c) return text:sub(1, c.at - 1) .. " " .. c.new .. " " .. text:sub(c.at + c.length) end

return M
