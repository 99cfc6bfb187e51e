-- lint.lua: the project's own rules, which no compiler and no luacheck knows. Prints each breach with file and line.

---What the rules look at, one file. The code of C is its lines without comments and strings, that of others its lines.
---@class File

local breaches = 0

local function breach(file, line, what)
  breaches = breaches + 1
  print(("%s:%d: %s"):format(file.path, line, what))
end

---C without comments and the insides of strings; newlines stay, so that lines keep their numbers.
local function code_of(text)
  local out, at = {}, 1
  while at <= #text do
    local start = text:find("[\"'/]", at)
    if not start then break end
    out[#out + 1] = text:sub(at, start - 1)
    local two = text:sub(start, start + 1)
    local stop ---@type integer
    if two == "/*" then
      stop = select(2, text:find("*/", start + 2, true)) or #text
      out[#out + 1] = text:sub(start, stop):gsub("[^\n]", "")
    elseif two == "//" then
      stop = (text:find("\n", start, true) or #text + 1) - 1
    elseif two:sub(1, 1) == "/" then
      stop = start
      out[#out + 1] = "/"
    else -- a string or a character, up to its closing quote
      local quote = two:sub(1, 1)
      stop = start + 1
      while stop <= #text and text:sub(stop, stop) ~= quote do
        stop = stop + (text:sub(stop, stop) == "\\" and 2 or 1)
      end
      out[#out + 1] = quote .. quote
    end
    at = stop + 1
  end
  out[#out + 1] = text:sub(at)
  return table.concat(out)
end

local function lines_of(text)
  local lines = {}
  for line in (text .. "\n"):gmatch "(.-)\n" do lines[#lines + 1] = line end
  if lines[#lines] == "" then lines[#lines] = nil end
  return lines
end

local function read(path)
  local handle <close> = assert(io.open(path, "rb"))
  local text = handle:read "a"
  local file = {path = path, name = path:match "[^/]+$", text = text, lines = lines_of(text)}
  file.is_c = path:find "%.[ch]$" ~= nil or path:find "%.def$" ~= nil
  file.is_lua = path:find "%.lua$" ~= nil
  file.in_library = path:find "^src/" ~= nil
  file.code = file.is_c and lines_of(code_of(text)) or file.lines
  return file
end

---Calls breach for each line of code in which one of the words stands as a whole word before an opening bracket.
local function forbid_calls(file, names, why)
  for number, line in ipairs(file.code) do
    for name in line:gmatch "([%a_][%w_]*)%s*%(" do
      if names[name] then breach(file, number, ("%s(): %s"):format(name, why)) end
    end
  end
end

local function set(words)
  local out = {}
  for word in words:gmatch "%S+" do out[word] = true end
  return out
end

local EXITS = set "abort exit _exit _Exit quick_exit assert raise kill"
local PRINTS = set "printf vprintf puts putchar perror fputs signal sigaction setlocale"
local FAMILIES = {"llama", "gemma", "qwen", "mistral", "smollm", "phi3", "granite", "olmo"}

local function is_generated(file) return file.text:sub(1, 200):find "[Ww]ritten by `make docs`" ~= nil end

---@type fun(file: File)[]
local rules = {
  function(file) -- a file has one subject; past 800 lines there is a seam
    if #file.lines > 800 and not is_generated(file) then
      breach(file, #file.lines, ("%d lines; at most 800"):format(#file.lines))
    end
  end,
  function(file) -- the first comment says what the file is
    local first = file.lines[1] or ""
    if first:find "^#!" then first = file.lines[2] or "" end
    if not (file.is_c or file.is_lua) then return end
    if not first:find(file.is_c and "^/%*" or "^%-%-") then breach(file, 1, "the first line says not what it is") end
  end,
  function(file)
    local long = file.is_c or is_generated(file) or file.text:find "luacheck: ignore 631" -- clang-format sees to C
    for number, line in ipairs(file.lines) do
      if line:find "%s$" then breach(file, number, "white space at the end") end
      local columns = utf8.len(line) or #line -- a table's row stays whole
      if columns > 120 and not (long or line:find "^|") then
        breach(file, number, ("%d columns; at most 120"):format(columns))
      end
      if line:find "\t" and (file.is_c or file.is_lua) then breach(file, number, "a tab") end
      if line:find "\r" then breach(file, number, "a carriage return") end
    end
    if #file.text > 0 and file.text:sub(-1) ~= "\n" then breach(file, #file.lines, "no newline at the end") end
  end,
  function(file) -- one floor speaks Lua, one speaks json-c
    if not file.is_c then return end
    for number, line in ipairs(file.lines) do
      local header = line:match '^%s*#%s*include%s*[<"]([^>"]+)'
      if header and file.in_library then
        if set "lua.h lauxlib.h lualib.h"[header] and not file.path:find "^src/lua_bind/" then
          breach(file, number, header .. " is for src/lua_bind alone")
        end
        if (header:find "^json%-c/" or header == "json.h") and not file.path:find "^src/io/" then
          breach(file, number, "json-c is for src/io alone")
        end
        if header == "pcre2.h" and not file.path:find "^src/text/" then
          breach(file, number, "pcre2 is for src/text alone")
        end
      end
      if header and header:find "^readline/" and file.path ~= "repl.c" and not file.path:find "^repl/" then
        breach(file, number, "readline is for the command alone: its licence is the GPL")
      end
    end
  end,
  function(file) -- a library leaves its host alive, its output its own
    if not (file.is_c and file.in_library) then return end
    forbid_calls(file, EXITS, "the library returns a status")
    forbid_calls(file, PRINTS, "the library never prints and leaves signals and locale to its host")
    for number, line in ipairs(file.code) do
      local stream = line:match "%f[%w_]std[oe][ur][tr]%f[^%w_]"
      if stream then breach(file, number, stream .. ": the library has no output of its own") end
    end
  end,
  function(file) -- models are Lua files; GGUF's names of pre-tokenisers are src/text's
    if not (file.is_c and file.in_library) or file.path:find "^src/text/" then return end
    local uncommented = file.text:gsub("/%*.-%*/", function(text) return (text:gsub("[^\n]", "")) end)
    for number, line in ipairs(lines_of(uncommented)) do
      for _, family in ipairs(FAMILIES) do
        if line:lower():find(family, 1, true) then breach(file, number, "C knows no model family: " .. family) end
      end
    end
  end,
  function(file) -- what is in the tree is finished, and is of no machine in particular
    if file.path == "tools/lint.lua" then return end
    for number, line in ipairs(file.lines) do
      local word = line:match "%f[%u]TODO%f[^%w]" or line:match "%f[%u]FIXME%f[^%w]" or line:match "%f[%u]XXX%f[^%w]"
      if word then breach(file, number, word) end
      local path = line:match "%f[/](/home/%w+)" or line:match "%f[/](/root/%w+)" or line:match "%f[/](/work/%w+)"
      if path and not line:find("%w" .. path) then breach(file, number, "a path of one machine: " .. path) end
    end
  end,
}

local command = [[find src lua tests tools examples mk docs .ci repl.c Makefile README.md -type f 2>/dev/null \
  \( -name '*.[ch]' -o -name '*.def' -o -name '*.lua' -o -name '*.sh' -o -name '*.py' -o -name '*.mk' -o -name '*.md' \
  -o -name Makefile -o -name run \) | LC_ALL=C sort]]
local count = 0
local list <close> = assert(io.popen(command))
for path in list:lines() do
  local file = read(path)
  count = count + 1
  for _, rule in ipairs(rules) do rule(file) end
end

-- A link that git keeps leads somewhere else, or nowhere, in a clone.
local links <close> = assert(io.popen "git ls-files -s 2>/dev/null")
for line in links:lines() do
  local path = line:match "^120000 .-\t(.*)$"
  if path then breach({path = path}, 1, "a link") end
end
if breaches == 0 then print(("%d files keep the tree's rules"):format(count)) end
os.exit(breaches == 0, true)
