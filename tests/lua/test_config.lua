-- Configurations: the two spellings of rope and what counts where both stand, keys of the rope table, numbers that JSON
-- has not, keys that a family knows and ignores, generation_config.json.
local ml = require "moonlet"
local tiny = require "tests.tiny"
local t = require "tests.lua.harness"

t.leak_check = function() return ml.memory.active() end

local plain = tiny.directory()["config.json"]
local ids = {90, 14, 79, 59, 97, 59}
local count = 0

-- A model's folder whose configuration has other keys: {key = value, or JSON text behind "="; false to drop it}.
local function with(changes, files)
  count = count + 1
  local raw, texts = assert(ml.json.decode(plain)), {}
  for key, value in pairs(changes) do
    if value == false then raw[key] = nil
    elseif type(value) == "string" and value:match "^=" then
      texts[#texts + 1] = ('"%s": %s, '):format(key, value:sub(2))
      raw[key] = nil
    else raw[key] = value end
  end
  local all = {["config.json"] = ml.json.encode(raw):gsub("^{", function() return "{" .. table.concat(texts) end)}
  for name, text in pairs(files or {}) do all[name] = text end
  return tiny.write_directory("config/" .. count, all)
end

local function logits(changes, opts)
  local m <close> = assert(ml.load(with(changes), opts))
  local x <close> = m:logits(ids)
  return x:tobytes(), m.info.warnings
end

-- What the reference's configuration of these files is, spelt so that nothing is in doubt.
local function said(theta, scaling)
  scaling = scaling or {rope_type = "default"}
  scaling.rope_theta = theta
  return (logits {rope_parameters = scaling, rope_theta = false, rope_scaling = false})
end

local linear = {rope_type = "linear", factor = 2.0}
local function with_theta(scaling, theta)
  local copy = {rope_theta = theta}
  for k, v in pairs(scaling) do copy[k] = v end
  return copy
end

for _, case in ipairs {
  {"the inner base wins", {rope_theta = 5000.0, rope_parameters = {rope_type = "default", rope_theta = 700.0}}, 700.0},
  {"the outer base where there is no inner one", {rope_theta = 5000.0, rope_parameters = {rope_type = "default"}},
    5000.0},
  {"the outer base beside a scaling", {rope_theta = 5000.0, rope_parameters = linear}, 5000.0, linear},
  {"rope_scaling has a base", {rope_theta = 9.0, rope_parameters = false, rope_scaling = with_theta(linear, 700.0)},
    700.0, linear},
  {"neither has one", {rope_parameters = linear}, 10000.0, linear},
  {"an empty rope_scaling is none", {rope_scaling = ml.json.object {}, rope_parameters = {rope_theta = 700.0}}, 700.0},
} do
  t.test("rope: " .. case[1], function()
    local got, warnings = logits(case[2], {strict = true})
    t.ok(got == said(case[3], case[4] and with_theta(case[4])), "other logits")
    t.eq(#warnings, 0)
  end)
end

t.test("rope: where a file has both tables, rope_scaling counts", function()
  local both = {rope_theta = 5000.0, rope_scaling = linear, rope_parameters = {rope_theta = 700.0}}
  local got, warnings = logits(both)
  t.ok(got == said(5000.0, with_theta(linear)))
  t.ok(#warnings == 1 and warnings[1]:find('key "rope_parameters" is not read', 1, true), warnings[1])
end)

t.test("rope: llama3 without the first context takes the configuration's", function()
  local rule = {rope_type = "llama3", factor = 4.0, low_freq_factor = 1.0, high_freq_factor = 4.0}
  local whole = with_theta(rule)
  whole.original_max_position_embeddings = 64
  local want = said(1000.0, whole)
  t.ok(want ~= said(1000.0), "the rule changes nothing")
  for _, name in ipairs {"rope_scaling", "rope_parameters"} do
    local got, warnings = logits {rope_parameters = false, rope_theta = 1000.0, max_position_embeddings = 64,
      [name] = rule}
    t.ok(got == want, name)
    t.eq(#warnings, 0)
  end
end)

-- Llama with a share of each head turned, as families with partial_rotary_factor are written.
local partial
do
  local text = tiny.read "lua/models/llama.lua":gsub("scaling = c.rope_scaling}",
    "scaling = c.rope_scaling, partial = c.partial_rotary_factor}")
  partial = assert(load(text))()
end

t.test("keys inside the rope table are read", function()
  local want = logits({partial_rotary_factor = 0.4, rope_parameters = {rope_theta = 1000.0}}, {family = partial})
  t.ok(want ~= said(1000.0), "the share changes nothing")
  for _, outer in ipairs {0.4, 0.8, false} do
    local got, warnings = logits({partial_rotary_factor = outer,
      rope_parameters = {rope_type = "default", rope_theta = 1000.0, partial_rotary_factor = 0.4}},
      {family = partial, strict = true})
    t.ok(got == want, tostring(outer))
    t.eq(#warnings, 0)
  end
  local inner = {rope_theta = 1000.0, partial_rotary_factor = 0.4}
  local _, warnings = logits({rope_parameters = inner})
  t.ok(#warnings == 1 and warnings[1]:find('"rope_parameters.partial_rotary_factor" is not read by family llama', 1,
    true), warnings[1])
  t.fails("rope_parameters.partial_rotary_factor: expected a positive number, found \"x\"", "corrupt",
    ml.load(with {rope_parameters = {partial_rotary_factor = "x"}}, {family = partial}))
end)

-- A Llama whose init also does `look`.
local function looking(look)
  local family = assert(load(tiny.read "lua/models/llama.lua"))()
  local init = family.init
  function family:init(c)
    look(c)
    init(self, c)
  end
  return family
end

t.test("any key inside the rope table, by its name or through the table", function()
  local seen
  local rope = {rope_type = "default", rope_theta = 1000.0, mrope_section = {2, 3}, beta_fast = 32}
  local family = looking(function(c) seen = {c.mrope_section, c.rope_parameters.beta_fast} end)
  local _, warnings = logits({rope_parameters = rope}, {family = family, strict = true})
  t.eq(seen, {{2, 3}, 32})
  t.eq(#warnings, 0)
  family = looking(function(c) seen = {c.rope_of("full_attention").partial, c.rope_of("full_attention").theta} end)
  local nested = {full_attention = {rope_type = "default", rope_theta = 70.0, partial_rotary_factor = 0.5}}
  _, warnings = logits({rope_parameters = nested}, {family = family, strict = true})
  t.eq(seen, {0.5, 70.0})
  t.eq(#warnings, 0)
  family = looking(function(c) seen = {c.rope_of("full_attention").theta} end)
  _, warnings = logits({rope_parameters = nested}, {family = family})
  t.eq(seen, {70.0})
  t.ok(#warnings == 1 and warnings[1]:find("rope_parameters.full_attention.partial_rotary_factor", 1, true),
    warnings[1])
end)

t.test("keys that a family knows and ignores", function()
  local family = looking(function() end)
  family.ignore_keys = {"moon_phase", "rope_parameters.beta_fast"}
  local changes = {moon_phase = 0.5, rope_parameters = {rope_theta = 1000.0, beta_fast = 32, beta_slow = 1}}
  local got, warnings = logits(changes, {family = family})
  t.ok(got == said(1000.0))
  t.ok(#warnings == 1 and warnings[1]:find('"rope_parameters.beta_slow"', 1, true), warnings[1])
  family.ignore_keys = "moon_phase"
  t.fails("family llama: ignore_keys: expected a list of keys", "usage", ml.load(with {}, {family = family}))
end)

t.test("numbers that JSON has not", function()
  local family = looking(function(c)
    t.eq({c.time_limit, c.low, c.range}, {math.huge, -math.huge, {0.0, math.huge}})
  end)
  local path = with({
    time_limit = "=Infinity", low = '={"__float__": "-Infinity"}', range = "=[0.0, Infinity]",
    initializer_range = "=NaN",
  }, {
    ["generation_config.json"] = '{"temperature": 0.5, "max_time": Infinity, "x": {"__float__": "NaN"}}',
    ["tokenizer_config.json"] = '{"eos_token": "</s>", "model_max_length": Infinity, "x": [-Infinity, NaN]}',
  })
  local m <close> = assert(ml.load(path, {family = family, strict = true}))
  t.eq(m.generation_config.max_time, math.huge)
  t.ok(m.generation_config.x ~= m.generation_config.x)
  t.eq(m.tokenizer.eos_ids, {2})
  local print = m:fingerprint()
  t.ok(#print > 20 and print == m:fingerprint())
  for _, text in ipairs {"NaN", "[Infinity]", "-Infinity"} do t.fails("expected", "corrupt", ml.json.decode(text)) end
  for _, text in ipairs {"Inf", "nan", "+Infinity", "- Infinity", "Infinity1"} do
    t.fails("config.json: line 1", "corrupt", ml.load(with {x = "=" .. text}))
  end
  t.fails("hidden_size: expected a positive integer below 2^31, found inf", "corrupt",
    ml.load(with {hidden_size = "=Infinity"}))
  t.fails("rope_theta: expected a positive number, found inf", "corrupt",
    ml.load(with {rope_parameters = "={\"rope_theta\": Infinity}"}))
end)

t.test("a message says its file once", function()
  local path = with {rms_norm_eps = "x"}
  t.fails("^[^:]*/config.json: rms_norm_eps: expected a number from 0 to 1, found \"x\"$", "corrupt", ml.load(path))
  path = with {rope_scaling = {rope_type = "linear", factor = "x"}}
  t.fails("^[^:]*/config.json: rope_scaling.factor: expected a positive number, found x$", "corrupt", ml.load(path))
end)

-- ---- generation_config.json ----

local function generating(text) return with({}, {["generation_config.json"] = text}) end
local full = {temperature = 0.6, top_k = 20, top_p = 0.9, min_p = 0.02}

-- {what the file says, what the call says, options, whether the file says anything}
for _, case in ipairs {
  {'{"do_sample": true}', nil, {temperature = 1.0, top_k = 50}, true},
  {'{"do_sample": true, "temperature": 0.6}', nil, {temperature = 0.6, top_k = 50}, true},
  {'{"do_sample": true, "top_k": 0, "top_p": 0.9}', nil, {temperature = 1.0, top_k = 0, top_p = 0.9}, true},
  {'{"do_sample": true, "temperature": null, "top_k": null}', nil, {temperature = 1.0, top_k = 50}, true},
  {'{"do_sample": true, "temperature": 0.6, "top_k": 20, "top_p": 0.9, "min_p": 0.02}', nil, full, true},
  {'{"temperature": 0.6, "top_k": 20, "top_p": 0.9, "min_p": 0.02}', nil, {}, true},
  {'{"do_sample": false, "temperature": 0.6, "top_k": 20}', nil, {}, true},
  {'{"do_sample": null, "top_p": 0.6}', nil, {}, true},
  {'{"do_sample": null, "top_p": null, "eos_token_id": 2, "max_length": 20}', nil, {}, false},
  {"{}", {temperature = 0.3}, {temperature = 0.3}, false},
  {'{"temperature": 0.6, "top_p": 0.9, "top_k": 5}', {temperature = 0.5},
    {temperature = 0.5, top_p = 0.9, top_k = 5}, true},
  {'{"do_sample": false, "top_p": 0.9}', {temperature = 0.5, min_p = 0.1},
    {temperature = 0.5, top_p = 0.9, top_k = 50, min_p = 0.1}, true},
  {'{"top_p": 0.9}', {temperature = 0.5, top_k = 0}, {temperature = 0.5, top_p = 0.9, top_k = 0}, true},
  {'{"top_p": 0.9}', {temperature = 0}, {temperature = 0}, true},
  {'{"top_p": 0.9}', {top_k = 7}, {top_k = 7}, true},
  {'{"eos_token_id": 2}', {temperature = 0.5}, {temperature = 0.5}, false},
  {'{"do_sample": true, "top_p": 0.9}', {top_p = 0.5, max_tokens = 3, defaults = "model"},
    {temperature = 1.0, top_k = 50, top_p = 0.5, max_tokens = 3}, true},
  {'{"do_sample": true, "top_p": 0.9}', {temperature = 0}, {temperature = 0}, true},
  {'{"do_sample": true, "temperature": 0.0, "top_p": 0.9}', nil, {}, true},
  {'{"repetition_penalty": 1.1}', nil, {repeat_penalty = 1.1, repeat_last_n = 128}, true},
  {'{"do_sample": true, "repetition_penalty": 1.1}', {temperature = 0},
    {temperature = 0, repeat_penalty = 1.1, repeat_last_n = 128}, true},
  {'{"repetition_penalty": 1.0}', nil, {repeat_penalty = 1.0}, true},
  {'{"repetition_penalty": 1.1}', {repeat_penalty = 1.5}, {repeat_penalty = 1.5}, true},
  {'{"repetition_penalty": 1.1}', {repeat_last_n = 8}, {repeat_penalty = 1.1, repeat_last_n = 8}, true},
  {'{"repetition_penalty": 1.1}', {frequency_penalty = 0.5}, {repeat_penalty = 1.1, frequency_penalty = 0.5}, true},
  {'{"typical_p": 0.9}', nil, {}, true},
} do
  t.test(("generation_config: %s beside %s"):format(case[1], ml.json.encode(case[2] or ml.json.object {})), function()
    local m <close> = assert(ml.load(generating(case[1]), {max_context = 128}))
    local before = ml.json.encode(case[2] or {})
    local options, present = m:generation_defaults(case[2])
    t.eq(options, case[3])
    t.eq(present, case[4])
    t.eq(ml.json.encode(case[2] or {}), before, "the options given")
    t.ok(options ~= case[2])
    t.eq(#m.info.warnings, 0, m.info.warnings[1])
  end)
end

t.test("generation_config: beside a sampler nothing", function()
  local m <close> = assert(ml.load(generating '{"do_sample": true, "top_p": 0.9, "repetition_penalty": 1.1}'))
  local function pick() end
  local options, present = m:generation_defaults {sampler = pick, max_tokens = 3}
  t.eq({options, present}, {{sampler = pick, max_tokens = 3}, true})
end)

t.test("generation_config: without the file nothing", function()
  local m <close> = assert(ml.load(with({}, {["generation_config.json"] = false})))
  local options, present = m:generation_defaults()
  t.eq({options, present}, {{}, false})
end)

t.test("generation_config: chat and sessions take it", function()
  local messages = {{role = "user", content = "the rain in"}}
  for text, same in pairs {
    ['{"do_sample": true}'] = {temperature = 1, top_k = 50}, ['{"temperature": 0.9, "top_k": 5}'] = {},
    ['{"repetition_penalty": 1.7}'] = {repeat_penalty = 1.7, repeat_last_n = 256},
  } do
    local m <close> = assert(ml.load(generating(text)))
    same.seed, same.max_tokens, same.ignore_eos = 5, 30, true
    local _, want = m:complete(messages, same)
    local _, got = m:complete(messages, {defaults = "model", seed = 5, max_tokens = 30, ignore_eos = true})
    t.eq(got.ids, want.ids, text)
    local s <close> = m:session()
    local g = s:send("the rain in", {defaults = "model", seed = 5, max_tokens = 30, ignore_eos = true})
    g:complete()
    t.eq(g.ids, want.ids, text)
    t.raises(function() m:chat(messages, {defaults = "mine"}) end, 'chat: defaults: expected "model"', "usage")
    t.raises(function() s:send("x", {defaults = false}) end, 'chat: defaults: expected "model"', "usage")
  end
end)

t.test("generation_config: what cannot be done is warned of", function()
  local path = generating [[{"do_sample": true, "typical_p": 0.9, "epsilon_cutoff": 0.0, "eta_cutoff": 0.01,
    "top_h": null, "no_repeat_ngram_size": 3, "num_beams": 1, "suppress_tokens": [], "top_p": 1.5, "top_k": 3.5,
    "temperature": "hot", "cache_implementation": "hybrid", "max_length": 20, "repetition_penalty": 0}]]
  local m <close> = assert(ml.load(path))
  local heads = {}
  for i, text in ipairs(m.info.warnings) do
    t.eq(text:sub(1, #path + 25), path .. "/generation_config.json: ")
    heads[i] = text:sub(#path + 26)
  end
  t.eq(heads, {
    "eta_cutoff is not supported: it is not used", "no_repeat_ngram_size is not supported: it is not used",
    "repetition_penalty: expected a number above 0, found 0: it is not used",
    'temperature: expected a number from 0, found "hot": it is not used',
    "top_k: expected an integer from 0, found 3.5: it is not used",
    "top_p: expected a number from 0 to 1, found 1.5: it is not used",
    "typical_p is not supported: it is not used",
  })
  t.eq((m:generation_defaults()), {temperature = 1.0, top_k = 50})
end)

t.done()
