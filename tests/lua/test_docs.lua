-- What the documentation quotes is what the tree has: the worked example, README's programs, the generated pages.
local t = require "tests.lua.harness"

local function read(path)
  local file <close> = assert(io.open(path, "rb"))
  return file:read "a"
end

-- The blocks ```LANGUAGE of a page.
local function blocks(path, language)
  local list = {}
  for text in read(path):gmatch("\n```" .. language .. "\n(.-\n)```\n") do list[#list + 1] = text end
  return list
end

t.test("docs/add-a-family.md quotes the whole of its example", function()
  local source = read "examples/models/qwen2.lua"
  for _, block in ipairs(blocks("docs/add-a-family.md", "lua")) do
    if block == source then return end
  end
  t.ok(false, "a block of docs/add-a-family.md equals examples/models/qwen2.lua")
end)

t.test("README.md quotes examples/titles.lua", function()
  local source, found = read "examples/titles.lua", false
  for _, block in ipairs(blocks("README.md", "lua")) do found = found or block == source end
  t.ok(found, "a block of README.md equals examples/titles.lua")
end)

t.test("generated pages are those that `make docs` writes now", function()
  local build = os.getenv "BUILD" or "build"
  local folder = build .. "/docs-check"
  assert(os.execute(("rm -rf '%s' && mkdir -p '%s'"):format(folder, folder)))
  local command = ("%s/moonlet tools/make_docs.lua '%s' > '%s/log' 2>&1"):format(build, folder, folder)
  assert(os.execute(command), "make_docs.lua")
  local list <close> = assert(io.popen(("cd '%s' && find docs lua -type f | LC_ALL=C sort"):format(folder)))
  local count = 0
  for path in list:lines() do
    count = count + 1
    local file = io.open(path, "rb")
    local text = file and file:read "a"
    if file then file:close() end
    t.ok(text == read(folder .. "/" .. path), path .. " is up to date (make docs)")
  end
  t.ok(count > 10, "pages were written")
end)

t.test("what a comment says on further lines stays with its parameter or result", function()
  local page = read "docs/lua/models.md"
  t.ok(page:find("- `opts` table|nil: generate's or chat's\n- returns table options: a table of its own\n"
    .. "- returns boolean present: whether the file says anything of how tokens are chosen (do_sample, temperature, "
    .. "top_k,\n  top_p, min_p, typical_p, epsilon_cutoff, eta_cutoff, top_h, repetition_penalty)\n", 1, true))
end)

t.test("what the library alone calls is no function of ml", function()
  local ml = require "moonlet"
  for _, name in ipairs {"record", "unscoped", "next_key", "trace", "advance"} do t.eq(ml[name], nil, name) end
end)

t.test("what the reference names is there", function()
  local ml = require "moonlet"
  local owners = {ml = ml, fn = require "moonlet.fn", nn = require "moonlet.nn", S = require "moonlet.sample",
    random = ml.random, memory = ml.memory, json = ml.json, x = ml.zeros {1}}
  for key in pairs(require "moonlet.docs") do
    local owner, name = key:match "^(%w+)%.(.*)$"
    if owners[owner] then t.ok(owners[owner][name] ~= nil, key) end
  end
end)

t.test("README.md names every subcommand, and what an own PREFIX needs", function()
  local text = read "README.md"
  for _, c in ipairs(require "moonlet.cmd".commands) do t.ok(text:find("\n| `" .. c[1] .. "` | ", 1, true), c[1]) end
  for _, word in ipairs {"PREFIX", "PKG_CONFIG_PATH", "-Wl,-rpath,", "LUA_CPATH"} do
    t.ok(text:find(word, 1, true), word)
  end
end)

t.test("the program of README.md runs", function()
  local model = t.checkpoint "SmolLM2-135M-Instruct.gguf"
  local build = os.getenv "BUILD" or "build"
  local command = ("%s/moonlet examples/titles.lua '%s' docs/testing.md 2>&1"):format(build, model)
  local pipe <close> = assert(io.popen(command))
  t.ok(pipe:read "a":find "^docs/testing.md%s+perplexity%s+%d+%.%d%s+%S", "a perplexity and a title")
end)

t.test("Lua in the documentation compiles", function()
  local list <close> = assert(io.popen "find README.md docs -name '*.md' | LC_ALL=C sort")
  for path in list:lines() do
    for i, block in ipairs(blocks(path, "lua")) do
      local chunk, why = load(block, ("=%s block %d"):format(path, i), "t")
      t.ok(chunk, why)
    end
  end
end)

t.test("links of the documentation lead somewhere", function()
  local list <close> = assert(io.popen "find README.md docs -name '*.md' | LC_ALL=C sort")
  for path in list:lines() do
    local folder = path:match "^(.*/)" or ""
    for target in read(path):gmatch "%]%(([^)#]+)[^)]*%)" do
      if not target:find "^https?:" then
        local file = io.open(folder .. target, "rb")
        t.ok(file, path .. ": link to " .. target)
        file:close()
      end
    end
  end
end)

t.done()
