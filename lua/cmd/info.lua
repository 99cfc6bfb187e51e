---`moonlet info`: says what a model is.
local common = require "moonlet.cmd.common"

local M = {
  name = "info",
  summary = "say what a model is",
  usage = "-m MODEL [options]",
  example = "moonlet info -m checkpoints/SmolLM2-135M-Instruct.gguf",
}

M.options = common.options(common.model, common.loading)

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
    {"memory", info.bytes and common.bytes(info.bytes)},
  }
end

function M.run(opts)
  local quiet = opts.json and setmetatable({quiet = true}, {__index = opts}) or opts -- the warnings are in the object
  local m <close> = common.load(quiet)
  if opts.json then
    common.print_json(m.info)
    return
  end
  for _, row in ipairs(rows(m.info)) do
    if row[2] ~= nil then io.write(("%-12s %s\n"):format(row[1], row[2])) end
  end
end

return M
