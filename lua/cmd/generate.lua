---`moonlet generate`: continues a text.
local ml = require "moonlet"
local common = require "moonlet.cmd.common"
local options = require "moonlet.cmd.options"

local M = {
  name = "generate",
  summary = "continue a text",
  usage = "-m MODEL -p TEXT [options]",
  about = [[
Writes the continuation alone, as it comes. The text is taken as it is, without a chat template;
`moonlet chat -p` asks a question. The newline that ends a file or a pipe is no part of the text. A model
without a tokenizer takes its prompt from --ids, and writes ids. --json prints one object {text, ids,
finish_reason, metrics}; an end token counts in metrics.generated_tokens and is not among the ids.]],
  example = 'moonlet generate -m checkpoints/SmolLM2-135M-Instruct.gguf -p "The moon" -n 48 --temp 0.7 --seed 1',
}

M.options = common.options(common.model, common.prompt, {
  {name = "ids", type = "integer", value = "N,..", list = true, min = 0, help = "token ids instead of a text"},
  {name = "max-tokens", short = "n", type = "integer", value = "N", min = 0, default = 256,
    help = "the most tokens to make"},
  {name = "ignore-eos", help = "go on past the end token"},
}, common.sampling, common.loading)

local function stream(m, prompt, opts)
  local last = "\n"
  for token in m:generate(prompt, common.sampling_of(opts)) do
    local text = token.text or tostring(token.id) .. " "
    if text ~= "" then last = text end
    common.write(text)
  end
  if last:sub(-1) ~= "\n" then common.write("\n") end
  return m.metrics
end

function M.run(opts)
  if opts.ids and (opts.prompt or opts.file) then options.wrong_usage("--ids excludes -p and --file") end
  local prompt = opts.ids or common.prompt_of(opts)
  local m <close> = common.load(opts)
  local metrics
  if opts.json then
    local _, result = m:complete(prompt, common.sampling_of(opts))
    metrics = result.metrics
    common.print_json {
      text = m.tokenizer and result.text or ml.json.null, ids = ml.json.array(result.ids),
      finish_reason = result.finish_reason, metrics = metrics,
    }
  else
    metrics = stream(m, prompt, opts)
  end
  for _, warning in ipairs(metrics.warnings or {}) do common.note(opts, "warning: %s", warning) end
  if metrics.finish_reason == "cancelled" then return 130 end
  if metrics.finish_reason == "length" and metrics.generated_tokens < opts.max_tokens then
    common.note(opts, common.cut_text(metrics, opts.max_tokens, m.info.context))
  end
  common.note(opts, "%s", common.speed_text(metrics))
end

return M
