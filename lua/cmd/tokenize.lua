---`moonlet tokenize`: text to token ids and back, a line at a time.
local ml = require "moonlet"
local common = require "moonlet.cmd.common"
local console = require "moonlet.console"
local options = require "moonlet.cmd.options"

local M = {
  name = "tokenize",
  summary = "turn text into token ids, or back",
  usage = "-m MODEL [-p TEXT | < lines.jsonl] [options]",
  about = [[
Reads one JSON string a line and writes one JSON array of ids for each; with --decode it is the other
way round. Only the model's tokenizer is read.]],
  example = [[echo '"Hello, moon!"' | moonlet tokenize -m checkpoints/SmolLM2-135M-Instruct.gguf]],
}

M.options = common.options(common.model, {
  {name = "prompt", short = "p", type = "string", value = "TEXT", help = "one plain text instead of lines on stdin"},
  {name = "decode", help = "ids to text: JSON arrays in, JSON strings out"},
  {name = "no-special", help = "add no BOS and the like (with --decode: leave special tokens out)"},
  {name = "plain", help = "take text that looks like a special token as ordinary text"},
})

local function converter(t, opts)
  if opts.decode then
    local how = {skip_special_tokens = opts.no_special == true}
    return function(value)
      if type(value) ~= "table" then return nil, "a JSON array of ids" end
      return t:decode(value, how)
    end
  end
  local how = {add_special_tokens = not opts.no_special, parse_special = not opts.plain}
  return function(value)
    if type(value) ~= "string" then return nil, "a JSON string" end
    return ml.json.array(t:encode(value, how))
  end
end

function M.run(opts)
  if opts.prompt and opts.decode then options.wrong_usage("-p is text; --decode reads lines from stdin") end
  local t, message = ml.tokenizer(opts.model)
  if not t then options.fail(message) end
  local convert = converter(t, opts)
  if opts.prompt then
    common.print_json(convert(opts.prompt))
    return
  end
  if console.is_terminal("stdin") then
    common.note(opts, "one JSON %s a line; Ctrl-D ends", opts.decode and "array of ids" or 'string, such as "Hello",')
  end
  if not console.is_terminal("stdout") then io.stdout:setvbuf("full") end
  local number = 0
  for line in io.lines() do
    number = number + 1
    if line:find("%S") then
      local value, why = ml.json.decode(line)
      if value == nil then options.fail("line %d: %s", number, why) end
      local result, wanted = convert(value)
      if result == nil then options.fail("line %d: expected %s", number, wanted) end
      common.print_json(result)
    end
  end
end

return M
