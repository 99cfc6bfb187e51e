---The command line's grammar: tables that declare options, a parser for them, and the help text that they make.
local M = {}

---@class moonlet.cmd.Option
---@field name string       long name, without the dashes
---@field short? string     one letter
---@field type? string      "flag" (default), "string", "integer" or "number"
---@field value? string     what the help calls its value
---@field help string|fun(): string
---@field key? string       name in the result; the long name with `_` for `-` otherwise
---@field default? any
---@field list? boolean     the value is a comma-separated list
---@field repeated? boolean may be given several times; the result is a list
---@field choices? string[]
---@field min? number
---@field max? number
---@field above? number     what the value must be greater than
---@field filled? boolean   the text must not be empty
---@field required? boolean

---@class moonlet.cmd.Command
---@field name string
---@field summary string    one line, lower case, no full stop
---@field usage string      what follows "moonlet NAME"
---@field about? string     a paragraph more, for --help
---@field example string
---@field options moonlet.cmd.Option[]
---@field positional? string  what bare words are; without it they are an error
---@field run fun(options: table, words: string[]): integer?

-- Both kinds of expected failure are tables, so that a plain string error is a fault of the program.
local Failure = {__tostring = function(e) return e.message end}

---Raises a failure that is reported without a traceback, with exit code 1.
function M.fail(message, ...)
  error(setmetatable({message = select("#", ...) > 0 and message:format(...) or message, expected = true}, Failure), 0)
end

---Raises a complaint about how the command was called, with exit code 2.
function M.wrong_usage(message, ...)
  error(setmetatable({message = message:format(...), expected = true, usage = true}, Failure), 0)
end

