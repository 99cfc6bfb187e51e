---`moonlet ls`: the models in a directory, or where models usually are.
local ml = require "moonlet"
local common = require "moonlet.cmd.common"
local options = require "moonlet.cmd.options"

local M = {
  name = "ls",
  summary = "list the models that are here",
  usage = "[DIRECTORY] [options]",
  about = [[
Looks at the directory's own files and folders. Without one, at checkpoints/ or else where you are, and at the
local cache of the Hugging Face hub, whose models are listed by the names that -m takes. Nothing is downloaded.]],
  example = "moonlet ls checkpoints",
  positional = "a directory",
}

M.options = {}

-- Where models are looked for when nobody says where, and what is there: checkpoints/ or here, and the hub cache.
local function look_around()
  local here = ml.discover "checkpoints"
  local place = here and "checkpoints" or "."
  local list = here or ml.discover "." or {}
  for _, m in ipairs(ml.discover() or {}) do list[#list + 1] = m end
  return list, place .. " and the hub cache"
end

local function look(directory)
  local list, message = ml.discover(directory)
  return list or options.fail(message), directory
end

function M.run(opts, words)
  if #words > 1 then options.wrong_usage("ls takes one directory, found %d", #words) end
  local models, place
  if words[1] then models, place = look(words[1]) else models, place = look_around() end
  if opts.json then
    local list = {}
    for i, m in ipairs(models) do
      list[i] = {path = m.path, name = m.name, format = m.format, model_type = m.model_type}
    end
    common.print_json(ml.json.array(list))
    return
  end
  if #models == 0 then common.note(opts, "no models in %s", place) end
  for _, m in ipairs(models) do
    -- A hub name loads what lies in the hub cache; of several files under one name each is named by its path.
    local by_name = m.name and not words[1] and not m.path:find "%.gguf$"
    common.write(("%-12s %-12s %s\n"):format(m.model_type or "?", m.format, by_name and m.name or m.path))
  end
end

return M
