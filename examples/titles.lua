-- titles.lua MODEL FILE...: proposes a title for each text, and says how predictable the model finds it.
local ml = require "moonlet"

local model <close> = assert(ml.load(arg[1]))
for i = 2, #arg do
  local file <close> = assert(io.open(arg[i]))
  local text = file:read(2000)
  local title = model:complete({
    {role = "system", content = "You give texts short titles. Answer with the title alone."},
    {role = "user", content = text},
  }, {max_tokens = 24, stop = {"\n"}})
  local score = model:perplexity(text)
  print(("%-24s %-48s perplexity %.1f"):format(arg[i], title, score.perplexity))
end
