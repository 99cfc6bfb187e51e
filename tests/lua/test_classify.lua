-- Classes and scores of many texts in one forward: as each text alone, whatever lies beside it.
local ml = require "moonlet"
local bytes = require "tests.lua.byte_model"
local new_random = require "tests.lua.programs.random"
local t = require "tests.lua.harness"
local tiny = require "tests.tiny"

local function make(name, config, family)
  local path = bytes.make("classify-" .. name)
  if config then tiny.write(path .. "/config.json", config) end
  return assert(ml.load(path, {random = 5, precision = "exact", family = family}))
end

local sizes = [["hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2,
"num_key_value_heads": 1, "head_dim": 16, "vocab_size": 258, "max_position_embeddings": 4096, "rms_norm_eps": 1e-6,
"rope_theta": 10000.0, "tie_word_embeddings": true, "hidden_act": "silu"]]
local models = {
  full = make "full",
  sliding = make("sliding", '{"model_type": "mistral", "sliding_window": 90, ' .. sizes .. "}"),
  recurrent = make("recurrent", '{"model_type": "hybrid", "sliding_window": 70, "conv_kernel": 4, ' .. sizes .. "}",
    "tests/lua/families/hybrid.lua"),
}
local m = models.full

local function texts_of(random, n, longest)
  local texts = {}
  for i = 1, n do
    local letters = {}
    for k = 1, random:int(1, longest) do letters[k] = string.char(random:int(97, 122)) end
    texts[i] = table.concat(letters)
  end
  return texts
end

