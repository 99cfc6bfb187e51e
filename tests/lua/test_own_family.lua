-- Families with a mistake in them: each is the library's Llama with one line changed. What would give wrong text in
-- silence is an error that names the module.
local ml = require "moonlet"
local nn = require "moonlet.nn"
local fn = require "moonlet.fn"
local t = require "tests.lua.harness"
local tiny = require "tests.tiny"

t.leak_check = function() return ml.memory.active() end

local folder = tiny.folder "own-family"
local source = tiny.read "lua/models/llama.lua"
local ids = {1, 5, 9, 20, 3}

-- The tiny Llama served by a family in which texts are replaced by others: pairs of from, to.
local function family(...)
  local path, text, changes = folder .. "/family.lua", source, {...}
  for i = 1, #changes, 2 do
    local at, last = text:find(changes[i], 1, true)
    assert(at, changes[i])
    text = text:sub(1, at - 1) .. changes[i + 1] .. text:sub(last + 1)
  end
  tiny.write(path, text)
  return assert(ml.load("tests/goldens/tiny/llama", {family = path, precision = "exact"}))
end

local function generate(m) return select(2, m:complete(ids, {max_tokens = 4})).ids end

local hand_on = "layer(x, caches and caches[i])"
local append = "window = self.window, cache = cache}"

for _, case in ipairs {
  {"caches handed to nobody", hand_on, "layer(x)", "model.layers.0.self_attn: attention: no cache"},
  {"caches by other numbers than the layers'", hand_on, "layer(x, caches and caches[i + 1])",
    "caches%[%d+%] was taken and caches%[1%] was not"},
  {"caches by names", hand_on, "layer(x, caches and caches['layer' .. i])",
    "caches%[layer%d%]: expected the number of a layer"},
  {"attention of one's own without caches", append, "window = self.window, causal = false}",
    "forward took none of its caches", hand_on, "layer(x)", "self.rope(q, cache), self.rope(k, cache)", "q, k"},
  {"a cache for some layers", hand_on, "layer(x, i == 1 and caches and caches[i] or nil)",
    "model.layers.1.self_attn: attention: no cache"},
  {"a cache for rope alone", append, "window = self.window}", "model.layers.0.self_attn: attention: no cache"},
  {"a cache for attention alone", "self.rope(q, cache), self.rope(k, cache)", "self.rope(q), self.rope(k)",
    "model.layers.0.self_attn.rope: RoPE: no cache"},
  {"a cache for two layers", hand_on, "layer(x, caches and caches[1])",
    "model.layers.1.self_attn: the cache of layer 1 is appended to a second time, first by .*layers.0.self_attn"},
  {"a cache that attention does not see", append, "window = self.window, causal = false, cache = nil}",
    "layer 1 takes its cache and appends nothing"},
  {"a cache in prefill alone", append,
    "window = self.window, causal = x.shape[2] > 1, cache = x.shape[2] > 1 and cache or nil}",
    "layer 1 takes its cache and appends nothing"},
} do
  t.test(case[1] .. " is an error", function()
    local m <close> = family(case[2], case[3], table.unpack(case, 5))
    for _ = 1, 2 do t.raises(function() generate(m) end, case[4], "usage") end
    t.raises(function() for _ in m:generate(ids, {max_tokens = 3}) do end end, case[4], "usage")
    m:logits(ids) -- needs no cache
  end)
end

t.test("attention that needs no cache may go without", function()
  local m <close> = family("local out = fn.attention", [[
    local own = fn.attention(q, k, v, {scale = self.scale, causal = false})
    local out = own * 0 + fn.attention]])
  local right <close> = assert(ml.load("tests/goldens/tiny/llama", {precision = "exact"}))
  t.eq(generate(m), generate(right))
end)

t.test("forward gives float logits (B, T, V), or is an error that says so", function()
  local result = "return self.lm_head and self.lm_head(x) or self.model.embed_tokens:as_linear(x)"
  local logits = result:gsub("return ", "local y = ") .. "\n  return "
  for _, case in ipairs {
    {"y:slice {{}, {-1, -1}}", "found a tensor %(1, 1, 131%), float32"},
    {"y:reshape {-1, y.shape[3]}", "found a tensor %(%d+, 131%), float32"},
    {"y:slice {{}, {}, {1, 100}}", "found a tensor %(1, %d+, 100%), float32"},
    {"y:expand_dims(1)", "found a tensor %(1, 1, %d+, 131%), float32"},
    {"y:astype 'int32'", "found a tensor %(1, %d+, 131%), int32"},
    {"y:gt(0)", "found a tensor %(1, %d+, 131%), bool"},
    {"nil", "found nothing"},
    {"{y}", "found a table"},
  } do
    local m <close> = family(result, logits .. case[1])
    local message = "family llama: forward: expected float logits %(B, T, V%) of its tokens .*" .. case[2]
    t.raises(function() m:logits(ids) end, message, "mismatch")
    t.raises(function() m:logits {ids, ids} end, "forward: expected float logits", "mismatch")
    t.raises(function() generate(m) end, message, "mismatch")
    t.raises(function() m:perplexity(ids) end, message, "mismatch")
  end
end)

