-- The families against the reference's logits (tests/goldens/README.md): whole prompts, token by token and in chunks
-- through the cache, slots of unequal length at once, and greedy text.
local ml = require "moonlet"
local core = require "moonlet.core"
local cache = require "moonlet.cache"
local fixtures = require "tests.fixtures"
local t = require "tests.lua.harness"
local tiny = require "tests.tiny"

local root = "tests/goldens/tiny/"
-- families that are no part of the library: the worked example of docs/add-a-family.md
local examples = {qwen2 = "examples/models/qwen2.lua"}
local names = assert(core.list_directory(root:sub(1, -2)))

local function largest_difference(a, b) return (a - b):abs():max():item() end

-- So many slots of a model's caches, and what gives them back.
local function slots_of(m, n)
  local runtime, slots = m:runtime(), {}
  runtime:learn()
  for i = 1, n do slots[i] = runtime:slot() end
  return slots, setmetatable({}, {__close = function()
    for _, slot in ipairs(slots) do slot:close() end
  end})
end

-- Logits (B, T, V) of rows of ids, each in a slot, of which `counts` are real.
local function feed(m, slots, rows, counts)
  local places, starts, T = {}, {}, #rows[1]
  for i, slot in ipairs(slots) do
    places[i], starts[i] = slot.row, #slot.ids
    slot:reserve(#slot.ids + counts[i])
  end
  local view = m:runtime().store:view(ml.tensor(places), ml.tensor(starts), ml.tensor(counts), T)
  local logits = m.net(ml.tensor(rows), view)
  ml.eval(logits)
  for i, slot in ipairs(slots) do table.move(rows[i], 1, counts[i], #slot.ids + 1, slot.ids) end
  return logits
end

-- Logits of ids fed in pieces of the given sizes (the last repeats) into a slot.
local function in_pieces(m, ids, sizes)
  local slots, _ <close> = slots_of(m, 2)
  local out, at, piece = {}, 0, 1
  while at < #ids do
    local n = math.min(sizes[piece] or sizes[#sizes], #ids - at)
    out[#out + 1] = feed(m, {slots[2]}, {table.move(ids, at + 1, at + n, 1, {})}, {n})
    at, piece = at + n, piece + 1
  end
  return ml.concat(out, 2)
end

-- Three sequences at once, each in a slot of its own: prompts right-padded, then one more token each by decode.
local function in_slots(m, lists)
  local slots, _ <close> = slots_of(m, #lists)
  local longest, rows, counts, last, ones = 0, {}, {}, {}, {}
  for _, ids in ipairs(lists) do longest = math.max(longest, #ids - 1) end
  for i, ids in ipairs(lists) do
    rows[i] = {}
    for k = 1, longest do rows[i][k] = k < #ids and ids[k] or 0 end
    counts[i], last[i], ones[i] = #ids - 1, {ids[#ids]}, 1
  end
  slots[1], slots[#slots] = slots[#slots], slots[1] -- another order than rows
  return feed(m, slots, rows, counts), feed(m, slots, last, ones)
end

-- Sequences end to end, without a cache: logits (1, N, V), and where each begins.
local function packed(m, lists)
  local tokens, offsets, positions = {}, {0}, {}
  for i, ids in ipairs(lists) do
    for k, id in ipairs(ids) do
      tokens[#tokens + 1], positions[#positions + 1] = id, k - 1
    end
    offsets[i + 1] = #tokens
  end
  local view = cache.packed(ml.tensor(offsets), ml.tensor({positions}))
  local logits = m.net(ml.tensor({tokens}), view)
  ml.eval(logits)
  return logits, offsets
end

for _, name in ipairs(names) do
  local dir = root .. name
  local m
  t.test(name .. ": loads", function()
    m = assert(ml.load(dir, {precision = "exact", family = examples[name:match "^%w+"]}))
    t.eq(#m.info.warnings, 0, m.info.warnings[1])
  end)
  if m then
    local expected = assert(ml.load_safetensors(dir .. "/expected.safetensors"))
    local facts = assert(core.read_json(dir .. "/expected.json"))
    local bound = math.max(1e-5, 10 * facts.noise_floor)
    local function check(what, got, want)
      local scale = want:abs():max():item()
      local off = largest_difference(got, want) / scale
      t.ok(off <= bound, ("%s: off by %.3g of the largest logit, allowed %.3g"):format(what, off, bound))
    end
    for k = 0, facts.prompts - 1 do
      local ids, want = expected["ids." .. k]:tolist(), expected["logits." .. k]
      t.test(("%s: prompt %d of %d tokens"):format(name, k, #ids), function()
        check("whole", m:logits(ids)[1], want)
        check("token by token", in_pieces(m, ids, {1})[1], want)
        check("in chunks", in_pieces(m, ids, {3, 7, 5})[1], want)
      end)
    end
    t.test(name .. ": slots of unequal length", function()
      local lists = {}
      for i, k in ipairs(facts.batch) do lists[i] = expected["ids." .. k]:tolist() end
      local whole, step = in_slots(m, lists)
      local padded, joined, offsets = m:logits(lists), packed(m, lists)
      for i, k in ipairs(facts.batch) do
        local want, n = expected["logits." .. k], #lists[i]
        if n > 1 then check("prefill " .. i, whole[i]:slice {{1, n - 1}}, want:slice {{1, n - 1}}) end
        check("decode " .. i, step[i], want:slice {{n, n}})
        check("padded " .. i, padded[i]:slice {{1, n}}, want)
        check("end to end " .. i, joined[1]:slice {{offsets[i] + 1, offsets[i + 1]}}, want)
      end
    end)
    t.test(name .. ": greedy text", function()
      local want = facts.generate
      local _, result = m:complete(want.prompt, {max_tokens = #want.ids, ignore_eos = true})
      for i, id in ipairs(want.ids) do
        if result.ids[i] ~= id then
          t.ok(want.margins[i] <= 0.001, ("token %d: expected %d, found %d"):format(i, id, result.ids[i]))
          break
        end
      end
    end)
    m:close()
  end
end

t.test("MOONLET_PATH serves a model type that no built-in family serves", function()
  local command = (os.getenv "BUILD" or "build") .. "/moonlet info --json -m " .. root .. "qwen2_old 2>&1"
  local function run(environment)
    local pipe <close> = assert(io.popen(environment .. " " .. command))
    return pipe:read "a"
  end
  t.ok(run("MOONLET_PATH=examples/none:examples/models"):find('"family":%s*"qwen2"'), "family found")
  t.ok(run("MOONLET_PATH=examples/none"):find("model_type \"qwen2\": no family serves it", 1, true), "message")
end)

-- What `moonlet info` says of a model, run in a folder.
local function info_in(folder, environment, model)
  local build = io.popen(("cd '%s' && pwd"):format(os.getenv "BUILD" or "build")):read "l"
  local command = ("cd '%s' && %s '%s/moonlet' info -m \"%s\" 2>&1"):format(folder, environment, build, model)
  local pipe <close> = assert(io.popen(command))
  return pipe:read "a"
end

t.test("a family's file in the model's own directory is not run", function()
  local dir = tiny.folder "families-own"
  local evil = dir .. "/evil"
  assert(os.execute(("mkdir -p '%s/models' '%s/user/models' && ln -s evil '%s/link'"):format(evil, dir, dir)))
  tiny.write(evil .. "/config.json", (tiny.read(root .. "llama/config.json"):gsub('"model_type": *"llama"',
    '"model_type": "x"')))
  tiny.write(evil .. "/models/x.lua", "error 'it ran'")
  tiny.write(dir .. "/user/models/x.lua", "error 'the own one'")
  for _, case in ipairs {{evil, "", "."}, {evil, "", "../evil"}, {dir .. "/link", "", "../link"}, {evil, "", "../link"},
    {dir, "MOONLET_PATH=evil/models", "evil"}, {dir, "MOONLET_PATH=link/models", "evil"},
    {dir, "MOONLET_PATH=$PWD/evil/models", "link"}, {dir, "MOONLET_PATH=user/../evil/models", "evil"}} do
    local said = info_in(table.unpack(case))
    t.ok(said:find("models/x.lua lies in the model's own directory and is not run (copy it elsewhere", 1, true), said)
    t.ok(not said:find("it ran", 1, true))
  end
  assert(os.execute(("ln -s ../evil/models/x.lua '%s/user/y.lua'; mv '%s/models/x.lua' '%s/x.blob'; "
    .. "ln -s ../../x.blob '%s/models/x.lua'"):format(dir, evil, dir, evil)))
  t.ok(info_in(evil, "", "."):find("own directory", 1, true), "a link from inside, as in the hub's cache")
  for _, case in ipairs {{dir .. "/user", "", "../evil"}, {evil, "MOONLET_PATH=../user/models", "."},
    {evil, "MOONLET_PATH=../evil/../user/models", "."}} do
    local said = info_in(table.unpack(case))
    t.ok(said:find("the own one", 1, true), said)
  end
  t.fails("it ran", "usage", ml.load(evil, {family = evil .. "/models/x.lua"})) -- as the call says
end)

t.test("the same of the directory that a GGUF file lies in", function()
  local dir = tiny.folder "families-gguf"
  assert(os.execute(("mkdir -p '%s/models'"):format(dir)))
  tiny.write(dir .. "/models/moon.lua", "error 'it ran'")
  tiny.write(dir .. "/m.gguf", fixtures.gguf({{"general.architecture", "string", "moon"}}, {}))
  for _, model in ipairs {"m.gguf", "./m.gguf", "$PWD/m.gguf"} do
    local said = info_in(dir, "", model)
    t.ok(said:find("models/moon.lua lies in the model's own directory", 1, true), said)
    t.ok(not said:find("it ran", 1, true))
  end
end)

t.test("a model type that is no name is refused for that", function()
  local dir = tiny.folder "families-names"
  local config = tiny.read(root .. "llama/config.json")
  for _, name in ipairs {"../x", "a.b", ""} do
    tiny.write(dir .. "/config.json", (config:gsub('"model_type": *"llama"', ('"model_type": "%s"'):format(name))))
    local message = t.fails("model_type .*only a name of letters, digits, _ and %- is looked for", "unsupported",
      ml.load(dir, {random = 1}))
    t.ok(not tostring(message):find("MOONLET_PATH", 1, true))
  end
end)

t.done()