-- The log probability of ids behind a text, from the text and the ids alone.
local function alone(model, text, label)
  local ids = model:prompt_ids(text .. label, "text")
  local log_p, sum = model:logits(table.move(ids, 1, #ids - 1, 1, {}))[1]:log_softmax(), 0.0
  for k = #ids - #label, #ids - 1 do sum = sum + log_p[k][ids[k + 1] + 1]:item() end
  return sum
end

local function near(got, want, what)
  local off = math.abs(got - want)
  t.ok(off <= 1e-5 * math.max(1, math.abs(want)), ("%s: expected %.8g, found %.8g"):format(what, want, got))
end

for name, model in pairs(models) do
  t.test(name .. ": labels of one token", function()
    local texts, labels = texts_of(new_random(2), 50, 60), {"a", "Z", "7"}
    local long = "It is said, over and over again, in this text that is long enough for a page: {text}. So"
    for _, template in ipairs {"{text}", long} do
      local got = model:classify(texts, {labels = labels, logits = true, template = template})
      t.eq(#got, #texts)
      for i, text in ipairs(texts) do
        local ids = model:prompt_ids((template:gsub("{text}", text)), "text")
        local logits = model:logits(ids)[1]
        local last, best, sum = logits[#ids]:tolist(), 1, 0.0
        for k, label in ipairs(labels) do
          near(got[i].logits[k], last[label:byte() + 1], ("text %d, label %d"):format(i, k))
          if got[i].logits[k] > got[i].logits[best] then best = k end
        end
        for k in ipairs(labels) do sum = sum + math.exp(got[i].logits[k] - got[i].logits[best]) end
        t.eq({got[i].label, got[i].index}, {labels[best], best})
        near(got[i].probability, 1 / sum, "probability")
      end
    end
  end)

  t.test(name .. ": labels of several tokens", function()
    local texts, labels = texts_of(new_random(3), 12, 30), {"yes", "no", "perhaps", "x"}
    for i, got in ipairs(model:classify(texts, {labels = labels, logits = true, batch_size = 5})) do
      for k, label in ipairs(labels) do near(got.logits[k], alone(model, texts[i], label), "text " .. i .. label) end
    end
  end)

  t.test(name .. ": scores behind a prefix", function()
    local prefix, more = ("so it goes, "):rep(12), {"on", "and on and on", "?", ("a very long end "):rep(9)}
    for i, got in ipairs(model:score(prefix, more)) do
      near(got.logprob, alone(model, prefix, more[i]), "continuation " .. i)
      t.eq(got.tokens, #more[i])
    end
    local _, result = model:complete(prefix, {max_tokens = 4, ignore_eos = true})
    local got = model:score(prefix, {result.ids, {result.ids[1], (result.ids[2] + 1) % 256}})
    t.eq({got[1].greedy, got[2].greedy}, {true, false})
  end)
end

t.test("without labels the next token", function()
  local texts = texts_of(new_random(4), 9, 20)
  for i, got in ipairs(m:classify(texts)) do
    local ids = m:prompt_ids(texts[i], "text")
    local p = m:logits(ids)[1][#ids]:softmax():tolist()
    t.eq(got.id, math.tointeger(m:logits(ids)[1][#ids]:argmax(-1):item()))
    near(got.probability, p[got.id + 1], "probability")
  end
end)

t.test("one token, a whole context, what is longer than a forward", function()
  local long = ("abcdefgh"):rep(512) -- 4,096 tokens
  local texts = {"a", long, long:sub(1, 1500), long:sub(1, 1024), long:sub(1, 1025), "b"}
  local labels = {"p", "q"}
  for i, got in ipairs(m:classify(texts, {labels = labels, logits = true})) do
    local ids = m:prompt_ids(texts[i], "text")
    local last = m:logits(ids)[1][#ids]:tolist()
    for k, label in ipairs(labels) do near(got.logits[k], last[label:byte() + 1], "text " .. i) end
  end
  near(m:classify({long:sub(1, 4095)}, {labels = {"ab", "c"}, logits = true})[1].logits[1],
    alone(m, long:sub(1, 4095), "ab"), "two tokens at the end of the context")
  t.eq(next(m:runtime().store.slots), nil, "slots in use")
end)

t.test("embeddings are those of each text alone", function()
  for _, name in ipairs {"full", "sliding"} do
    local model = models[name]
    local texts = texts_of(new_random(6), 30, 50)
    texts[31] = ("long "):rep(500)
    for _, pooling in ipairs {"mean", "last", "cls"} do
      local got = model:embed(texts, {pooling = pooling})
      t.eq(got.shape, {31, 32})
      for i, text in ipairs(texts) do
        local ids = model:prompt_ids(text, "text")
        local x = model.net.model(ml.tensor {ids})[1]
        local want = pooling == "mean" and x:mean(1) or pooling == "last" and x[#ids] or x[1]
        local off = (got[i] - want):abs():max():item()
        local allowed = (pooling == "mean" and 5e-5 or 1e-5) * want:abs():max():item()
        t.ok(off <= allowed, ("%s of text %d: off by %g"):format(pooling, i, off))
      end
    end
    local unit = model:embed(texts, {normalize = true})
    t.ok((unit:square():sum(-1) - 1):abs():max():item() < 1e-5, "length 1")
  end
  t.eq(m:embed({}).shape, {0, 32})
  t.raises(function() m:embed({"a"}, {pooling = "max"}) end, "pooling", "usage")
  t.raises(function() models.recurrent:embed {"a"} end, "hidden", "unsupported")
end)

t.test("what is too long is named, or loses its beginning", function()
  local long = ("x"):rep(4200)
  t.raises(function() m:classify({"a", long}, {labels = {"p"}}) end, "text 2 has 4200 tokens", "limit")
  local cut = m:classify({long .. "tail"}, {labels = {"p", "q"}, logits = true, truncate = true})[1]
  near(cut.logits[1], m:classify({(long .. "tail"):sub(-4096)}, {labels = {"p"}, logits = true})[1].logits[1], "cut")
  t.raises(function() m:classify({"a", ""}, {labels = {"p"}}) end, "text 2: it has no tokens", "usage")
  t.raises(function() m:classify({"a", 3}, {labels = {"p"}}) end, "text 2", "usage")
  t.raises(function() m:classify({"a"}, {labels = {}}) end, "labels", "usage")
  t.raises(function() m:classify({"a"}, {labels = {"p", 3}}) end, "labels: entry 2", "usage")
  t.raises(function() m:classify({"a"}, {labels = {"p"}, template = "none"}) end, "template", "usage")
  t.raises(function() m:classify({"a"}, {nonsense = 1}) end, "nonsense", "usage")
  t.raises(function() m:score("", {"a"}) end, "prefix", "usage")
  t.raises(function() m:score("a", {"b", ""}) end, "continuation 2", "usage")
  t.eq(m:classify({}, {labels = {"p"}}), {})
end)

t.test("figures, and log probabilities of a text's tokens", function()
  local long = ("A long beginning that all share, longer than a page of the cache. "):rep(3)
  m:classify({long .. "one", long .. "two!", long .. "three"}, {labels = {"a", "b"}})
  local shared = #long // 64 * 64
  t.eq({m.metrics.prompt_tokens, m.metrics.cached_tokens}, {3 * #long + 12, 2 * shared})
  t.ok(m.metrics.total_seconds > 0 and m.metrics.peak_bytes > 0 and m.metrics.finish_reason == nil)
  m:score("abc", {"d", "efg"})
  t.eq(m.metrics.prompt_tokens, 3 + 5)
  m:embed {"abc", "de"}
  t.eq(m.metrics.prompt_tokens, 5)
  m:logits {1, 2, 3}
  t.eq(m.metrics.prompt_tokens, 3)
  local r = m:perplexity(long, {context = 50, stride = 30, limit = 100, logprobs = true})
  local sum = 0.0
  for _, v in ipairs(r.logprobs) do sum = sum + v end
  t.eq({#r.logprobs, r.tokens}, {100, 100})
  t.close(-sum / 100, r.nll, 1e-9)
  t.close(r.logprobs[1], m:score({long:byte(1)}, {{long:byte(2)}})[1].logprob, 1e-4)
  t.eq(m:perplexity(long).logprobs, nil)
  t.raises(function() m:perplexity(long, {logprobs = 3}) end, "logprobs", "usage")
end)

t.test("templates that are functions, messages, progress", function()
  local calls = {}
  local got = m:classify({"one", "two"}, {
    labels = {"p", "q"}, logits = true, progress = function(done, all) calls[#calls + 1] = {done, all} end,
    template = function(text) return {{role = "user", content = text}} end,
  })
  local want = m:classify({{{role = "user", content = "one"}}, {{role = "user", content = "two"}}},
    {labels = {"p", "q"}, logits = true})
  t.eq(got, want)
  t.eq(calls[#calls], {2, 2})
end)

for _, model in pairs(models) do model:close() end
t.done()
