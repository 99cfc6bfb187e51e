-- The template engine against what jinja2 makes of the same templates (tests/goldens/make_templates.py), its values,
-- its errors and its bounds. Usage: lua5.4 tests/lua/test_jinja.lua
local here = arg[0]:match("^(.*)/") or "."
package.path = here .. "/?.lua;" .. package.path
require("modules").install(here .. "/../..")
local t = require "harness"
local json = require "minijson"
local jinja = require "moonlet.templates.jinja"
json.null = jinja.null

local function read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read("a")
  file:close()
  return text
end

local golden = json.decode(read(here .. "/../goldens/templates/cases.json"))

-- Where our words for an error are not Python's.
local OWN_WORDS = {
  ["range expected at least 1 argument, got 0"] = true, ["no loader for this environment specified"] = true,
  ["get expected at least 1 argument, got 0"] = true, ["str.upper() takes no arguments (1 given)"] = true,
}
local function same_words(want, got)
  if got == want or OWN_WORDS[want] then return true end
  return want:find(got, 1, true) ~= nil -- Python may name the function as well
end

for i, case in ipairs(golden.cases) do
  t.test(("case %d: %s"):format(i, case.t:sub(1, 60):gsub("\n", "\\n")), function()
    local template, message, code = jinja.compile(case.t)
    local text
    if template then text, message, code = template:render(golden.context, {now = golden.now}) end
    if case.o then
      t.eq(text, case.o, message)
    else
      t.eq(text, nil, "an error was expected")
      t.ok(code ~= nil and not message:find("engine failed", 1, true), message)
      t.ok(same_words(case.e, message:gsub("^line %d+: ", "")), ("expected '%s', got '%s'"):format(case.e, message))
    end
  end)
end

local function render(source, context, options)
  return assert(jinja.compile(source)):render(context or {}, options)
end

t.test("lists, dicts and nulls of the context", function()
  local context = {list = {1, 2.0, "a"}, dict = {b = 1, a = {}}, none = json.null, empty = {}, flag = false,
    array = json.decode("[null, [], {}]"), object = json.decode('{"z": 1, "a": {"k": null}}')}
  t.eq(render("{{ list }} {{ dict }} {{ none }} {{ empty }} {{ flag }} {{ array }} {{ object|tojson }}", context),
    "[1, 2.0, 'a'] {'a': [], 'b': 1} None [] False [None, [], {}] {\"z\": 1, \"a\": {\"k\": null}}")
end)

t.test("what no template may be given is named by its path", function()
  local _, message, code = render("x", {messages = {{content = print}}})
  t.eq(code, "usage")
  t.eq(message, "messages[1].content: a function cannot be given to a template")
  _, message = render("x", {a = {1, 2, x = 3}})
  t.eq(message, "a: a table with keys of both lists and objects cannot be given to a template")
  local loop = {}
  loop.a = {loop}
  _, message, code = render("x", {loop = loop})
  t.eq(code, "usage")
  t.ok(message:find("nested more than 100 deep", 1, true), message)
end)

t.test("the caller's tables stay as they were, and metatables are not reached", function()
  local touched = 0
  local trap = setmetatable({x = 1}, {__index = function() touched = touched + 1 end,
    __tostring = function() touched = touched + 1 end, __call = function() touched = touched + 1 end})
  t.eq(render("{{ a.x }}{{ a.y }}{{ a.__index }}{{ a|string }}", {a = trap}), "1{'x': 1}")
  t.eq(touched, 0)
end)

t.test("text that is not UTF-8 is repaired, a template that is not is refused", function()
  t.eq(render("{{ s }}|{{ s|length }}", {s = "a\xffb\xe2\x82c\xf0\x9f\x98"}), "a\u{FFFD}b\u{FFFD}c\u{FFFD}|6")
  local _, message, code = jinja.compile("\xff")
  t.eq(code, "corrupt")
  t.eq(message, "the template is not UTF-8")
end)

