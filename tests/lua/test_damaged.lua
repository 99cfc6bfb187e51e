-- Damaged files: each is a clean error within a second, or loads and generates; and what comes next in the same process
-- is right.
local ml = require "moonlet"
local core = require "moonlet.core"
local damage = require "tests.damage"
local tiny = require "tests.tiny"
local t = require "tests.lua.harness"

t.leak_check = function() return ml.memory.active() end

local sanitized = (os.getenv "SANITIZE" or "") ~= ""
local seconds = sanitized and 30 or 1
local codes = {
  corrupt = true, mismatch = true, not_found = true, unsupported = true, limit = true, io = true, memory = true,
}

local prompt = {90, 14, 79, 59, 97, 59}
local text = "the moon and the tides"
local folder = tiny.folder "damaged"
local good_directory = tiny.write_directory "damaged/good"
local good_gguf = folder .. "/good.gguf"
tiny.write(good_gguf, tiny.gguf())

local function continuation(m, what, n)
  local _, result = m:complete(what, {max_tokens = n or 8, ignore_eos = true})
  return result.ids
end

local good = assert(ml.load(good_directory, {precision = "exact"}))
local expected, of_text = continuation(good, prompt), continuation(good, text)

t.test("directory and GGUF file are the same model", function()
  local golden = core.read_json("tests/goldens/tiny/llama/expected.json").generate
  t.eq(table.concat(expected, " "), table.concat(golden.ids, " ", 1, 8))
  local m <close> = assert(ml.load(good_gguf, {precision = "exact", strict = true}))
  t.eq(#m.info.warnings, 0, m.info.warnings[1])
  t.eq(m.tokenizer:encode(text), good.tokenizer:encode(text))
  t.eq(continuation(m, prompt), expected)
  t.eq(continuation(m, text), of_text)
end)

-- The damaged path is loaded and, where it loads, generates; a failure must have a code and name what it is about.
local function try(path, variant)
  local from = core.clock()
  local ok, m, message, code = pcall(ml.load, path)
  local took = core.clock() - from
  if not ok then error(("load raised: %s"):format(tostring(m)), 0) end
  t.ok(took < seconds, ("load took %.2f s"):format(took))
  if not m then
    t.ok(codes[code], ("code %s of: %s"):format(code, message))
    t.ok(message:find(path, 1, true) and #message > #path + 8, "names no file: " .. message)
    t.ok(not message:find "attempt to" and not message:find "stack traceback", "an accident: " .. message)
    return "refused", message
  end
  local model <close> = m
  t.ok(not variant.must_fail, "loads")
  local fine, err = pcall(continuation, model, model.tokenizer and text or prompt, 4)
  t.ok(fine or type(err) == "table" and err.code, tostring(err))
  return "loads"
end

local done = 0
local function check_good()
  done = done + 1
  t.eq(continuation(good, prompt), expected, "the next generation")
  if done % 20 == 0 then
    local again <close> = assert(ml.load(good_directory, {precision = "exact"}))
    t.eq(continuation(again, text), of_text, "the next load")
  end
end

local verbose = os.getenv "V"
local function run(name, path, target, bytes, list)
  for i, variant in ipairs(list) do
    t.test(("%s %d: %s"):format(name, i, variant.name), function()
      tiny.write(target, damage.apply(bytes, variant))
      local outcome, message = try(path, variant)
      if verbose then print(outcome, message) end
      check_good()
    end)
  end
end

-- Bits of weights, where no check can tell: they load, or are refused for a value that is no number.
local function flipped_weights(bytes, count)
  local list = {}
  for i = 1, count do
    local at = #bytes - (i * 7919) % (#bytes // 2)
    local byte = bytes:byte(at)
    local flip = {at = at, remove = 1, insert = string.char(byte ~ 0xff)}
    list[i] = {name = ("weight byte %d flipped"):format(at - 1), edits = {flip}}
  end
  return list
end

local function gguf(name, bytes, count, seed)
  local path = folder .. "/" .. name .. ".gguf"
  run(name, path, path, bytes, damage.variants(bytes, count, seed))
  run(name .. " weights", path, path, bytes, flipped_weights(bytes, 10))
end

local function in_directory(file, count, must_parse)
  local path = tiny.write_directory("damaged/" .. file:gsub("%W", "_"))
  local bytes = tiny.directory()[file]
  local list = damage.variants(bytes, count)
  for _, variant in ipairs(list) do -- Python's numbers may stand in a configuration, where nobody may read them
    local python = file:match "config%.json$" and (variant.name:match "by NaN$" or variant.name:match "by Infinity$")
    if not must_parse or python then variant.must_fail = false end
  end
  run(file, path, path .. "/" .. file, bytes, list)
end

local function in_shards(count)
  local source, path = "tests/goldens/tiny/llama_linear_shards", tiny.folder "damaged/shards"
  for _, file in ipairs(assert(core.list_directory(source))) do
    tiny.write(path .. "/" .. file, tiny.read(source .. "/" .. file))
  end
  local file = "model.safetensors.index.json"
  local bytes = tiny.read(source .. "/" .. file)
  run(file, path, path .. "/" .. file, bytes, damage.variants(bytes, count))
  local changes = {
    {"a path out of the folder", "model%-00001%-of%-00003", "../shards/model-00001-of-00003"},
    {"an absolute path", '"model%-00001%-of', '"/model-00001-of'},
    {"a shard that is not there", "00003%-of%-00003", "00004-of-00003"},
    {"a weight in another shard", "00001%-of%-00003", "00002-of-00003"},
    {"a weight that is nowhere", "mlp%.up_proj", "mlp.up_prow"},
    {"no map", '"weight_map"', '"weight_mop"'},
  }
  local list = {}
  for i, change in ipairs(changes) do
    local first, last = bytes:find(change[2])
    local edit = {at = first, remove = last - first + 1, insert = change[3]}
    list[i] = {name = change[1], must_fail = true, edits = {edit}}
  end
  run(file .. " hostile", path, path .. "/" .. file, bytes, list)
end

gguf("float", tiny.gguf(), 70, 1)
gguf("quantised", tiny.quantised_gguf(), 40, 2)
in_directory("model.safetensors", 60, true)
in_directory("config.json", 50, true)
in_directory("tokenizer.json", 50, true)
in_directory("tokenizer_config.json", 20, true)
in_directory("generation_config.json", 10, true)

in_shards(20)

good:close()
t.done()
