---`moonlet perplexity`: how well a model predicts a text.
local common = require "moonlet.cmd.common"

local M = {
  name = "perplexity",
  summary = "measure how well a model predicts a text",
  usage = "-m MODEL --file PATH [options]",
  about = [[
Prints the perplexity, the mean negative log-likelihood of a token (natural logarithm), and how many
tokens were predicted.]],
  example = "moonlet perplexity -m checkpoints/SmolLM2-135M-Instruct.gguf --file book.txt --context 512",
}

M.options = common.options(common.model, common.prompt, {
  {name = "context", type = "integer", value = "N", min = 2, default = 512, help = "tokens in a window"},
  {name = "stride", type = "integer", value = "N", min = 1,
    help = "tokens from one window to the next; a whole window otherwise"},
}, common.loading)

function M.run(opts)
  local text = common.prompt_of(opts, true)
  local m <close> = common.load(opts)
  local r = m:perplexity(text, {context = opts.context, stride = opts.stride})
  if opts.json then
    common.print_json {nll = r.nll, perplexity = r.perplexity, tokens = r.tokens}
  else
    io.write(("perplexity %.4f, nll %.5f, %d tokens\n"):format(r.perplexity, r.nll, r.tokens))
  end
end

return M