-- Restricted Damerau-Levenshtein distance.
local function distance(a, b)
  local before, above = nil, {}
  for j = 0, #b do above[j] = j end
  for i = 1, #a do
    local row = {[0] = i}
    for j = 1, #b do
      local cost = a:byte(i) == b:byte(j) and 0 or 1
      row[j] = math.min(above[j] + 1, row[j - 1] + 1, above[j - 1] + cost)
      if before and j > 1 and a:byte(i) == b:byte(j - 1) and a:byte(i - 1) == b:byte(j) then
        row[j] = math.min(row[j], before[j - 2] + 1)
      end
    end
    before, above = above, row
  end
  return above[#b]
end

---The candidate that is most like `name`, if any is like it.
---@param name string
---@param candidates string[]
---@return string?
function M.nearest(name, candidates)
  local best, least = nil, math.max(1, #name // 3) + 1
  for _, candidate in ipairs(candidates) do
    local d = distance(name, candidate)
    if #name > 1 and candidate:sub(1, #name) == name then d = 0 end
    if d < least then best, least = candidate, d end
  end
  return best
end

local common = {
  {name = "json", help = "print JSON, for other programs"},
  {name = "quiet", short = "q", help = "no messages on stderr"},
  {name = "help", short = "h", help = "print this"},
}

local function all_options(command)
  local list = {}
  for _, o in ipairs(command.options) do list[#list + 1] = o end
  for _, o in ipairs(common) do list[#list + 1] = o end
  return list
end

local function key_of(option) return option.key or (option.name:gsub("-", "_")) end

---The value that a text gives an option; a complaint where it gives none.
---@param option moonlet.cmd.Option
---@param shown string  what the complaint calls it
---@param text string
function M.value(option, shown, text)
  local value = text
  if option.type == "integer" then value = math.tointeger(tonumber(text)) end
  if option.type == "number" then value = tonumber(text) end
  if value == nil or value ~= value then
    M.wrong_usage("%s wants %s, not '%s'", shown, option.type == "integer" and "a whole number" or "a number", text)
  end
  if value == "" and option.filled then M.wrong_usage("%s must not be empty", shown) end
  if option.above and value <= option.above then
    M.wrong_usage("%s must be above %s, not %s", shown, option.above, text)
  end
  if option.min and value < option.min then M.wrong_usage("%s must be at least %s, not %s", shown, option.min, text) end
  if option.max and value > option.max then M.wrong_usage("%s must be at most %s, not %s", shown, option.max, text) end
  if option.choices then
    for _, choice in ipairs(option.choices) do
      if choice == value then return value end
    end
    M.wrong_usage("%s is one of %s, not '%s'", shown, table.concat(option.choices, ", "), text)
  end
  return value
end

local function convert(option, shown, text)
  if not option.list then return M.value(option, shown, text) end
  local list = {}
  for part in (text .. ","):gmatch("([^,]*),") do list[#list + 1] = M.value(option, shown, part) end
  return list
end

local function unknown(shown, by_long)
  local names = {}
  for name in pairs(by_long) do names[#names + 1] = name end
  table.sort(names)
  local near = shown:sub(1, 2) == "--" and M.nearest(shown:sub(3), names)
  M.wrong_usage("unknown option %s%s", shown, near and (" (did you mean --" .. near .. "?)") or "")
end

-- Splits one argument into the option that it names, how it was written, and the value attached to it.
local function recognise(argument, by_long, by_short)
  if argument:sub(1, 2) == "--" then
    local name, attached = argument:match("^%-%-([^=]+)=(.*)$")
    name = name or argument:sub(3)
    return by_long[name] or unknown("--" .. name, by_long), "--" .. name, attached
  end
  local letter = argument:sub(2, 2)
  local option = by_short[letter] or unknown(#argument == 2 and argument or "-" .. letter, by_long)
  return option, "-" .. letter, #argument > 2 and argument:sub(3) or nil
end

---Reads a command's arguments.
---@param command moonlet.cmd.Command
---@param argv string[]  the arguments behind the command's name
---@return table options, string[] words
function M.parse(command, argv)
  local by_long, by_short, result, words = {}, {}, {}, {}
  local list = all_options(command)
  for _, o in ipairs(list) do
    by_long[o.name] = o
    if o.short then by_short[o.short] = o end
  end
  local i = 1
  while i <= #argv do
    local argument = argv[i]
    if argument == "--" then
      table.move(argv, i + 1, #argv, #words + 1, words)
      break
    elseif argument:sub(1, 1) ~= "-" or argument == "-" then
      words[#words + 1] = argument
    else
      local option, shown, attached = recognise(argument, by_long, by_short)
      local key = key_of(option)
      if (option.type or "flag") == "flag" then
        if attached then M.wrong_usage("%s takes no value", shown) end
        result[key] = true
      else
        if not attached then
          i = i + 1
          attached = argv[i] or M.wrong_usage("%s needs a value", shown)
        end
        local value = convert(option, shown, attached)
        if option.repeated then
          result[key] = result[key] or {}
          table.insert(result[key], value)
        else
          result[key] = value
        end
      end
    end
    i = i + 1
  end
  if result.help then return result, words end
  if words[1] and not command.positional then
    local hint, call = "see", "--help"
    if by_long.model and not result.model then hint, call = "a model is named by -m", "-m " .. words[1]
    elseif by_long.prompt and by_long.prompt.type == "string" and not result.prompt then
      hint, call = "a text is given by -p", ('-m %s -p "%s"'):format(result.model, words[1])
    end
    M.wrong_usage("'%s' is not an option; %s: `moonlet %s %s`", words[1], hint, command.name, call)
  end
  for _, o in ipairs(list) do
    local key = key_of(o)
    if result[key] == nil then result[key] = o.default end
    if o.required and result[key] == nil then
      M.wrong_usage("%s %s is missing", o.short and "-" .. o.short or "--" .. o.name, o.value)
    end
  end
  return result, words
end

local function default_text(option)
  if option.default == nil then return "" end
  local value = type(option.default) == "table" and table.concat(option.default, ",") or tostring(option.default)
  return " (" .. value .. ")"
end

---The text of `--help`.
---@param command moonlet.cmd.Command
---@return string
function M.usage(command)
  local rows, width = {}, 0
  for _, o in ipairs(all_options(command)) do
    local left = (o.short and "-" .. o.short .. ", " or "    ") .. "--" .. o.name
    if (o.type or "flag") ~= "flag" then left = left .. " " .. o.value end
    width = math.max(width, #left)
    local text = type(o.help) == "function" and o.help() or o.help
    rows[#rows + 1] = {left, text .. default_text(o)}
  end
  local name = command.name
  local out = {("moonlet %s: %s\n\nusage: moonlet %s %s\n"):format(name, command.summary, name, command.usage)}
  if command.about then out[#out + 1] = "\n" .. command.about .. "\n" end
  out[#out + 1] = "\n"
  for _, row in ipairs(rows) do out[#out + 1] = ("  %-" .. width .. "s  %s\n"):format(row[1], row[2]) end
  out[#out + 1] = "\nexample:\n  " .. command.example:gsub("\n", "\n  ") .. "\n"
  return table.concat(out)
end

return M
