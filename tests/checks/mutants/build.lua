-- build.lua: a moonlet with some files changed, built beside the tree: what is changed is compiled, and linked with the
-- objects of the build that is there.
local M = {}

local build = os.getenv "BUILD" or "build"

local function quote(text) return "'" .. text:gsub("'", "'\\''") .. "'" end
M.quote = quote

function M.read(path)
  local file <close> = assert(io.open(path, "rb"))
  return assert(file:read "a")
end

function M.write(path, text)
  local file <close> = assert(io.open(path, "wb"))
  assert(file:write(text))
end

local function lines_of(command)
  local pipe <close> = assert(io.popen(command))
  return pipe:read "a"
end

local function plain(text) return (text:gsub("%p", "%%%0")) end

---How this build compiles each file of the library (by its path, with ".avx2" or the like behind where it is compiled
---for an instruction set) and the Lua files that it carries, and links the command: commands as make would run them.
function M.commands()
  local text = lines_of(("make -n -B V=1 BUILD=%s %s 2>/dev/null"):format(quote(build), quote(build .. "/moonlet")))
  local commands = {}
  for line in text:gmatch "[^\n]+" do
    local source, object = line:match " %-c (%S+%.c) %-o (%S+)%.o$"
    if source then commands[source .. (object:match "%.%w+$" or "")] = line end
    if line:find("embed.lua", 1, true) and line:find ">" then commands.embed = line end
    if line:find("-o " .. build .. "/moonlet ", 1, true) then commands.link = line end
  end
  assert(commands.link and commands.embed, "make does not say how it builds")
  return commands
end

local function compile_command(commands, name, from, to)
  local line = assert(commands[name], "make does not compile " .. name)
  line = line:gsub(" %-MMD %-MP", ""):gsub(" %-c %S+ %-o %S+$", "")
  return ("%s -w -g0 -c %s -o %s"):format(line, quote(from), quote(to))
end

local function name_of(source) return (source:gsub("/", "_"):gsub("%.c$", "")) end

---Compiles the text of a C file, for an instruction set or none. Returns the object, or nil.
function M.compile(commands, folder, source, text, isa)
  local name = folder .. "/" .. name_of(source)
  M.write(name .. ".c", text)
  local command = compile_command(commands, isa and source .. "." .. isa or source, name .. ".c", name .. ".o")
  local done = os.execute(("(%s) 2>%s/errors"):format(command, quote(folder)))
  return done and name .. ".o" or nil
end

---Compiles the library's Lua files with some of them changed: `texts` by path.
function M.compile_lua(commands, folder, texts)
  os.execute(("rm -rf %s/lua && cp -R lua %s/lua"):format(quote(folder), quote(folder)))
  for path, text in pairs(texts) do M.write(folder .. "/" .. path, text) end
  local embed = commands.embed:match "^(.-)%s*>" :gsub("tools/embed.lua", '"$OLDPWD"/tools/embed.lua', 1)
  local name, source = folder .. "/embedded_lua", build .. "/embedded_lua.c"
  local done = os.execute(("(cd %s && %s > embedded_lua.c) && %s"):format(quote(folder), embed,
    compile_command(commands, source, name .. ".c", name .. ".o")))
  return done and name .. ".o" or nil
end

---Links the command with objects in place of the library's own.
function M.link(commands, folder, objects)
  local program = folder .. "/moonlet"
  local given = {}
  for i, object in ipairs(objects) do given[i] = quote(object) end
  local line = commands.link:gsub(plain("-o " .. build .. "/moonlet "),
    (("-o %s %s "):format(quote(program), table.concat(given, " ")):gsub("%%", "%%%%")))
  return os.execute(line .. " 2>/dev/null") and program or nil
end

---The tests' own device from another text. Returns the library, or nil.
function M.compile_twin(folder, text)
  local library = build .. "/tests/twin.so"
  local lines = lines_of(("make -n -B V=1 BUILD=%s %s 2>/dev/null"):format(quote(build), quote(library)))
  local line = assert(lines:match("[^\n]* tests/twin/twin%.c %-o [^\n]*"), "make does not say how it builds the twin")
  local source, made = folder .. "/twin.c", folder .. "/twin.so"
  M.write(source, text)
  line = line:gsub(" %-MMD %-MP", ""):gsub("tests/twin/twin%.c %-o %S+", quote(source) .. " -w -o " .. quote(made))
  return os.execute(line .. " 2>/dev/null") and made or nil
end

---Replaces `from`, which must be there once, white space aside.
function M.replace(path, text, from, to)
  local pattern = plain(from):gsub("%s+", "%%s+")
  local at, last = text:find(pattern)
  if not at then error(("%s no longer has: %s"):format(path, from), 0) end
  if text:find(pattern, last) then error(("%s has this twice: %s"):format(path, from), 0) end
  return text:sub(1, at - 1) .. to .. text:sub(last + 1)
end

return M
