---`moonlet info`: says what a model is.
local common = require "moonlet.cmd.common"
local options = require "moonlet.cmd.options"

local M = {
  name = "info",
  summary = "say what a model is",
  usage = "-m MODEL [options]\n       moonlet info MODEL [options]",
  about = [[
Prints what the model's files say: family, parameters, layers, context, the format of its weights and
the memory that they take. The model is loaded for it.]],
  positional = "the model, in place of -m",
  example = "moonlet info -m checkpoints/SmolLM2-135M-Instruct.gguf",
}

M.options = common.options({
  {name = "model", short = "m", type = "string", value = "MODEL", help = common.model[1].help},
}, common.loading)

local function rows(info)
  local quantization = common.quantization_text(info.quantization)
  return {
    {"path", info.path},
    {"model type", info.model_type},
    {"family", info.family},
    {"parameters", info.parameters and common.count(info.parameters)},
    {"layers", info.layers},
    {"hidden size", info.hidden_size},
    {"vocabulary", info.vocab_size},
    {"context", info.context},
    {"weights", quantization or "not quantised"},
    {"computes in", info.compute_dtype},
    {"memory", info.bytes and common.bytes(info.bytes)},
  }
end

-- The model is named by -m, as everywhere, or by the one bare word.
local function path_of(opts, words)
  if #words > 1 then options.wrong_usage("info takes one model, found %d", #words) end
  if opts.model and words[1] then options.wrong_usage("-m %s and '%s': info takes one model", opts.model, words[1]) end
  return opts.model or words[1] or options.wrong_usage("-m MODEL is missing")
end

function M.run(opts, words)
  local path = path_of(opts, words)
  local quiet = opts.json and setmetatable({quiet = true}, {__index = opts}) or opts -- the warnings are in the object
  local m <close> = common.load(quiet, path)
  if opts.json then
    common.print_json(m.info)
    return
  end
  for _, row in ipairs(rows(m.info)) do
    if row[2] ~= nil then common.write(("%-12s %s\n"):format(row[1], row[2])) end
  end
end

return M
