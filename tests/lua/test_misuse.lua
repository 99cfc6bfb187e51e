-- Misuse: every function of the interface, called with arguments of the wrong kind, count and size. Each call returns,
-- or raises an error object with a code; none crashes, hangs or takes the machine's memory. MISUSE_ROUNDS sets how
-- often each function is tried.
local ml = require "moonlet"
local core = require "moonlet.core"
local tiny = require "tests.tiny"
local t = require "tests.lua.harness"

t.leak_check = function() return ml.memory.active() end

local sanitized = (os.getenv "SANITIZE" or "") ~= ""
local rounds = math.tointeger(os.getenv "MISUSE_ROUNDS") or (sanitized and 40 or 120)
local seconds = sanitized and 60 or 10
ml.memory.limit(1 << 30)

-- ---- chance, the same each time ----

local state = 20 + (math.tointeger(os.getenv "MISUSE_SEED") or 0)
local function random(low, high)
  state = state * 6364136223846793005 + 1442695040888963407
  return low + (state >> 33) % (high - low + 1)
end
local function choose(list) return list[random(1, #list)] end

-- ---- arguments ----

local numbers = {
  0, 1, -1, 2, 3, 7, -5, 1.5, -0.5, 0 / 0, 1 / 0, -1 / 0, 1 << 31, (1 << 31) - 1, 1 << 32, 1 << 40, 1 << 62,
  math.maxinteger, math.mininteger, 1e300, 2 ^ 53, 4, 5, 6,
}
local strings = {
  "", "float32", "int32", "float16", "q4_0", "bool", "nope", "\0", "\xff\xfe", ("x"):rep(5000), "/nonexistent/file",
  "1", "axis", "%s%n",
}
local names = {
  "axis", "keepdims", "dtype", "shape", "key", "low", "high", "max_tokens", "temperature", "stop", "seed", "n", "eps",
  "cache", "window", "scale", "mask", "add_special_tokens", "template", "top_k", "logprobs", "state", "sampler",
  "context",
}
local dtypes = {"float32", "float16", "bfloat16", "int32", "int64", "uint8", "bool", "float64", "int8", "uint32"}

local function small_tensor()
  local shape = {}
  for i = 1, random(0, 4) do shape[i] = random(0, 4) end
  return ml.zeros(shape, {dtype = choose(dtypes)})
end

local closed = ml.tensor {1, 2, 3}
closed:close()

local value
local function plain_table(depth)
  local out = {}
  local shape = random(1, 6)
  for i = 1, random(0, 5) do
    if shape == 1 then out[i] = choose(numbers)
    elseif shape == 2 then out[i] = random(0, 4)
    elseif shape == 3 then out[choose(names)] = value(depth + 1)
    elseif shape == 4 then out[i * 2] = value(depth + 1) -- holes
    else out[i] = value(depth + 1) end
  end
  return out
end

local files = io.tmpfile()
local makers = {
  function() return nil end,
  function() return choose(numbers) end, function() return choose(numbers) end, function() return choose(strings) end,
  function() return random(0, 1) == 1 end, plain_table, plain_table, small_tensor, small_tensor, small_tensor,
  function() return closed end, function() return files end, function() return print end,
  function() return function() return small_tensor() end end,
  function() return coroutine.create(print) end, function() return ml.json.null end,
  function() return setmetatable({}, {__index = function() error "hostile" end}) end,
  function() return random(1, 4) end, function() return {random(0, 4), random(0, 4)} end,
}
function value(depth)
  depth = depth or 0
  local maker = choose(makers)
  if depth > 2 and maker == plain_table then return 1 end
  return maker(depth)
end

-- ---- one call ----

local function describe(v)
  if type(v) == "string" then return ("%q"):format(v:sub(1, 20)) end
  if type(v) == "table" and getmetatable(v) == nil then
    local parts = {}
    for k, x in next, v do
      local text = type(x) == "table" and "{...}" or tostring(x):sub(1, 20)
      parts[#parts + 1] = tostring(k) .. "=" .. text
    end
    return "{" .. table.concat(parts, ", ") .. "}"
  end
  if type(v) == "userdata" then return (tostring(v):gsub("\n", " "):sub(-60)) end
  return tostring(v)
end

local function attempt(name, fn, first)
  local args, n = {first}, first ~= nil and 1 or 0
  for _ = 1, random(0, 5) do
    n = n + 1
    args[n] = value()
  end
  local from = core.clock()
  if os.getenv "MISUSE_TRACE" then
    local parts = {}
    for i = 1, n do parts[i] = describe(args[i]) end
    io.stderr:write(name, " ", table.concat(parts, ", "), "\n")
  end
  local ok, err = pcall(fn, table.unpack(args, 1, n))
  local took = core.clock() - from
  local function call()
    local parts = {}
    for i = 1, n do parts[i] = describe(args[i]) end
    return ("%s(%s)"):format(name, table.concat(parts, ", "))
  end
  if took > seconds then error(("%.1f s: %s"):format(took, call()), 0) end
  if ok then return err end
  if type(err) ~= "table" or not err.code then
    if not tostring(err):find "hostile" then error(("%s raised %s"):format(call(), tostring(err):sub(1, 300)), 0) end
  end
end

-- What saves does so in a folder of the test's own, whatever the name.
local folder = tiny.folder "misuse-saved"
local function in_folder(save)
  return function(path, ...) return save(type(path) == "string" and folder .. "/" .. path or path, ...) end
end

local function run(name, fn, first)
  if name:find "%.save_" then fn = in_folder(fn) end
  t.test(name, function()
    for _ = 1, rounds do
      local result = attempt(name, fn, first and first())
      if ml.is_tensor(result) and random(0, 3) == 0 then -- what was recorded can be computed, or says why not
        local ok, err = pcall(ml.eval, result)
        if not ok and (type(err) ~= "table" or not err.code) then
          error(("eval of %s: %s"):format(name, tostring(err)), 0)
        end
      end
    end
    core.drop_effects(0)
  end)
end

local function sorted(list)
  local keys = {}
  for k, v in next, list do
    if type(k) == "string" and type(v) == "function" then keys[#keys + 1] = k end
  end
  table.sort(keys)
  return keys
end

local function run_all(prefix, list, skipped, first)
  for _, name in ipairs(sorted(list)) do
    if not skipped[name] then run(prefix .. name, list[name], first) end
  end
end

-- ---- the interface ----

-- Loads the lazy ones.
for _, name in ipairs {
  "load", "discover", "tokenizer", "register_backend", "backends", "load_safetensors", "save_safetensors", "load_gguf",
  "load_npy", "save_npy", "cancel_token", "random",
} do assert(ml[name]) end

run_all("ml.", ml, {threads = true, default_device = true, register_backend = true})
run_all("method ", core.methods, {}, small_tensor)
run_all("random.", ml.random, {})
run_all("json.", ml.json, {})
run_all("fn.", require "moonlet.fn", {})
run_all("sample.", require "moonlet.sample", {})
run_all("memory.", ml.memory, {limit = true, cache_limit = true})
local nn = require "moonlet.nn"
run_all("nn.", nn, {})
for _, class in ipairs {"Linear", "Embedding", "RMSNorm", "LayerNorm", "RoPE", "Dropout"} do
  run("nn." .. class, function(...) return nn[class](...) end)
end
for _, event in ipairs {
  "__add", "__sub", "__mul", "__div", "__idiv", "__mod", "__pow", "__unm", "__index", "__len", "__tostring",
} do
  run(event, getmetatable(ml.zeros {1})[event], small_tensor)
end

-- What scripts can reach though it is not theirs to call.
run_all("core.", core, {
  threads = true, default_device = true, write_file = true, cancel = true, deadline = true, enter = true,
  record = true,
})

local path = tiny.write_directory "misuse"
t.test("a model's methods", function()
  local m <close> = assert(ml.load(path))
  local s <close> = m:session {}
  local plain = {"prompt_ids", "generate", "chat", "complete", "session", "logits", "perplexity", "generation_defaults"}
  for _ = 1, rounds do
    for _, name in ipairs(plain) do
      local result = attempt("model:" .. name, m[name], m)
      if type(result) == "table" and result.next then
        pcall(result.next, result)
        result:close()
      elseif type(result) == "table" and result.send then result:close() end
    end
    for _, name in ipairs {"send", "generate", "trim"} do
      local result = attempt("session:" .. name, s[name], s)
      if type(result) == "table" and result.close then result:close() end
    end
    for _, name in ipairs {"encode", "decode", "stream", "id", "piece", "apply_chat_template", "encode_chat"} do
      attempt("tokenizer:" .. name, m.tokenizer[name], m.tokenizer)
    end
  end
  core.drop_effects(0)
end)

t.test("generation still works", function()
  local m <close> = assert(ml.load(path, {precision = "exact"}))
  local golden = core.read_json("tests/goldens/tiny/llama/expected.json").generate
  local _, result = m:complete(golden.prompt, {max_tokens = 6, ignore_eos = true})
  t.eq(table.concat(result.ids, " "), table.concat(golden.ids, " ", 1, 6))
end)

ml.memory.limit(0)
t.done()
