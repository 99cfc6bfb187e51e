-- Runs moonlet and llama.cpp in turn on one model and prints how much faster one is than the other.
--
--     LLAMA_BENCH=PEER/bin/llama-bench lua5.4 tools/bench_peer.lua -m MODEL.gguf [options]
--
--   -m MODEL    a .gguf file, which both can read
--   -r N        rounds (5)
--   -p N        prompt tokens (512)                -n N   generated tokens (128)
--   -t N        threads of the peer (all; moonlet takes all)
--   --moonlet PATH (build/moonlet)     --json     one object instead of a table
--
-- Absolute figures of shared machines drift by tens of percent, so each round runs both within a minute, in an order
-- that changes from round to round, and what counts is the median of the rounds' ratios; above 1 moonlet is faster. The
-- third line is the wall time of a whole process that reads a prompt of about 16 tokens and prints one: `moonlet
-- generate` against llama-completion (next to llama-bench, its warm-up off).

local PROMPT = "The old harbour lay quiet under a grey sky, and the first boats of the morning"

local function fail(text)
  io.stderr:write("bench_peer: ", text, "\n")
  os.exit(1)
end

---@return table options
local function arguments(list)
  local o = {rounds = 5, prompt = 512, generated = 128, moonlet = "build/moonlet"}
  local numbers = {["-r"] = "rounds", ["-p"] = "prompt", ["-n"] = "generated", ["-t"] = "threads"}
  local texts = {["-m"] = "model", ["--moonlet"] = "moonlet"}
  local i = 1
  while i <= #list do
    local name, value = list[i], list[i + 1]
    if name == "--json" then
      o.json, i = true, i + 1
    elseif numbers[name] and math.tointeger(tonumber(value)) and tonumber(value) > 0 then
      o[numbers[name]], i = math.tointeger(tonumber(value)), i + 2
    elseif texts[name] and value then
      o[texts[name]], i = value, i + 2
    else
      io.stderr:write("bench_peer: wrong usage at ", name, "; the file's first comment tells the options\n")
      os.exit(2)
    end
  end
  return o
end

local function quote(text) return "'" .. text:gsub("'", "'\\''") .. "'" end

---What the command wrote to stdout; its failure is ours.
local function output(command)
  local pipe = assert(io.popen(command))
  local text = pipe:read("a")
  local ok, _, code = pipe:close()
  if not ok then fail(("exit status %s of: %s"):format(code, command)) end
  return text
end

---Seconds on the wall that the command takes; Lua itself has no such clock.
local function seconds(command)
  local line = "a=$(date +%%s%%N); %s >/dev/null 2>&1 || exit; b=$(date +%%s%%N); echo $((b - a))"
  return tonumber(output(line:format(command))) * 1e-9
end

local function number(text, pattern, from)
  local found = tonumber(text and text:match(pattern))
  if not found then fail("no figure in the output of " .. from) end
  return found
end

---Tokens per second of moonlet: prefill and decode; the most bytes that it had resident.
local function run_moonlet(o)
  local text = output(("%s bench -m %s -p %d -n %d -r 1 --json 2>/dev/null"):format(
    quote(o.moonlet), quote(o.model), o.prompt, o.generated))
  local median = '"median"%s*:%s*([%d.eE+-]+)'
  return number(text:match('"prefill"%s*:%s*(%b[])'), median, "moonlet bench"),
    number(text:match('"decode"%s*:%s*(%b[])'), median, "moonlet bench"),
    number(text, '"peak_bytes"%s*:%s*(%d+)', "moonlet bench")
end

---The same of llama.cpp, whose output is a list with an object for each of the two tests.
local function run_peer(o)
  local text = output(("%s -m %s -p %d -n %d -t %d -r 1 -o json 2>/dev/null"):format(
    quote(o.bench), quote(o.model), o.prompt, o.generated, o.threads))
  local prefill, decode
  for test in text:gmatch("%b{}") do
    local rate = number(test, '"avg_ts"%s*:%s*([%d.eE+-]+)', "llama-bench")
    if number(test, '"n_prompt"%s*:%s*(%d+)', "llama-bench") > 0 then prefill = rate else decode = rate end
  end
  if not (prefill and decode) then fail("llama-bench gave no two figures") end
  return prefill, decode
