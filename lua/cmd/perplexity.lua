---`moonlet perplexity`: how well a model predicts a text.
local common = require "moonlet.cmd.common"

local M = {
  name = "perplexity",
  summary = "measure how well a model predicts a text",
  usage = "-m MODEL [-p TEXT | --file PATH | < text] [options]",
  about = [[
Prints the perplexity, the mean negative log-likelihood of a token (natural logarithm), and how many
tokens were predicted. There is no text of its own: it comes from -p, --file or a pipe, is taken as it is
(the newline at its end counts) and needs two tokens at least. It is cut into windows of --context tokens,
one every --stride tokens (a whole window unless given), each begun without the ones before it; no token is
counted twice, the first of the text not at all. A smaller stride gives tokens more before them, is slower,
and gives a lower figure: compare models by the same text, context and stride.]],
  example = "moonlet perplexity -m checkpoints/SmolLM2-135M-Instruct.gguf --file book.txt --context 512",
}

M.options = common.options(common.model, common.prompt, {
  {name = "context", type = "integer", value = "N", min = 2, default = 512, help = "tokens in a window"},
  {name = "stride", type = "integer", value = "N", min = 1,
    help = "tokens from one window to the next, at most a window; a whole window otherwise"},
}, common.loading)

function M.run(opts)
  local text = common.prompt_of(opts, true)
  local m <close> = common.load(opts)
  local r = m:perplexity(text, {context = opts.context, stride = opts.stride})
  if opts.json then
    common.print_json {nll = r.nll, perplexity = r.perplexity, tokens = r.tokens}
  else
    common.write(("perplexity %.4f, nll %.5f, %d tokens\n"):format(r.perplexity, r.nll, r.tokens))
  end
end

return M
