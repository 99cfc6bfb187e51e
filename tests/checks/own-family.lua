-- own-family.lua: a copy of llama.lua under another name, with one more operation, is as fast as the built-in one
--
-- The copy lies in a folder of its own that MOONLET_PATH names, so that it comes in by the door of users' families;
-- no rebuild. Both models have SmolLM2-135M's shapes and random weights, in 4-bit blocks and in bfloat16. Each is a
-- process, kept between measurements, which take turns, so that a change of the machine's clock falls on both alike.
-- What is compared is the fastest of ROUNDS runs, since what else the machine does only ever makes a run slower; the
-- ratio must reach 0.95 for decode and for prefill.
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

-- The copy, with one more multiplication in its MLP.
local source = read "lua/models/llama.lua"
source = replace(source, 'nn.model("llama", "mistral")', 'nn.model "own_llama"')
source = replace(source, "* self.up_proj(x))", "* self.up_proj(x) * 0.875)")
assert(os.execute(("mkdir -p '%s/models' '%s/llama' '%s/own_llama'"):format(folder, folder, folder)))
write(folder .. "/models/own_llama.lua", source)
for _, name in ipairs {"llama", "own_llama"} do write(folder .. "/" .. name .. "/config.json", config:format(name)) end

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
local function report(format, what, own, built_in)
  local a, b = math.max(table.unpack(own)), math.max(table.unpack(built_in))
  local verdict = a / b >= BOUND and "ok" or "not ok"
  if verdict ~= "ok" then failed = failed + 1 end
  print(("%s - %s, %s: own %.1f tokens/s, built-in %.1f, ratio %.3f"):format(verdict, format, what, a, b, a / b))
  io.flush()
end

for _, format in ipairs {"q4_0", "bfloat16"} do
  local models = {start("llama", format), start("own_llama", format)}
  local prefill, decode = {{}, {}}, {{}, {}}
  for round = 0, rounds do
    for i = 1, 2 do
      local which = round % 2 == 0 and i or 3 - i -- each goes first as often as the other
      local p, d = models[which].ask()
      if round > 0 then -- the first round warms up
        table.insert(prefill[which], p)
        table.insert(decode[which], d)
      end
    end
  end
  for _, model in ipairs(models) do model.close() end
  report(format, ("prefill of %d"):format(prompt), prefill[2], prefill[1])
  report(format, ("decode of %d"):format(tokens), decode[2], decode[1])
end

os.exit(failed == 0, true)
