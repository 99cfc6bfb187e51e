-- sessions.lua: 5,000 random steps (STEPS) of sessions of each kind of cache have a cold run's logits; CPU and twin
--
-- Sessions of one model are sent to, go on with ids, are trimmed, forked, saved, loaded, cancelled and closed, and some
-- answer side by side (tests/lua/session_steps.lua). At the end no page and no slot is held.
--
--   SEED=1 STEPS=5000 FAMILIES="full sliding recurrent" make check-sessions

local core = require "moonlet.core"
local ml = require "moonlet"
local new_random = require "tests.lua.programs.random"
local session_steps = require "tests.lua.session_steps"
local t = require "tests.lua.harness"
local tiny = require "tests.tiny"

local STEPS = math.tointeger(tonumber(os.getenv "STEPS" or 5000))
local SEED = math.tointeger(tonumber(os.getenv "SEED" or 1))
local FAMILIES = os.getenv "FAMILIES" or "full sliding recurrent"

local device = ml.default_device()
t.leak_check = function() return ml.memory.active() end

local function counts_of(counts)
  local names, parts = {}, {}
  for name in pairs(counts) do names[#names + 1] = name end
  table.sort(names)
  for i, name in ipairs(names) do parts[i] = ("%s %d"):format(name, counts[name]) end
  return table.concat(parts, ", ")
end

for _, family in ipairs(session_steps.families) do
  if FAMILIES:find(family.name, 1, true) then
    t.test(("%s, %s: %d steps"):format(device, family.name, STEPS), function()
      local m <close> = session_steps.load(family)
      local all = session_steps.new(m, new_random(SEED), tiny.folder "sessions" .. "/" .. family.name)
      local began = core.clock()
      for step = 1, STEPS do all:step(step) end
      all:close()
      print(("# %s: %s"):format(family.name, counts_of(all.counts)))
      print(("# %s: largest difference %.2g of the largest logit (at most %.0e); %.0f s"):format(family.name, all.worst,
        session_steps.LIMIT, core.clock() - began))
    end)
  end
end

-- The same on the device that behaves like a GPU.
if device == "cpu" then
  local library = (os.getenv "BUILD" or "build") .. "/tests/twin.so"
  t.test("the same steps on the twin", function()
    local file = io.open(library) or t.skip(library .. " is not there; `make test-build` makes it")
    file:close()
    local folder = assert(io.popen "pwd"):read "l"
    local line = "MOONLET_DEVICE=twin MOONLET_DEVICE_LIBRARY='%s' %s %s"
    local moonlet = (os.getenv "BUILD" or "build") .. "/moonlet"
    local path = library:sub(1, 1) == "/" and library or folder .. "/" .. library
    t.ok(os.execute(line:format(path, moonlet, "tests/checks/sessions.lua")), "on the twin")
  end)
end

t.done()
