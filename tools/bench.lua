-- What moonlet reaches on this machine: beside a peer, and beside what the machine can do at all. `make bench` runs it.
--
--     build/moonlet tools/bench.lua [-r ROUNDS] [MODEL.gguf ...]
--
-- Models are those of checkpoints/ unless given (`make models` fetches them). The peer is llama.cpp: $LLAMA_BENCH, or
-- what `tools/build_peer.sh build-peer` has built; without it there are figures and no ratios. Rounds (5, or
-- $BENCH_ROUNDS) take both in turn; a figure is the median of the rounds, a ratio the median of theirs, above 1 where
-- moonlet is better. Decode is measured behind no tokens, 2,048 and 7,000.
--
-- The share says which part of the machine's own limit is reached, as tools/measure_limits.c finds it just before: of
-- the read rate in decode (weights a token), of the arithmetic in prefill (8-bit products for quantised weights, else
-- float32 ones; two operations a weight and token, the vocabulary's head left out). Attention counts in neither.
local ml = require "moonlet"

local BUILD = os.getenv "BUILD" or "build"
local PROMPT, GENERATED, DEPTHS = 512, 128, {2048, 7000} -- depths beside 0

local function quote(text) return "'" .. text:gsub("'", "'\\''") .. "'" end

-- What a command writes to stdout, or nil when it fails.
local function output(command)
  local pipe <close> = assert(io.popen(command))
  local text = pipe:read "a"
  return pipe:close() and text or nil
end

-- Seconds on the wall that a command takes; Lua itself has no such clock.
local function wall(command)
  local line = "a=$(date +%%s%%N); %s >/dev/null; b=$(date +%%s%%N); echo $((b - a))"
  return tonumber(output(line:format(command))) * 1e-9
end

local function exists(path)
  local file <close> = io.open(path)
  return file ~= nil
end

local function note(format, ...) io.stderr:write(format:format(...), "\n") end

local function print_row(name, ...)
  local cells = {("  %-24s"):format(name)}
  for i, cell in ipairs {...} do cells[i + 1] = (i == 4 and "%16s" or "%10s"):format(cell) end
  print((table.concat(cells):gsub("%s+$", "")))
end

local function number(x) return x and ((x < 9.995 and "%.2f" or x < 99.95 and "%.1f" or "%.0f"):format(x)) or "-" end
local function megabytes(bytes) return ("%.0f MB"):format(bytes / 1e6) end

-- ---- the machine ----

local function limits()
  local program = BUILD .. "/measure_limits"
  local compile = "%s -std=gnu17 -O3 -pthread -o %s tools/measure_limits.c >&2"
  local built = output(compile:format(os.getenv "CC" or "cc", quote(program)))
  local text = built and output(quote(program))
  if not text then
    note("tools/measure_limits.c does not run here: no shares")
    return nil
  end
  local measured = assert(ml.json.decode(text))
  local all = measured.all
  print(("machine: %d threads, %s"):format(all.threads, measured.isa))
  print(("  reads %.1f GB/s; float32 %.0f, bfloat16 %.0f GFLOP/s; 8-bit %.0f GOP/s"):format(
    all.read_gb_s, all.f32_gflop_s, all.bf16_gflop_s, all.int8_gop_s))
  return all
end

-- ---- a model ----

-- What a token costs, from the model itself: bytes and operations; and bytes of the KV cache a token.
local function costs(path)
  local m <close> = assert(ml.load(path))
  local c, info = m.config, m.info
  local vocabulary = info.vocab_size * info.hidden_size
  local head = c.tie_word_embeddings and vocabulary or 2 * vocabulary -- embedding and head
  local heads, width = c.num_key_value_heads, c.head_dim
  local element = m.cache_dtype == "float32" and 4 or 2
  local q = info.quantization
  return {
    decode_bytes = info.bytes, quantised = q ~= nil, format = q and q.format:upper() or "floats",
    prefill_operations = 2 * (info.parameters - head), cache_bytes = 2 * info.layers * heads * width * element,
  }
end

local function with_peer(path, bench, rounds)
  local line = "LLAMA_BENCH=%s %s/moonlet tools/bench_peer.lua --moonlet %s/moonlet -m %s -r %d -p %d -n %d -d %s " ..
    "--json"
  local depths = table.concat(DEPTHS, ",")
  local text = output(line:format(quote(bench), BUILD, BUILD, quote(path), rounds, PROMPT, GENERATED, depths))
  return text and assert(ml.json.decode(text)) or nil
end

-- The same figures of moonlet alone.
local function alone(path, rounds)
  local line = "%s/moonlet bench -m %s -p %d -n %d -r %d -q --json"
  local text = output(line:format(BUILD, quote(path), PROMPT, GENERATED, rounds))
  if not text then return nil end
  local deep = output(("%s/moonlet bench -m %s -p 0 -n %d -d %s -r %d -q --json"):format(
    BUILD, quote(path), GENERATED, table.concat(DEPTHS, ","), rounds))
  if not deep then return nil end
  local r, times = assert(ml.json.decode(text)), {}
  local prompt = ("The old harbour lay quiet. "):rep(3) -- about 16 tokens
  for i = 1, rounds do
    times[i] = wall(("%s/moonlet generate -m %s -p %s -n 1 --temp 0 -q"):format(BUILD, quote(path), quote(prompt)))
  end
  table.sort(times)
  local figures = {
    prefill = {moonlet = r.prefill[1].median}, decode = {moonlet = r.decode[1].median},
    start = {moonlet = times[(rounds + 1) // 2]}, peak_bytes = r.peak_bytes,
  }
  for _, x in ipairs(ml.json.decode(deep).decode) do
    figures[("decode_%d"):format(x.depth)] = {moonlet = x.median}
  end
  return figures
end

local ROWS = {
  {"prefill", ("prefill %d, tokens/s"):format(PROMPT)},
  {"decode", ("decode %d, tokens/s"):format(GENERATED)},
}
for _, depth in ipairs(DEPTHS) do
  ROWS[#ROWS + 1] = {("decode_%d"):format(depth), ("decode %d after %d"):format(GENERATED, depth)}
end
ROWS[#ROWS + 1] = {"start", "first token, s"}

-- Parts of the machine's limits that were reached.
local function shares_of(r, cost, machine)
  if not machine then return {} end
  local arithmetic = cost.quantised and machine.int8_gop_s or machine.f32_gflop_s
  return {
    decode = r.decode.moonlet * cost.decode_bytes * 1e-9 / machine.read_gb_s,
    -- 0: no instruction for it
    prefill = arithmetic > 0 and r.prefill.moonlet * cost.prefill_operations * 1e-9 / arithmetic or nil,
  }
end

local function report(path, bench, rounds, machine)
  local file <close> = assert(io.open(path))
  local size, cost = file:seek "end", costs(path)
  local r = bench and with_peer(path, bench, rounds) or alone(path, rounds)
  print(("\n%s (%s, %s)"):format(path:match "[^/]+$", cost.format, megabytes(size)))
  if not r then
    print "  failed"
    return false
  end
  print_row("", "moonlet", "llama.cpp", "ratio", "least .. most", "share")
  local shares = shares_of(r, cost, machine)
  for _, row in ipairs(ROWS) do
    local x, share = r[row[1]], shares[row[1]]
    local ratio = x.ratio
    print_row(row[2], number(x.moonlet), number(x.llama_cpp), ratio and number(ratio.median) or "-",
      ratio and ("%.2f .. %.2f"):format(ratio.min, ratio.max) or "-", share and ("%.0f %%"):format(100 * share) or "-")
  end
  local cache = cost.cache_bytes * (PROMPT + 1)
  local allowed = 1.2 * size + cache + 30e6
  print(("  peak memory %s; allowed: %s, which is 1.2 of the file + cache (%s) + 30 MB"):format(
    megabytes(r.peak_bytes), megabytes(allowed), megabytes(cache)))
  return true
end

-- ---- text and start-up ----

local function encoding()
  print "\nencoding, one thread, beside the package tokenizers"
  local folder = os.getenv "MOONLET_TEST_TOKENIZERS"
  if not folder or folder == "" then
    return print "  left out: MOONLET_TEST_TOKENIZERS names no folder of tokenizers"
  end
  local own = BUILD .. "/venv-tokenizers/bin/python"
  local python = os.getenv "PYTHON" or (exists(own) and own or "python3")
  if not output(python .. " -c 'import tokenizers' 2>/dev/null") then
    return print(("  left out: %s has no package tokenizers; `make check-tokenizers` installs it"):format(python))
  end
  local driver = BUILD .. "/tests/tools/tokenizer_driver"
  if not output(("make -s %s >&2"):format(quote(driver))) then return print "  left out: the driver does not build" end
  local line = "%s tests/tools/compare_tokenizers.py %s %s -n 50 --speed"
  local text = output(line:format(python, quote(driver), quote(folder)))
  if not text then return print "  failed" end
  for row in text:gmatch "[^\n]+" do print("  " .. (row:match "^([%w_]+):" or row)) end
end

-- Milliseconds of a whole process that only starts; the least of several, since the rest is the machine's other work.
-- A REPL wants a terminal, so its own start, to the prompt, is measured by a test.
local function start_up()
  local least = math.huge
  for _ = 1, 20 do least = math.min(least, wall(BUILD .. "/moonlet -e ''") * 1e3) end
  print(("\nstart and end of the command: %.1f ms"):format(least))
  if output(("make -s %s/tests/test_repl >&2"):format(quote(BUILD))) then
    local said = output(quote(BUILD .. "/tests/test_repl") .. " 2>&1; true") or ""
    print("the REPL, from its start to the prompt: " .. (said:match "the REPL starts in[^\n]*" or "not measured"))
  end
end

-- ---- main ----

local function arguments()
  local rounds, models = tonumber(os.getenv "BENCH_ROUNDS" or 5), {}
  local i = 1
  while arg[i] do
    if arg[i] == "-r" then
      rounds, i = tonumber(arg[i + 1]), i + 2
    else
      models[#models + 1], i = arg[i], i + 1
    end
  end
  rounds = rounds and math.tointeger(rounds)
  if not rounds or rounds < 1 then
    io.stderr:write("usage: moonlet tools/bench.lua [-r ROUNDS] [MODEL.gguf ...]\n")
    os.exit(2)
  end
  if #models == 0 then
    for _, name in ipairs {"SmolLM2-135M-Instruct.gguf", "gemma-3-270m.gguf"} do
      if exists("checkpoints/" .. name) then models[#models + 1] = "checkpoints/" .. name end
    end
  end
  return rounds, models
end

local function peer()
  local given = os.getenv "LLAMA_BENCH"
  if given and given ~= "" then return given end
  return exists "build-peer/bin/llama-bench" and "build-peer/bin/llama-bench" or nil
end

local rounds, models = arguments()
local bench = peer()
if not bench then note "no peer: set LLAMA_BENCH, or run tools/build_peer.sh build-peer once (a quarter of an hour)" end
if #models == 0 then note "no model in checkpoints/: `make models` fetches two" end
local machine = limits()
local failed = 0
for _, path in ipairs(models) do
  if not report(path, bench, rounds, machine) then failed = failed + 1 end
end
encoding()
start_up()
os.exit(failed == 0)
