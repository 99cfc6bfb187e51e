---`moonlet ls`: the models below a directory.
local ml = require "moonlet"
local common = require "moonlet.cmd.common"
local options = require "moonlet.cmd.options"

local M = {
  name = "ls",
  summary = "list the models below a directory",
  usage = "[DIRECTORY] [options]",
  about = "Looks at the directory's own files and folders; without one, at checkpoints/ or else where you are.",
  example = "moonlet ls checkpoints",
  positional = "a directory",
}

M.options = {}

local function default_directory()
  return ml.discover "checkpoints" and "checkpoints" or "."
end

function M.run(opts, words)
  if #words > 1 then options.wrong_usage("ls takes one directory, found %d", #words) end
  local directory = words[1] or default_directory()
  local models, message = ml.discover(directory)
  if not models then options.fail(message) end
  if opts.json then
    local list = {}
    for i, m in ipairs(models) do list[i] = {path = m.path, format = m.format, model_type = m.model_type} end
    common.print_json(ml.json.array(list))
    return
  end
  if #models == 0 then common.note(opts, "no models in %s", directory) end
  for _, m in ipairs(models) do
    common.write(("%-12s %-12s %s\n"):format(m.model_type or "?", m.format, m.path))
  end
end

return M