end

local function wall_moonlet(o)
  return seconds(("%s generate -m %s -p %s -n 1 --temp 0 -q"):format(quote(o.moonlet), quote(o.model), quote(PROMPT)))
end

local function wall_peer(o)
  return seconds(("%s -m %s -p %s -n 1 --temp 0 -t %d -no-cnv --no-warmup </dev/null"):format(
    quote(o.completion), quote(o.model), quote(PROMPT), o.threads))
end

---@return number median, number min, number max
local function spread(list)
  local sorted = table.move(list, 1, #list, 1, {})
  table.sort(sorted)
  local n = #sorted
  return (sorted[(n + 1) // 2] + sorted[n // 2 + 1]) / 2, sorted[1], sorted[n]
end

local ROWS = {"prefill", "decode", "start"}

---One round of both, in the order given, into the lists of figures.
local function round(o, ours, theirs, peer_first)
  local function one(side, bench, wall)
    local prefill, decode, peak = bench(o)
    if peak then o.peak_bytes = math.max(o.peak_bytes or 0, peak) end
    table.insert(side.prefill, prefill)
    table.insert(side.decode, decode)
    table.insert(side.start, wall(o))
  end
  if peer_first then one(theirs, run_peer, wall_peer) end
  one(ours, run_moonlet, wall_moonlet)
  if not peer_first then one(theirs, run_peer, wall_peer) end
end

local function report(o, ours, theirs)
  local rows = {}
  for _, name in ipairs(ROWS) do
    local ratios = {}
    for i = 1, o.rounds do
      local a, b = ours[name][i], theirs[name][i]
      ratios[i] = name == "start" and b / a or a / b
    end
    local row = {name = name, ours = spread(ours[name]), theirs = spread(theirs[name])}
    row.ratio, row.min, row.max = spread(ratios)
    rows[#rows + 1] = row
  end
  if o.json then
    local parts = {}
    local line = '"%s": {"moonlet": %.6g, "llama_cpp": %.6g, "ratio": {"median": %.4g, "min": %.4g, "max": %.4g}}'
    for i, r in ipairs(rows) do parts[i] = line:format(r.name, r.ours, r.theirs, r.ratio, r.min, r.max) end
    print(('{"rounds": %d, "threads": %d, "peak_bytes": %d, %s}'):format(
      o.rounds, o.threads, o.peak_bytes, table.concat(parts, ", ")))
    return
  end
  print(("%-22s %12s %12s %8s   %s"):format("median of " .. o.rounds, "moonlet", "llama.cpp", "ratio", "least .. most"))
  local labels = {prefill = ("prefill %d, tok/s"):format(o.prompt), decode = ("decode %d, tok/s"):format(o.generated),
                  start = "first token, s"}
  for _, r in ipairs(rows) do
    print(("%-22s %12.4g %12.4g %8.2f   %.2f .. %.2f"):format(
      labels[r.name], r.ours, r.theirs, r.ratio, r.min, r.max))
  end
end

local o = arguments(arg)
o.bench = os.getenv "LLAMA_BENCH"
  or fail "LLAMA_BENCH is not set: the path of llama-bench, which tools/build_peer.sh makes"
o.completion = (o.bench:match("^.*/") or "") .. "llama-completion"
if not o.model then fail("-m MODEL is missing") end
o.threads = o.threads or tonumber(output("getconf _NPROCESSORS_ONLN"))

local ours, theirs = {prefill = {}, decode = {}, start = {}}, {prefill = {}, decode = {}, start = {}}
for i = 1, o.rounds do
  io.stderr:write(("round %d of %d\n"):format(i, o.rounds))
  round(o, ours, theirs, i % 2 == 0)
end
report(o, ours, theirs)
