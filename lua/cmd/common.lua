---What several subcommands share: options about models and sampling, loading, reading a prompt, printing.
local ml = require "moonlet"
local console = require "moonlet.console"
local options = require "moonlet.cmd.options"

local M = {}

-- ---- options ----

---Concatenates lists of options.
function M.options(...)
  local all = {}
  for _, list in ipairs {...} do table.move(list, 1, #list, #all + 1, all) end
  return all
end

---@type moonlet.cmd.Option[]
M.model = {
  {name = "model", short = "m", type = "string", value = "MODEL", required = true,
    help = "a .gguf file, a directory with config.json, or org/name from the local hub cache"},
}

-- Asked for when help is: finding GPUs takes a while.
local function devices_text()
  local names = {}
  for i, device in ipairs(ml.devices()) do names[i] = device.name end
  return table.concat(names, ", ") .. (names[2] and "; the best of them otherwise" or ", the only one here")
end

---@type moonlet.cmd.Option[]
M.loading = {
  {name = "device", type = "string", value = "NAME", help = devices_text},
  {name = "threads", type = "integer", value = "N", min = 1, help = "threads on the CPU; all cores otherwise"},
  {name = "precision", type = "string", value = "WHICH", choices = {"fast", "exact"},
    help = "fast (default) rounds activations against quantised weights, exact does not"},
  {name = "dtype", type = "string", value = "TYPE", choices = {"float32", "float16", "bfloat16"},
    help = "the type to compute in: float32 (default), float16 or bfloat16"},
  {name = "max-context", type = "integer", value = "N", min = 1,
    help = "the longest context, in tokens; the model's own otherwise"},
  {name = "family", type = "string", value = "FILE",
    help = "a Lua file to use instead of the family that the model names"},
  {name = "strict", help = "unknown keys of the model's configuration are errors"},
}

---@type moonlet.cmd.Option[]
M.sampling = {
  {name = "temp", type = "number", value = "T", min = 0, key = "temperature",
    help = "temperature; 0 takes the likeliest token"},
  {name = "seed", type = "integer", value = "N", help = "makes sampling repeatable"},
  {name = "top-k", type = "integer", value = "N", min = 0, help = "choose among the N likeliest tokens"},
  {name = "top-p", type = "number", value = "P", min = 0, max = 1,
    help = "choose among the likeliest tokens that make up P"},
  {name = "min-p", type = "number", value = "P", min = 0, max = 1,
    help = "leave out tokens below P times the likeliest"},
  {name = "repeat-penalty", type = "number", value = "X", above = 0,
    help = "make tokens that have occurred less likely; 1 is none"},
  {name = "stop", type = "string", value = "TEXT", repeated = true, filled = true,
    help = "end before TEXT; may be given several times"},
}

---@type moonlet.cmd.Option[]
M.prompt = {
  {name = "prompt", short = "p", type = "string", value = "TEXT", help = "the text; - reads it from stdin"},
  {name = "file", type = "string", value = "PATH", help = "reads the text from a file"},
}

local load_keys = {"device", "threads", "precision", "dtype", "max_context", "family", "random", "quantize"}
local sampling_keys = {
  "max_tokens", "temperature", "seed", "top_k", "top_p", "min_p", "repeat_penalty", "stop", "ignore_eos",
}

local function chosen(opts, keys)
  local out = {}
  for _, key in ipairs(keys) do out[key] = opts[key] end
  return out
end

---The options for generate that the user gave.
function M.sampling_of(opts) return chosen(opts, sampling_keys) end

-- ---- messages ----

---The code of an error object, or nil.
function M.code_of(err)
  local ok, code = pcall(function() return err.code end)
  return ok and code or nil
end

---Writes a line to stderr, unless -q was given.
function M.note(opts, message, ...)
  if opts.quiet then return end
  io.stdout:flush()
  io.stderr:write(select("#", ...) > 0 and message:format(...) or message, "\n")
end

---Writes to the standard output, at once. What cannot be written is an error: results are not to be lost in silence.
function M.write(...)
  local ok, message = io.write(...)
  if ok then ok, message = io.flush() end
  if not ok then options.fail("standard output: %s", message) end
end

---Prints a value as one line of JSON.
function M.print_json(value) M.write(ml.json.encode(value), "\n") end

---"512 B", "97.9 MB", "3.05 GB".
function M.bytes(n)
  local units = {"B", "kB", "MB", "GB", "TB"}
  local i = 1
  while n >= 999.5 and i < #units do n, i = n / 1000, i + 1 end
  return (i == 1 and "%d %s" or n < 9.995 and "%.2f %s" or n < 99.95 and "%.1f %s" or "%.0f %s"):format(n, units[i])
end

---"950", "135 M", "1.24 B".
function M.count(n)
  for _, unit in ipairs {{1e12, "T"}, {1e9, "B"}, {1e6, "M"}, {1e3, "K"}} do
    if n >= unit[1] then
      local x = n / unit[1]
      return (x < 9.995 and "%.2f %s" or x < 99.95 and "%.1f %s" or "%.0f %s"):format(x, unit[2])
    end
  end
  return ("%d"):format(n)
end

---The last part of a path, without .gguf: what to call a model.
function M.name_of(path) return (path:gsub("/+$", ""):match("([^/]+)$") or path):gsub("%.gguf$", "") .. "" end

---"4 bits", "Q4_1", "Q4_K + Q6_K", or nil for weights as they were trained.
function M.quantization_text(q)
  if not q then return nil end
  local formats = q.formats or {q.format}
  if #formats > 0 then return (table.concat(formats, " + "):gsub("%f[%w]%l%d_?[%w_]*", string.upper)) end
  return q.bits and ("%d bits, groups of %d"):format(q.bits, q.group_size)
end

---"cpu" and what `ml.devices()` knows of it.
---@param name? any  a device's name; the default device otherwise
---@return string name, table facts
function M.device(name)
  name = tostring(name or ml.default_device())
  for _, d in ipairs(ml.devices()) do
    if type(d) == "table" and d.name == name then return name, d end
  end
  return name, {}
end

---The most memory that this process has had resident, where the system says so; else the most that tensors have had.
function M.peak_bytes()
  local file <close> = io.open "/proc/self/status"
  local kb = file and file:read("a"):match "VmHWM:%s*(%d+) kB"
  return kb and math.tointeger(kb) * 1024 or ml.memory.peak()
end

-- ---- models and text ----

local PROGRESS_AFTER = 0.4 -- seconds; what is faster needs no company

-- A line on the terminal that says how far loading is, and a function that takes it away again.
local function progress(opts)
  if opts.quiet or not console.is_terminal("stderr") then return nil, function() end end
  local start, shown = console.clock(), nil
  local function show(fraction)
    local percent = ("loading %d %%"):format(fraction * 100 // 1)
    if percent == shown or console.clock() - start < PROGRESS_AFTER then return end
    shown = percent
    io.stderr:write("\r", percent)
  end
  return show, function()
    if shown then io.stderr:write("\r", (" "):rep(#shown), "\r") end
  end
end

-- More threads than processors are taken as they were asked for, and wait for each other.
local function note_threads(opts)
  local _, cpu = M.device "cpu" -- of which nothing has changed yet: a thread for each processor
  local n = cpu.threads
  if opts.threads and n and opts.threads > n then
    M.note(opts, "note: --threads %d: there %s here; more threads than that only slow it down", opts.threads,
      n == 1 and "is 1 processor" or ("are %d processors"):format(n))
  end
end

---Loads a model as the options say; a failure ends the command.
function M.load(opts, path)
  note_threads(opts)
  local load_options = chosen(opts, load_keys)
  load_options.strict = opts.strict
  local clear
  load_options.progress, clear = progress(opts)
  local m, message = ml.load(path or opts.model, load_options)
  clear()
  if not m then options.fail(message) end
  for _, warning in ipairs(m.info.warnings or {}) do M.note(opts, "warning: %s", warning) end
  return m
end

---Everything in a file, or in stdin for "-".
function M.read(path)
  local file, message = io.stdin, nil
  if path ~= "-" then file, message = io.open(path, "rb") end
  if not file then options.fail(message) end
  local text
  text, message = file:read("a")
  if path ~= "-" then file:close() end
  return text or options.fail("%s: %s", path, message)
end

local NO_TEXT = "no text; give -p TEXT, --file PATH, or a pipe"

---The text that -p, --file or a pipe gives; `exact` keeps the newline that ends a file.
function M.prompt_of(opts, exact)
  if opts.prompt and opts.file then options.wrong_usage("-p and --file exclude each other") end
  if opts.prompt and opts.prompt ~= "-" then return opts.prompt end
  if not opts.prompt and not opts.file and console.is_terminal("stdin") then
    options.wrong_usage(NO_TEXT)
  end
  local text = M.read(opts.file or "-")
  if text == "" and not opts.prompt and not opts.file then options.wrong_usage(NO_TEXT) end
  return exact and text or (text:gsub("\r?\n$", ""))
end

---Where a file of the user's state lives, by the XDG rules; "" when there is no home.
function M.state_file(name)
  local base, home = os.getenv("XDG_STATE_HOME"), os.getenv("HOME")
  if base and base:sub(1, 1) == "/" then return base .. "/moonlet/" .. name end
  return home and home ~= "" and home .. "/.local/state/moonlet/" .. name or ""
end

---Why an answer that ended by length is no longer. `most` is the limit that the user can raise.
function M.cut_text(metrics, most, context)
  local n = metrics.generated_tokens
  if n < most then return ("[cut after %d tokens: the context of %d is full]"):format(n, context) end
  return ("[cut after %d tokens; -n raises the limit]"):format(n)
end

---One line about how an answer went.
function M.speed_text(metrics)
  local parts = {("%d tokens"):format(metrics.generated_tokens or 0)}
  local rate = metrics.decode_tokens_per_second
  if rate and rate > 0 and rate < math.huge then parts[#parts + 1] = ("%.1f tokens/s"):format(rate) end
  if metrics.prompt_tokens then
    local cached = metrics.cached_tokens or 0
    local from_cache = cached > 0 and (" (%d from the cache)"):format(cached) or ""
    parts[#parts + 1] = ("prompt %d tokens%s"):format(metrics.prompt_tokens, from_cache)
    rate = metrics.prefill_tokens_per_second
    if rate and rate > 0 and rate < math.huge then parts[#parts + 1] = ("read at %.0f tokens/s"):format(rate) end
  end
  return table.concat(parts, ", ")
end

return M
