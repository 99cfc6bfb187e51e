-- titles.lua MODEL FILE...: proposes a title for each text, and says how predictable the model finds it.
local ml = require "moonlet"

if not arg[2] then io.stderr:write "usage: titles.lua MODEL FILE...\n" os.exit(2) end

local model <close> = assert(ml.load(arg[1]))
for i = 2, #arg do
  local file <close> = assert(io.open(arg[i]))
  local text = assert(file:read(2000), "there is no text in " .. arg[i])
  local title = model:complete({{role = "user", content = "Give this text a short title:\n\n" .. text}}, {
    max_tokens = 16, stop = {"\n"},
  })
  local score = model:perplexity(text)
  print(("%-24s perplexity %6.1f  %s"):format(arg[i], score.perplexity, title))
end
