-- own-family.lua: copies of llama.lua under other names, with other operations in them, are as fast as the built-in one
--
-- One has one more operation; one has gate and up as one weight, whose product it splits; one has norms behind its
-- products as well. The copies lie in a folder of their own that MOONLET_PATH names, so that they come in by the door
-- of users' families; no rebuild. All models have SmolLM2-135M's shapes and random weights, in 4-bit blocks and in
-- bfloat16. Each is a process, kept between measurements, which take turns, so that a change of the machine's clock
-- falls on all alike. What is compared is the fastest of ROUNDS runs, since what else the machine does only ever makes
-- a run slower; the ratio must reach 0.95 for decode and for prefill.
--
--   ROUNDS=9 PROMPT=512 TOKENS=64 make check-own-family

local BOUND = 0.95
local rounds = tonumber(os.getenv "ROUNDS" or 9)
local prompt = tonumber(os.getenv "PROMPT" or 512)
local tokens = tonumber(os.getenv "TOKENS" or 64)

-- ---- one model, measured on demand: own-family.lua worker DIR FORMAT ----

local function measure(m, seed)
  local ids = {}
  for i = 1, prompt do ids[i] = (seed * 7919 + i * 104729) % m.info.vocab_size end
  for _ in m:generate(ids, {max_tokens = 1, ignore_eos = true}) do end -- luacheck: ignore 542
  local prefill = prompt / m.metrics.prefill_seconds
  for _ in m:generate({ids[1]}, {max_tokens = tokens + 1, ignore_eos = true}) do end -- luacheck: ignore 542
  return prefill, tokens / m.metrics.decode_seconds
end

local function work(dir, format)
  local ml = require "moonlet"
  local quantize = format ~= "bfloat16" and {format = format} or nil
  local m <close> = assert(ml.load(dir, {random = 1, quantize = quantize}))
  io.write(m.info.family, "\n")
  io.flush()
  local seed = 0
  for _ in io.lines() do -- a line asks for a measurement
    seed = seed + 1
    io.write(("%.17g %.17g\n"):format(measure(m, seed)))
    io.flush()
  end
end

if arg[1] == "worker" then
  work(arg[2], arg[3])
  return
end

-- ---- the comparison ----

local build = os.getenv "BUILD" or "build"

local function command(line)
  local pipe = assert(io.popen(line))
  local text = pipe:read "a"
  assert(pipe:close(), line)
  return text
end

local function read(path)
  local file <close> = assert(io.open(path, "rb"))
  return file:read "a"
end

local function write(path, text)
  local file <close> = assert(io.open(path, "wb"))
  assert(file:write(text))
end

local config = [[{"model_type": "%s", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
 "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "max_position_embeddings": 8192,
 "rms_norm_eps": 1e-05, "rope_theta": 100000.0, "hidden_act": "silu", "tie_word_embeddings": true}
]]

local folder = command("mktemp -d"):match "%S+"
local _ <close> = setmetatable({}, {__close = function() os.execute("rm -rf '" .. folder .. "'") end})

local function replace(text, from, to)
  local first, last = text:find(from, 1, true)
  assert(first, "lua/models/llama.lua no longer has: " .. from)
  assert(not text:find(from, last, true), "lua/models/llama.lua has this twice: " .. from)
  return text:sub(1, first - 1) .. to .. text:sub(last + 1)
end

-- What each copy has in the place of what llama.lua has.
local names = {"llama", "own_llama", "fused_llama", "post_llama"}
local edits = {
  own_llama = {{"* self.up_proj(x))", "* self.up_proj(x) * 0.875)"}},
  fused_llama = {
    {"self.gate_proj = nn.Linear(d, f, {bias = c.mlp_bias})", "self.gate_up_proj = nn.Linear(d, 2 * f)"},
    {"  self.up_proj = nn.Linear(d, f, {bias = c.mlp_bias})\n", ""},
    {"function MLP:forward(x) return self.down_proj(self.act(self.gate_proj(x)) * self.up_proj(x)) end", [[
function MLP:forward(x)
  local parts = self.gate_up_proj(x):split(2, -1)
  return self.down_proj(self.act(parts[1]) * parts[2])
end]]},
  },
  post_llama = {
    {"  self.mlp = MLP(c)\n", [[
  self.mlp = MLP(c)
  self.post_attention = nn.RMSNorm(c.hidden_size, {eps = c.rms_norm_eps})
  self.post_mlp = nn.RMSNorm(c.hidden_size, {eps = c.rms_norm_eps})
]]},
    {"x + self.self_attn(self.input_layernorm(x), cache)",
      "x + self.post_attention(self.self_attn(self.input_layernorm(x), cache))"},
    {"x + self.mlp(self.post_attention_layernorm(x))", "x + self.post_mlp(self.mlp(self.post_attention_layernorm(x)))"},
  },
}

assert(os.execute("mkdir -p '" .. folder .. "/models'"))
for _, name in ipairs(names) do
  assert(os.execute(("mkdir -p '%s/%s'"):format(folder, name)))
  write(("%s/%s/config.json"):format(folder, name), config:format(name))
  if edits[name] then
    local source = replace(read "lua/models/llama.lua", 'nn.model("llama", "mistral")', ('nn.model "%s"'):format(name))
    for _, edit in ipairs(edits[name]) do source = replace(source, edit[1], edit[2]) end
    write(("%s/models/%s.lua"):format(folder, name), source)
  end
end

-- Lua's pipes go one way: questions through the pipe, answers through a FIFO.
local function start(name, format)
  local fifo = ("%s/%s-%s"):format(folder, name, format)
  assert(os.execute("mkfifo '" .. fifo .. "'"))
  local line = ("MOONLET_PATH='%s/models' %s/moonlet tests/checks/own-family.lua worker '%s/%s' %s > '%s'")
    :format(folder, build, folder, name, format, fifo)
  local to = assert(io.popen(line, "w"))
  local from = assert(io.open(fifo))
  local family = from:read "l"
  assert(family == name, ("%s: expected the family %s, found %s"):format(format, name, family))
  return {name = name, ask = function()
    to:write "\n"
    to:flush()
    local prefill, decode = from:read("n", "n")
    return assert(prefill, "the worker ended early"), decode
  end, close = function()
    to:close()
    from:close()
  end}
end

local failed = 0
local function report(format, what, name, own, built_in)
  local a, b = math.max(table.unpack(own)), math.max(table.unpack(built_in))
  local verdict = a / b >= BOUND and "ok" or "not ok"
  if verdict ~= "ok" then failed = failed + 1 end
  print(("%s - %s, %s: %s %.1f tokens/s, built-in %.1f, ratio %.3f"):format(verdict, format, what, name, a, b, a / b))
  io.flush()
end

for _, format in ipairs {"q4_0", "bfloat16"} do
  local models, prefill, decode = {}, {}, {}
  for i, name in ipairs(names) do models[i], prefill[i], decode[i] = start(name, format), {}, {} end
  for round = 0, rounds do
    for i = 1, #names do
      local which = (i + round) % #names + 1 -- each goes first as often as the others
      local p, d = models[which].ask()
      if round > 0 then -- the first round warms up
        table.insert(prefill[which], p)
        table.insert(decode[which], d)
      end
    end
  end
  for _, model in ipairs(models) do model.close() end
  for i = 2, #names do
    report(format, ("prefill of %d"):format(prompt), names[i], prefill[i], prefill[1])
    report(format, ("decode of %d"):format(tokens), names[i], decode[i], decode[1])
  end
end

os.exit(failed == 0, true)
