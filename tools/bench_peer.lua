-- Runs moonlet and llama.cpp in turn on one model and prints how much faster one is than the other.
--
--     LLAMA_BENCH=PEER/bin/llama-bench lua5.4 tools/bench_peer.lua -m MODEL.gguf [options]
--
--   -m MODEL    a .gguf file, which both can read
--   -r N        rounds (5)
--   -p N        prompt tokens (512)                -n N   generated tokens (128)
--   -t N        threads of the peer (all; moonlet takes all)
--   -d N,..     tokens before those that are generated, beside 0 (2048,7000; "" for none)
--   --moonlet PATH (build/moonlet)     --json     one object instead of a table
--
-- Absolute figures of shared machines drift by tens of percent, so each round runs both within a minute, in an order
-- that changes from round to round, and what counts is the median of the rounds' ratios; above 1 moonlet is faster. The
-- last line is the wall time of a whole process that reads a prompt of about 16 tokens and prints one: `moonlet
-- generate` against llama-completion (next to llama-bench, its warm-up off).

local PROMPT = "The old harbour lay quiet under a grey sky, and the first boats of the morning"

local function fail(text)
  io.stderr:write("bench_peer: ", text, "\n")
  os.exit(1)
end

---@return table options
local function arguments(list)
  local o = {rounds = 5, prompt = 512, generated = 128, depths = "2048,7000", moonlet = "build/moonlet"}
  local numbers = {["-r"] = "rounds", ["-p"] = "prompt", ["-n"] = "generated", ["-t"] = "threads"}
  local texts = {["-m"] = "model", ["--moonlet"] = "moonlet", ["-d"] = "depths"}
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

---Figures of moonlet by the name of the row: tokens per second; and the most bytes that it had resident at depth 0.
local function run_moonlet(o)
  local line = "%s bench -m %s -p %d -n %d -d %s -r 1 --json 2>/dev/null"
  local median = '"median"%s*:%s*([%d.eE+-]+)'
  local text = output(line:format(quote(o.moonlet), quote(o.model), o.prompt, o.generated, 0))
  local figures = {
    prefill = number(text:match('"prefill"%s*:%s*(%b[])'), median, "moonlet bench"),
    decode = number(text:match('"decode"%s*:%s*(%b[])'), median, "moonlet bench"),
  }
  local peak = number(text, '"peak_bytes"%s*:%s*(%d+)', "moonlet bench")
  if #o.depth_list == 0 then return figures, peak end
  text = output(line:format(quote(o.moonlet), quote(o.model), 0, o.generated, o.depths))
  for one in text:match('"decode"%s*:%s*(%b[])'):gmatch "%b{}" do
    figures["decode_" .. one:match '"depth"%s*:%s*(%d+)'] = number(one, median, "moonlet bench")
  end
  return figures, peak
end

---The same of llama.cpp, whose output is a list with an object for each test.
local function run_peer(o)
  local figures = {}
  local function run(prompt, depths)
    local text = output(("%s -m %s -p %d -n %d -d %s -t %d -r 1 -o json 2>/dev/null"):format(
      quote(o.bench), quote(o.model), prompt, o.generated, depths, o.threads))
    for test in text:gmatch("%b{}") do
      local rate = number(test, '"avg_ts"%s*:%s*([%d.eE+-]+)', "llama-bench")
      local depth = number(test, '"n_depth"%s*:%s*(%d+)', "llama-bench")
      local name = depth == 0 and "decode" or ("decode_%d"):format(depth)
      figures[number(test, '"n_prompt"%s*:%s*(%d+)', "llama-bench") > 0 and "prefill" or name] = rate
    end
  end
  run(o.prompt, 0)
  if #o.depth_list > 0 then run(0, o.depths) end
  return figures
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

---One round of both, in the order given, into the lists of figures.
local function round(o, ours, theirs, peer_first)
  local function one(side, bench, wall)
    local figures, peak = bench(o)
    if peak then o.peak_bytes = math.max(o.peak_bytes or 0, peak) end
    figures.start = wall(o)
    for _, name in ipairs(o.rows) do
      table.insert(side[name], figures[name] or fail("no figure of " .. name))
    end
  end
  if peer_first then one(theirs, run_peer, wall_peer) end
  one(ours, run_moonlet, wall_moonlet)
  if not peer_first then one(theirs, run_peer, wall_peer) end
end

local function report(o, ours, theirs)
  local rows = {}
  for _, name in ipairs(o.rows) do
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
  for _, depth in ipairs(o.depth_list) do
    labels["decode_" .. depth] = ("decode %d after %s"):format(o.generated, depth)
  end
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

o.depth_list, o.rows = {}, {"prefill", "decode"}
for depth in o.depths:gmatch "%d+" do
  table.insert(o.depth_list, depth)
  table.insert(o.rows, "decode_" .. depth)
end
table.insert(o.rows, "start")

local ours, theirs = {}, {}
for _, name in ipairs(o.rows) do ours[name], theirs[name] = {}, {} end
for i = 1, o.rounds do
  io.stderr:write(("round %d of %d\n"):format(i, o.rounds))
  round(o, ours, theirs, i % 2 == 0)
end
report(o, ours, theirs)
