---`moonlet bench`: load time, memory, and tokens per second of prefill and decode.
local ml = require "moonlet"
local common = require "moonlet.cmd.common"
local console = require "moonlet.console"
local options = require "moonlet.cmd.options"

local M = {
  name = "bench",
  summary = "measure a model's speed",
  usage = "-m MODEL [-p 512] [-n 128] [-d 0] [-r 5] [options]\n" ..
    "       moonlet bench --random DIR [--quantize FORMAT] [...]",
  about = [[
Prompts are random token ids, other ones in each run, so that no cache helps. Each measurement is
repeated, after a first run that does not count. The figures are tokens per second: median, smallest and
largest. Memory is the most that the process has had resident.]],
  example = "moonlet bench -m checkpoints/SmolLM2-135M-Instruct.gguf -p 512 -n 128 -d 0,2048 -r 5 --json",
}

M.options = common.options({
  {name = "model", short = "m", type = "string", value = "MODEL", help = "a .gguf file, a directory, or a hub name"},
  {name = "random", type = "string", value = "DIR", help = "a model of random weights, from the config.json in DIR"},
  {name = "quantize", type = "string", value = "FORMAT", help = "of random weights: q4_0, q4_1, q8_0, q4_k, ..."},
  {name = "prompt", short = "p", type = "integer", value = "N,..", list = true, min = 0, default = {512},
    help = "prompt lengths"},
  {name = "tokens", short = "n", type = "integer", value = "N", min = 0, default = 128, help = "tokens to decode"},
  {name = "depth", short = "d", type = "integer", value = "N,..", list = true, min = 0, default = {0},
    help = "tokens in the context before decoding"},
  {name = "repeat", short = "r", type = "integer", value = "N", min = 1, default = 5,
    help = "runs of each measurement"},
  {name = "profile", help = "then show which steps of the plans take how long"},
  {name = "seed", type = "integer", value = "N", default = 0, help = "of the random ids, and weights"},
}, common.loading)

---A generator of ids below `limit` (a linear congruential generator: the same everywhere, and nobody else's state).
local function id_source(seed, limit)
  local state = seed
  return function(count)
    local ids = {}
    for i = 1, count do
      state = state * 6364136223846793005 + 1442695040888963407
      ids[i] = (state >> 33) % limit
    end
    return ids
  end
end

-- One call of generate; its metrics.
local function run(m, ids, max_tokens)
  for _ in m:generate(ids, {max_tokens = max_tokens, ignore_eos = true}) do end -- luacheck: ignore 542
  local metrics = m.metrics
  if metrics.finish_reason == "cancelled" then error({message = "cancelled", code = "cancelled"}, 0) end
  return metrics
end

local function summary(rates)
  table.sort(rates)
  local n = #rates
  return {median = (rates[(n + 1) // 2] + rates[n // 2 + 1]) / 2, min = rates[1], max = rates[n]}
end

-- `measure` gives tokens and seconds of one run.
local function rates_of(repeats, measure)
  measure()
  local rates = {}
  for i = 1, repeats do
    local tokens, seconds = measure()
    if not seconds or seconds <= 0 then options.fail("the model reported no time for %d tokens", tokens) end
    rates[i] = tokens / seconds
  end
  return summary(rates)
end

local function prefill(m, ids, tokens, repeats)
  local result = rates_of(repeats, function()
    local metrics = run(m, ids(tokens), 1)
    return metrics.prompt_tokens - (metrics.cached_tokens or 0), metrics.prefill_seconds
  end)
  result.tokens = tokens
  return result
end

-- The first new token comes out of the prefill, so one more is made than is counted.
local function decode(m, ids, depth, tokens, repeats)
  local result = rates_of(repeats, function()
    local metrics = run(m, ids(math.max(depth, 1)), tokens + 1)
    return metrics.generated_tokens - 1, metrics.decode_seconds
  end)
  result.depth, result.tokens = depth, tokens
  return result
end

-- Runs of the longest prompt, and of a few tokens at the largest depth, whose plans are there already.
local function profile(m, ids, opts, r)
  local function measure(what, tokens, new)
    common.note(opts, "profile of %s ...", what)
    local text = ml.profile(run, m, ids(tokens), new)
    table.insert(r.profiles, {name = what, text = text})
  end
  r.profiles = ml.json.array {}
  local longest, deepest = math.max(1, table.unpack(opts.prompt)), math.max(1, table.unpack(opts.depth))
  measure(("prefill %d"):format(longest), longest, 1)
  if opts.tokens > 0 then measure(("decode after %d"):format(deepest), deepest, math.min(opts.tokens, 8) + 1) end
end

local function load(opts)
  if (opts.model == nil) == (opts.random == nil) then options.wrong_usage("give either -m MODEL or --random DIR") end
  if opts.quantize and not opts.random then options.wrong_usage("--quantize needs --random") end
  local own = {
    random = opts.random and opts.seed or nil,
    quantize = opts.quantize and {format = opts.quantize:lower()} or nil,
  }
  local load_opts = setmetatable(own, {
    __index = function(_, key) if key ~= "random" and key ~= "quantize" then return opts[key] end end,
  })
  local start = console.clock()
  local m = common.load(load_opts, opts.random or opts.model)
  return m, console.clock() - start
end

local function print_table(r)
  local threads = r.threads and (", %d threads"):format(r.threads) or ""
  common.write(("%s on %s%s, loaded in %.2f s, peak memory %s\n\n"):format(
    common.name_of(r.model), r.device, threads, r.load_seconds, common.bytes(r.peak_bytes)))
  common.write(("%-24s %10s %10s %10s\n"):format("tokens/s", "median", "min", "max"))
  local function row(name, x) common.write(("%-24s %10.1f %10.1f %10.1f\n"):format(name, x.median, x.min, x.max)) end
  for _, x in ipairs(r.prefill) do row(("prefill %d"):format(x.tokens), x) end
  for _, x in ipairs(r.decode) do
    row(("decode %d%s"):format(x.tokens, x.depth > 0 and " after " .. x.depth or ""), x)
  end
  for _, x in ipairs(r.profiles or {}) do common.write(("\n%s: plans by their time\n%s"):format(x.name, x.text)) end
end

function M.run(opts)
  local m <close>, load_seconds = load(opts)
  local ids = id_source(opts.seed, m.info.vocab_size)
  local device, facts = common.device(m.device)
  for _, depth in ipairs(opts.tokens > 0 and opts.depth or {}) do
    local needed = math.max(depth, 1) + opts.tokens
    if needed > m.info.context then
      options.fail("%d tokens after %d make %d, the context holds %d", opts.tokens, depth, needed, m.info.context)
    end
  end
  local r = {
    model = opts.model or opts.random, device = device, threads = opts.threads or facts.threads,
    load_seconds = load_seconds, prefill = ml.json.array {}, decode = ml.json.array {},
  }
  for _, tokens in ipairs(opts.prompt) do
    if tokens > 0 then
      common.note(opts, "prefill %d ...", tokens)
      table.insert(r.prefill, prefill(m, ids, tokens, opts["repeat"]))
    end
  end
  for _, depth in ipairs(opts.tokens > 0 and opts.depth or {}) do
    common.note(opts, "decode %d%s ...", opts.tokens, depth > 0 and " after " .. depth or "")
    table.insert(r.decode, decode(m, ids, depth, opts.tokens, opts["repeat"]))
  end
  if opts.profile then profile(m, ids, opts, r) end
  r.peak_bytes = common.peak_bytes()
  if opts.json then common.print_json(r) else print_table(r) end
end

return M