t.test("modules refuse what they would not read", function()
  local function refused(pattern, f, ...)
    local args = table.pack(...)
    t.raises(function() f(table.unpack(args, 1, args.n)) end, pattern, "usage")
  end
  refused('parameter: kind: expected "matrix", "vector", found "matrx"', nn.parameter, {2}, "matrx")
  refused("parameter: kind: expected .*, found nothing", nn.parameter, {2})
  refused('parameter: init: expected .*, found "onse"', nn.parameter, {2}, "vector", "onse")
  refused("parameter: an argument too many: 3", nn.parameter, {2}, "vector", "ones", 3)
  refused("parameter: shape: size 1", nn.parameter, {-2}, "vector")
  refused("Linear: an argument too many: true", nn.Linear, 2, 3, {bias = true}, true)
  refused("Linear: bias: expected true or false, found 0", nn.Linear, 2, 3, {bias = 0})
  refused("Embedding: an argument too many: a table", nn.Embedding, 4, 2, {padding = 1})
  refused("RMSNorm: an argument too many", nn.RMSNorm, 4, {}, 1e-6)
  refused("RMSNorm: eps: expected a number from 0", nn.RMSNorm, 4, {eps = "1e-6"})
  refused("RMSNorm: offset: expected a number", nn.RMSNorm, 4, {offset = true})
  refused("LayerNorm: eps: expected a number", nn.LayerNorm, 4, {eps = -1})
  refused("LayerNorm: bias: expected true or false", nn.LayerNorm, 4, {bias = "no"})
  refused("LayerNorm: an argument too many", nn.LayerNorm, 4, {}, false)
  refused('RoPE: no option "context"', nn.RoPE, 4, {context = 100})
  refused("RoPE: interleaved: expected true or false", nn.RoPE, 4, {interleaved = 1})
  refused("RoPE: partial: expected a number from 0 to 1", nn.RoPE, 4, {partial = 2})
  refused('rope_scaling: the rule "linear" reads no "fctor"', nn.RoPE, 4,
    {scaling = {rope_type = "linear", factor = 2, fctor = 3}})
  refused('rope_scaling: the rule "default" reads no "factor"', nn.RoPE, 4, {scaling = {factor = 2}})
  refused('rope_scaling: the rule "linear" reads no "rope_theta"', nn.RoPE, 4,
    {scaling = {type = "linear", factor = 2, rope_theta = 5}})
  refused('rope_scaling: the rule "factors" reads no 1', nn.RoPE, 4,
    {scaling = {type = "factors", factors = {2, 2}, 7}})
  nn.RoPE(4, {theta = 5, scaling = {type = "linear", factor = 2, rope_theta = 5}})
  nn.RoPE(4, {scaling = {type = "factors", factors = {2, 2}}})
  refused("Dropout: an argument too many", nn.Dropout, 0.1, {inplace = true})
  refused("train: expected true or false", function() nn.Linear(2, 2):train "eval" end)
  t.eq(nn.parameter(3, "vector").shape, {3})
  nn.Linear(2, 3, nil, nil)
end)

t.test("attention does not see what is hidden from a row", function()
  local inf, v = math.huge, {1.0, 2.0, math.huge, 0 / 0}
  local function run(opts)
    local x = ml.zeros {1, 1, 4, 1}
    return fn.attention(x, x, ml.tensor(v, {dtype = "float32"}):reshape {1, 1, 4, 1}, opts):reshape {4}:tolist()
  end
  local causal = run {}
  t.eq({causal[1], causal[2], causal[3]}, {1.0, 1.5, inf})
  t.ok(causal[4] ~= causal[4])
  t.eq(run {causal = false, mask = ml.tensor {true, true, false, false}}, {1.5, 1.5, 1.5, 1.5})
  t.eq(run {causal = false, mask = ml.tensor {0.0, -inf, -inf, -inf}}, {1.0, 1.0, 1.0, 1.0})
  v = {inf, 2.0, 4.0, 6.0}
  t.eq({table.unpack(run {window = 1}, 2)}, {2.0, 4.0, 6.0})
end)

t.test("slips of the pen in a family are told by their names", function()
  local more = "Llama.lora = {"
  for _, case in ipairs {
    {"function Llama:init(c)", "function Llama:int(c)",
      "family llama %(.*family.lua%): init: expected a function, found nothing"},
    {"function Llama:forward(", "function Llama:foward(",
      "family llama %(.*family.lua%): forward: expected a function, found nothing"},
    {more, "Llama.config = function() end\n" .. more,
      "family llama %(.*family.lua%): config: expected a table, found a function"},
    {more, "Llama.config.extra = function(c) return c.extra or 8 end\n" .. more,
      "config.json: the family's default of extra reads extra itself", "function Llama:init(c)",
      "function Llama:init(c) self.extra = c.extra"},
  } do
    local ok, message = pcall(family, case[1], case[2], table.unpack(case, 4))
    t.eq(ok, false)
    t.ok(tostring(message):find(case[3]), tostring(message))
  end
end)

t.done()
