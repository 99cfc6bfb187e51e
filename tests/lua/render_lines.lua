-- Renders templates for tests/goldens/fuzz_templates.py: JSON lines {t = template, c = context} on standard input, and
-- for each {o = text} or {e = code, m = message} on standard output. Argument: the moment that strftime_now shows.
local here = arg[0]:match("^(.*)/") or "."
package.path = here .. "/?.lua;" .. package.path
local modules = require "modules"
modules.install(here .. "/../..")
local json = require "minijson"
local jinja = require "moonlet.templates.jinja"
json.null = jinja.null

local function quote(s)
  return '"' .. s:gsub('[%c"\\]', function(c) return ("\\u%04x"):format(c:byte()) end) .. '"'
end

for line in io.lines() do
  local case = json.decode(line)
  local template, message, code = jinja.compile(case.t)
  local text
  if template then text, message, code = template:render(case.c, {now = arg[1]}) end
  if text then
    print('{"o":' .. quote(text) .. "}")
  else
    print('{"e":' .. quote(code) .. ',"m":' .. quote(message) .. "}")
  end
end
