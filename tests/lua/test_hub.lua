-- The local cache of the hub: found as the hub's own tools find it, loaded from by name, listed; nothing is downloaded.
local ml = require "moonlet"
local hub = require "moonlet.hub"
local tiny = require "tests.tiny"
local t = require "tests.lua.harness"

t.leak_check = function() return ml.memory.active() end

-- Runs fn in an environment of these variables alone.
local function with(environment, fn, ...)
  local getenv = os.getenv
  rawset(os, "getenv", function(name) return environment[name] end)
  local results = table.pack(pcall(fn, ...))
  rawset(os, "getenv", getenv)
  if not results[1] then error(results[2], 0) end
  return table.unpack(results, 2, results.n)
end

local root = tiny.folder "hub"
local cache = root .. "/hub"
local here = {HF_HUB_CACHE = cache}
local function make(path, text)
  assert(os.execute(("mkdir -p '%s'"):format((cache .. "/" .. path):match "^(.*)/")))
  local file <close> = assert(io.open(cache .. "/" .. path, "wb"))
  assert(file:write(text))
end
local function copy(from, to)
  local file <close> = assert(io.open(from, "rb"))
  make(to, file:read "a")
end

local model = "models--tiny--qwen3/snapshots/0123abc"
for _, name in ipairs {"config.json", "model.safetensors"} do
  copy("tests/goldens/tiny/qwen3/" .. name, model .. "/" .. name)
end
for _, name in ipairs {"tokenizer.json", "tokenizer_config.json"} do
  copy("tests/data/letters/" .. name, model .. "/" .. name)
end
make("models--tiny--qwen3/refs/main", "0123abc")
make("models--tiny--half/refs/main", "0123abc") -- a download that never came
make("models--tiny--bare/blobs/x", "")
make("models--old/refs/main", "7")
make("models--old/snapshots/7/config.json", '{"model_type": "gpt2"}')
copy("tests/goldens/tiny/qwen3/config.json", "models--solo/snapshots/8/config.json")
make("models--solo/refs/main", "8")
make("datasets--tiny--qwen3/refs/main", "0123abc")
make("version.txt", "1")

t.test("where the cache is", function()
  local function folder(environment) return with(environment, hub.folder) end
  t.eq(folder {HOME = "/h"}, "/h/.cache/huggingface/hub")
  t.eq(folder {HOME = "/h", XDG_CACHE_HOME = "/c"}, "/c/huggingface/hub")
  t.eq(folder {HOME = "/h", XDG_CACHE_HOME = "/c", HF_HOME = "/f"}, "/f/hub")
  t.eq(folder {HOME = "/h", HF_HOME = "~/f"}, "/h/f/hub")
  t.eq(folder {HOME = "/h", HF_HOME = ""}, "/h/.cache/huggingface/hub")
  t.eq(folder {HOME = "/h", HF_HOME = "/f", HUGGINGFACE_HUB_CACHE = "/old"}, "/old")
  t.eq(folder {HOME = "/h", HF_HUB_CACHE = "~", HUGGINGFACE_HUB_CACHE = "/old"}, "/h")
end)

t.test("a model by its name, and its tokenizer", function()
  local m <close> = assert(with(here, ml.load, "tiny/qwen3"))
  t.eq({m.info.family, m.info.path}, {"qwen3", cache .. "/" .. model})
  local tokenizer <close> = assert(with(here, ml.tokenizer, "tiny/qwen3"))
  t.eq(tokenizer.vocab_size, m.tokenizer.vocab_size)
end)

t.test("what the cache does not hold: where was searched, and that nothing is downloaded", function()
  local function why(name, environment)
    local value, message, code = with(environment or here, ml.load, name)
    t.eq({value, code}, {nil, "not_found"})
    local _, said = with(environment or here, ml.tokenizer, name)
    t.eq(said, message)
    return message
  end
  local cache_says = (": no such file or directory, and the hub cache %s %%s (nothing is downloaded)"):format(cache)
  t.eq(why "tiny/none", "tiny/none" .. cache_says:format "does not hold it")
  t.eq(why "tiny/bare", "tiny/bare" .. cache_says:format "holds no main revision of it")
  t.eq(why "tiny/half", "tiny/half" .. cache_says:format "holds no files of its main revision")
  t.eq(why("a/b", {HOME = "/nowhere"}), "a/b: no such file or directory, and the hub cache "
    .. "/nowhere/.cache/huggingface/hub does not hold it (nothing is downloaded)")
  for _, name in ipairs {"none", "none.gguf"} do t.eq(why(name), name .. cache_says:format "does not hold it") end
  for _, path in ipairs {"./none/x/y", "/none/x", "none/", "a b"} do
    t.eq(why(path), path .. ": no such file or directory")
  end
end)

t.test("a repository of .gguf files", function()
  local ggufs = {tiny.gguf()}
  make("models--tiny--files/refs/main", "1\n")
  make("models--tiny--files/snapshots/1/a.gguf", ggufs[1])
  local m <close> = assert(with(here, ml.load, "tiny/files"))
  t.eq(m.info.path, cache .. "/models--tiny--files/snapshots/1/a.gguf")
  make("models--tiny--files/snapshots/1/b.gguf", ggufs[1])
  t.fails("tiny/files: the hub cache holds 2 .gguf files of it: give the path of one, such as .*/a%.gguf", "usage",
    with(here, ml.load, "tiny/files"))
end)

t.test("discover lists the cache", function()
  local list = assert(with(here, ml.discover))
  local names = {}
  for i, entry in ipairs(list) do names[i] = ("%s %s %s"):format(entry.name, entry.format, entry.model_type) end
  t.eq(names, {"old safetensors gpt2", "solo safetensors qwen3", "tiny/files gguf llama", "tiny/files gguf llama",
    "tiny/qwen3 safetensors qwen3"})
  t.eq(list[5].path, cache .. "/" .. model)
  local m <close> = assert(with(here, ml.load, list[2].name, {random = 1}))
  t.eq(m.info.path, list[2].path)
  t.eq(#assert(ml.discover(cache)), 5, "as a directory that is named")
  t.fails("/nowhere/hub", "not_found", with({HF_HOME = "/nowhere"}, ml.discover))
end)

t.test("moonlet ls", function()
  local function ls(rest)
    local build = os.getenv "BUILD" or "build"
    local command = ("cd '%s' && HF_HUB_CACHE='%s' '%s/moonlet' ls %s 2>&1")
    local pwd = io.popen "pwd":read "l"
    local function absolute(path) return path:find "^/" and path or pwd .. "/" .. path end
    local pipe <close> = assert(io.popen(command:format(root, absolute(cache), absolute(build), rest)))
    return pipe:read "a"
  end
  local text = ls ""
  t.ok(text:find "\nqwen3 +safetensors +tiny/qwen3\n", text)
  t.ok(text:find "gguf +/.*/models%-%-tiny%-%-files/snapshots/1/b%.gguf\n", text)
  t.eq(select(2, text:gsub("\n", "")), 5, text)
  t.ok(ls "--json":find('"name":"tiny/qwen3"', 1, true))
  t.eq(ls "-q /tmp/../nowhere", "moonlet ls: /tmp/../nowhere: No such file or directory\n")
  t.ok(ls "--help":find "Nothing is downloaded")
end)

assert(os.execute(("rm -rf '%s'"):format(root)))
t.done()
