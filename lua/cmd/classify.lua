---`moonlet classify`: which of some labels each text is.
local ml = require "moonlet"
local common = require "moonlet.cmd.common"
local options = require "moonlet.cmd.options"

local M = {
  name = "classify",
  summary = "say which of some labels each text is",
  usage = "-m MODEL --labels A,B,.. [-p TEXT | < lines] [options]",
  about = [[
Reads one text a line (with --jsonl one JSON string, or a list of ids) and writes its label, and how
probable that is among the labels; with --json one object a line {label, index, probability, logits}. A
label's probability is that of its tokens behind the text, or behind --template, a text in which {text}
stands for it. Without --labels the likeliest next token is the label.]],
  example = "moonlet classify -m checkpoints/SmolLM2-135M-Instruct.gguf --labels ' good',' bad' " ..
    "--template 'Review: {text}\nThis film is' -p 'I slept through it.'",
}

M.options = common.options(common.model, {
  {name = "prompt", short = "p", type = "string", value = "TEXT", help = "one text instead of lines on stdin"},
  {name = "labels", type = "string", value = "A,B,..", list = true, help = "the labels, as they follow a text"},
  {name = "template", type = "string", value = "TEXT", help = "what the model reads, with {text} in it"},
  {name = "jsonl", help = "lines are JSON: strings, or lists of token ids"},
  {name = "batch-size", type = "integer", value = "N", min = 1, help = "texts that run together at most"},
  {name = "truncate", help = "texts that are too long lose their beginning"},
}, common.loading)

local function read_texts(opts)
  if opts.prompt then return {opts.prompt} end
  local texts, number = {}, 0
  for line in io.lines() do
    number = number + 1
    local text, why = line, nil
    if opts.jsonl then text, why = ml.json.decode(line) end
    if text == nil then options.fail("line %d: %s", number, why) end
    texts[number] = text
  end
  return texts
end

function M.run(opts)
  local texts = read_texts(opts)
  local m <close> = common.load(opts)
  local results = m:classify(texts, {
    labels = opts.labels, template = opts.template, batch_size = opts.batch_size, truncate = opts.truncate,
    logits = opts.labels and opts.json or nil,
  })
  for _, r in ipairs(results) do
    if opts.json then common.print_json(r) else common.write(("%s\t%.4f\n"):format(r.label or r.id, r.probability)) end
  end
end

return M