t.test("errors carry their line and code", function()
  local _, message, code = jinja.compile("a\nb\n{% if %}")
  t.eq(code, "corrupt")
  t.ok(message:find("^line 3: "), message)
  _, message, code = render("\n\n{{ x.y.z }}")
  t.eq(code, "mismatch")
  t.eq(message, "line 3: 'x' is undefined")
  _, message, code = render("{{ raise_exception('Say so: ' ~ n) }}", {n = 5})
  t.eq(code, "usage")
  t.eq(message, "Say so: 5")
  _, message, code = jinja.compile("\n{{ x|nope }}")
  t.eq(code, "unsupported")
  t.eq(message, "line 2: No filter named 'nope'.")
  for name, source in pairs {random = "{{ 'ab'|random }}", wordwrap = "{{ 'a b'|wordwrap(2) }}"} do
    _, message, code = jinja.compile(source) -- filters of jinja2 that are not here
    t.eq({message, code}, {("line 1: No filter named '%s'."):format(name), "unsupported"})
  end
  _, message, code = jinja.compile("{% autoescape true %}{% endautoescape %}")
  t.eq({message, code}, {"line 1: escaping (autoescape) is not supported", "unsupported"})
  _, message = render("{{ lipsum() }}")
  t.eq(message, "line 1: 'lipsum' is undefined")
  _, message, code = render("{% include 'x' %}")
  t.eq(code, "unsupported")
  t.eq(message, "line 1: 'include': a chat template cannot read other templates")
  _, _, code = jinja.compile(5)
  t.eq(code, "usage")
end)

t.test("options that nobody knows, or that make no sense", function()
  local _, message, code = render("x", {}, {max_step = 1})
  t.eq(code, "usage")
  t.eq(message, "render: unknown option 'max_step'")
  _, message, code = render("x", {}, {max_steps = 0})
  t.eq(code, "usage")
  t.eq(message, "max_steps: expected a positive number, found 0")
  _, message, code = render("{{ strftime_now('%Y') }}", {}, {now = "yesterday"})
  t.eq(code, "usage")
  t.eq(message, "now: expected ISO 8601 or seconds, found yesterday")
end)

t.test("bounds can be set", function()
  local source = "{% for i in range(1000) %}{{ i }}{% endfor %}"
  t.ok(render(source, {}, {max_steps = 10000}))
  local _, message, code = render(source, {}, {max_steps = 100})
  t.eq(code, "limit")
  t.eq(message, "line 1: the template takes more than 100 steps")
  _, message, code = render("{{ 'x' * 2000 }}", {}, {max_bytes = 1000})
  t.eq(code, "limit")
  t.eq(message, "line 1: the template makes more than 1000 bytes")
end)

t.test("a template can be rendered again after an error", function()
  local template = assert(jinja.compile("{% set ns = namespace(n=0) %}{% for i in x %}{% set ns.n = ns.n + i %}"
    .. "{% endfor %}{{ ns.n }}"))
  t.eq(template:render({x = {1, 2}}), "3")
  t.eq(template:render({x = {1, "a"}}), nil)
  t.eq(template:render({x = {5}}), "5")
end)

t.test("moments", function()
  local function at(now, format) return render("{{ strftime_now('" .. format .. "') }}", {}, {now = now}) end
  t.eq(at("2024-02-29", "%A %d %B %Y %j %H:%M"), "Thursday 29 February 2024 060 00:00")
  t.eq(at("2000-01-01T23:59:58Z", "%a %G-W%V-%u %U %W %I%p %S"), "Sat 1999-W52-6 00 00 11PM 58")
  t.eq(at("2026-12-31 07:08:09.5+02:00", "%-d.%-m.%y %k %l %f"), "31.12.26  7  7 500000")
  t.eq(at(0, "%Y"):sub(1, 2), os.date("%Y", 0):sub(1, 2))
  for _, bad in ipairs {"2023-02-29", "2024-13-01", "2024-01-01T25:00", "24-01-01", "2024-01-01T10:00:00X"} do
    t.eq(at(bad, "%Y"), nil, bad)
  end
end)

