-- Renders one of tests/lua/hostile_templates.lua in a process of its own, whose memory the caller bounds.
-- Arguments: the number of the template. Prints seconds, peak KiB of Lua's heap as seen at the end, and the outcome.
local here = arg[0]:match("^(.*)/") or "."
package.path = here .. "/?.lua;" .. package.path
require("modules").install(here .. "/../..")
local case = require "hostile_templates"[tonumber(arg[1])]
local jinja = require "moonlet.templates.jinja"
local start = os.clock()
local template, message, code = jinja.compile(case.source)
local text
if template then
  text, message, code = template:render({messages = {{role = "user", content = "hi"}}}, {now = 0})
end
local seconds = os.clock() - start
if text then code = "text" else text = message end
if #text > 200 then text = text:sub(1, 200) .. "..." end
print(("%.3f %s %s"):format(seconds, code, text:gsub("\n", " ")))
