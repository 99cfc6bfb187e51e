-- Real models against the reference (tests/goldens/README.md, real/): greedy text and perplexity. Skipped without the
-- files.
local ml = require "moonlet"
local core = require "moonlet.core"
local t = require "tests.lua.harness"

local MARGIN = 0.02 -- between the reference's two best logits; below it either may win

local models = {
  {golden = "smollm2", file = "SmolLM2-135M-Instruct.gguf"},
  {golden = "gemma3", file = "gemma-3-270m.gguf"},
}

-- The golden's greedy ids, up to where a narrow margin let the two part ways.
local function check_greedy(m, want, what)
  local result = select(2, m:complete(want.prompt_ids, {max_tokens = #want.ids, ignore_eos = true}))
  local encoded = m.tokenizer:encode(want.prompt, {add_special_tokens = want.messages == nil})
  t.eq(encoded, want.prompt_ids, what .. ": ids of the prompt")
  for i, id in ipairs(want.ids) do
    if result.ids[i] ~= id then
      local found = ("%s: token %d: expected %d, got %s, margin %g"):format(what, i, id, result.ids[i], want.margins[i])
      t.ok(want.margins[i] <= MARGIN, found)
      return
    end
  end
end

local function check_nll(m, golden, ids, bound)
  local want = golden.text.perplexity[1]
  local r = m:perplexity(ids, {context = want.context, stride = want.stride, limit = want.first.tokens})
  t.eq(r.tokens, want.first.tokens)
  t.close(r.nll, want.first.nll, bound, "nll")
  t.close(r.perplexity, math.exp(r.nll), 1e-9)
  return r.nll
end

for _, entry in ipairs(models) do
  local golden = assert(core.read_json(("tests/goldens/real/%s.json"):format(entry.golden)))
  t.test(entry.golden .. ": exact: greedy text of ten prompts, perplexity", function()
    local m <close> = assert(ml.load(t.checkpoint(entry.file), {precision = "exact"}))
    t.ok(#golden.prompts >= 10)
    for k, want in ipairs(golden.prompts) do check_greedy(m, want, "prompt " .. k) end
    check_nll(m, golden, golden.text.ids, 0.001)
  end)
  local nll
  t.test(entry.golden .. ": fast: perplexity, the text's ids", function()
    local m <close> = assert(ml.load(t.checkpoint(entry.file)))
    local file <close> = assert(io.open("tests/goldens/real/text.txt", "rb"))
    t.eq(m.tokenizer:encode(file:read "a"), golden.text.ids, "ids of the text")
    nll = check_nll(m, golden, golden.text.ids, 0.01)
  end)
  t.test(entry.golden .. ": computed in bfloat16: perplexity within half a percent of float32's", function()
    local m <close> = assert(ml.load(t.checkpoint(entry.file), {dtype = "bfloat16"}))
    t.close(check_nll(m, golden, golden.text.ids, 0.01), nll, math.log(1.005))
  end)
end

t.test("gemma3: discover and info name it alike, with all its formats", function()
  local path = t.checkpoint "gemma-3-270m.gguf"
  local m <close> = assert(ml.load(path))
  t.eq(m.info.quantization.formats, {"q8_0", "q5_0", "q4_k", "q6_k"})
  for _, found in ipairs(assert(ml.discover(path:match "^(.*)/"))) do
    if found.path == path then t.eq(found.model_type, m.info.model_type) end
  end
end)

t.done()