t.test("generation blocks are told of where they end up", function()
  local template = assert(jinja.compile("{% macro g(x) %}<{% generation %}{{ x }}!{% endgeneration %}>{% endmacro %}"
    .. "a{% generation %}bé{% endgeneration %}c{{ g('yes') }}{% set s %}{% generation %}d{% endgeneration %}"
    .. "{% endset %}{{ s ~ s }}"))
  local text, info = template:render({}, {generation = true})
  t.eq(text, "abéc<yes!>dd")
  local parts = {}
  for i, span in ipairs(info.generation) do parts[i] = text:sub(span[1], span[2]) end
  t.eq(table.concat(parts, "|"), "bé|yes!|dd")
  text, info = template:render({})
  t.eq(text, "abéc<yes!>dd")
  t.eq(#info.generation, 0)
end)

-- Each operation on a marked text keeps track of which bytes are data: [..] in the expected text.
local TRACKED = {
  {"{{ s }}", "[  a<b>c ]"},
  {"x{{ s }}y", "x[  a<b>c ]y"},
  {"{{ 'x' + s + 'y' ~ s }}", "x[  a<b>c ]y[  a<b>c ]"},
  {"{{ s|trim }}", "[a<b>c]"},
  {"{{ s[2:4] }}", "[a<]"},
  {"{{ ('x' ~ s ~ 'y')[2:-2] }}", "[ a<b>c]"},
  {"{{ s.split('<')[1] }}", "[b>c ]"},
  {"{{ s.split('<')|join('|') }}", "[  a]|[b>c ]"},
  {"{{ s|replace('b', 'B') }}", "[  a<]B[>c ]"},
  {"{{ '%s-%s' % (s, 1) }}", "[  a<b>c ]-1"},
  {"{{ '{}-{}'.format(s, 1) }}", "[  a<b>c ]-1"},
  {"{{ s|upper }}", "[  A<B>C ]"},
  {"{{ [s] }}", "[['  a<b>c ']]"},
  {"{{ {'k': s}|tojson }}", "[{\"k\": \"  a<b>c \"}]"},
  {"{{ s|length }}", "8"},
  {"{{ s == '  a<b>c ' }}", "True"},
  {"{{ s|trim|first ~ s|trim|last }}", "[ac]"},
  {"{% for c in s|trim %}{{ c }}.{% endfor %}", "[a].[<].[b].[>].[c]."},
  {"{% set x %}<{{ s }}>{% endset %}{{ x }}", "<[  a<b>c ]>"},
  {"{% macro m(v) %}({{ v }}){% endmacro %}{{ m(s) }}", "([  a<b>c ])"},
  {"{{ ' '.join(s.split()) }}", "[a<b>c]"},
  {"{{ s|indent(2, true) }}", "  [  a<b>c ]"},
  {"{{ s.partition('<')[2] }}", "[b>c ]"},
  {"{{ s.center(10, '*') }}", "*[  a<b>c ]*"},
  {"{{ s[::-1] }}", "[ c>b<a  ]"},
  {"{{ s|e }}", "[  a&lt;b&gt;c ]"},
  {"{{ s if s else 'n' }}{{ s and 'lit' }}", "[  a<b>c ]lit"},
  {"{{ d }}", "[{'key': 'v'}]"},
  {"{% for k in d %}{{ k }}{% endfor %}", "key"},
  {"{% for k, v in deep.d.items() %}{{ k }}={{ v }}{% endfor %}", "[key]=[v]"},
  {"{{ deep.d.key ~ deep['d']['key'] }}", "[vv]"},
  {"{{ n }}", "5"},
  {"{{ s|trim|truncate(3, true, '..', 0) }}", "[a].."},
  {"{{ s|safe }}", "[  a<b>c ]"},
  {"{{ (s|safe) + '<' }}", "[  a<b>c ]&lt;"},
  {"{{ s * 2 }}", "[  a<b>c   a<b>c ]"},
  {"{{ s.removeprefix('  ') }}", "[a<b>c ]"},
  {"{{ s|title }}", "[  A<B>c ]"},
  {"{{ [s, 'z']|sort|join(',') }}", "[  a<b>c ],z"},
  {"{{ [s]|map('trim')|join }}", "[a<b>c]"},
  {"{{ s|urlencode }}", "[%20%20a%3Cb%3Ec%20]"},
}
for i, case in ipairs(TRACKED) do
  t.test(("tracking %d: %s"):format(i, case[1]), function()
    local template = assert(jinja.compile(case[1]))
    local context = {s = "  a<b>c ", d = {key = "v"}, deep = {d = {key = "v"}}, n = 5}
    local text, info = template:render(context, {track = function() return true end})
    t.ok(text, info)
    t.eq(text, (template:render(context)), "text without tracking")
    local out, at = {}, 1
    for _, span in ipairs(info.data) do
      out[#out + 1] = text:sub(at, span[1] - 1) .. "[" .. text:sub(span[1], span[2]) .. "]"
      at = span[2] + 1
    end
    t.eq(table.concat(out) .. text:sub(at), case[2])
  end)
end

t.done()
