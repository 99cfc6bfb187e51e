-- The subcommands over a fake engine and a fake console: options, exit codes, stdout and stderr, JSON shapes.
local t = require "tests.lua.harness"

local fake = dofile "tests/lua/fake_moonlet.lua"
local json = fake.json

-- A console without a terminal: `script` is what readline gives, `terminal` what is_terminal says.
local console = {version = "0.0.0", script = {}, terminal = {}, remembered = {}, time = 0}
local function attended(fn, ...)
  local function finish(ok, ...)
    if ok then return true, ... end
    return false, ..., "stack traceback: none"
  end
  return finish(pcall(fn, ...))
end
console.run, console.watch = attended, attended
function console.interrupted() return console.interrupt_now == true end
function console.readline() return table.remove(console.script, 1) end
function console.is_terminal(name) return console.terminal[name] == true end
function console.remember(text) table.insert(console.remembered, text) end
function console.history() return true end
function console.completer(fn) console.complete = fn end
function console.clock()
  console.time = console.time + 0.5
  return console.time
end

-- The modules under test, of this tree, over the fakes.
require "tests.lua.modules".install "."
package.loaded["moonlet"], package.loaded["moonlet.console"] = fake, console
local cmd = require "moonlet.cmd"
local options = require "moonlet.cmd.options"
local common = require "moonlet.cmd.common"

-- Runs `moonlet ARGV...` with this text in stdin -> exit code, stdout, stderr. `full`: nothing more fits the disk that
-- stdout goes to.
local function run(argv, stdin, full)
  local out, err, real = {}, {}, {}
  local function writer(list)
    return function(self, ...)
      for _, x in ipairs {...} do list[#list + 1] = tostring(x) end
      return self
    end
  end
  local function nothing() return true end
  local function flush()
    if full then return nil, "No space left on device", 28 end
    return true
  end
  local library, print_ = _G["io"], print
  local replaced = {
    write = function(...)
      writer(out)(nil, ...)
      return true
    end,
    flush = flush,
    stdout = {write = writer(out), flush = flush, setvbuf = nothing},
    stderr = {write = writer(err), flush = nothing},
    stdin = {read = function() return stdin or "" end},
    lines = function() return (stdin or ""):gmatch "([^\n]*)\n?" end,
  }
  for name, value in pairs(replaced) do
    real[name] = library[name]
    library[name] = value
  end
  rawset(_G, "print", function(...) writer(out)(nil, table.concat({...}, "\t"), "\n") end)
  local ok, code = pcall(cmd.main, argv)
  rawset(_G, "print", print_)
  for name, value in pairs(real) do library[name] = value end
  if not ok then error(code, 0) end
  return code, table.concat(out), table.concat(err)
end

local function keys_of(object)
  local keys = {}
  for key in pairs(object) do keys[#keys + 1] = key end
  table.sort(keys)
  return table.concat(keys, " ")
end

-- ---- options ----

local command = {
  name = "try", summary = "", usage = "", example = "moonlet try",
  options = {
    {name = "model", short = "m", type = "string", value = "M", required = true, help = ""},
    {name = "max-tokens", short = "n", type = "integer", value = "N", min = 0, default = 7, help = "most"},
    {name = "temp", type = "number", value = "T", key = "temperature", min = 0, max = 2, help = ""},
    {name = "depth", short = "d", type = "integer", value = "N", list = true, help = ""},
    {name = "stop", type = "string", value = "S", repeated = true, help = ""},
    {name = "precision", type = "string", value = "P", choices = {"fast", "exact"}, help = ""},
    {name = "strict", short = "s", help = ""},
  },
}
local function parse(...) return options.parse(command, {...}) end
local function refuses(pattern, ...)
  local argv = {...}
  local err = t.raises(function() options.parse(command, argv) end, pattern)
  t.ok(err.usage, "is a usage error")
end

t.test("options: values apart, attached and after =", function()
  t.eq(parse("-m", "a"), {model = "a", max_tokens = 7})
  t.eq(parse("-ma", "-n3"), {model = "a", max_tokens = 3})
  t.eq(parse("--model=a=b", "--temp=0.5"), {model = "a=b", max_tokens = 7, temperature = 0.5})
  t.eq(parse("--model", "-x", "-s"), {model = "-x", max_tokens = 7, strict = true})
end)

t.test("options: lists, repetition, the last of several", function()
  t.eq(parse("-m", "a", "-d", "0,2048"), {model = "a", max_tokens = 7, depth = {0, 2048}})
  t.eq(parse("-m", "a", "--stop", "x", "--stop", "y"), {model = "a", max_tokens = 7, stop = {"x", "y"}})
  t.eq(parse("-m", "a", "-m", "b").model, "b")
end)

t.test("options: whole numbers are integers, however they are written", function()
  t.eq(parse("-m", "a", "-n", "1e2").max_tokens, 100)
  refuses("whole number, not '1.5'", "-m", "a", "-n", "1.5")
  refuses("whole number, not ''", "-m", "a", "-d", "1,,2")
  refuses("a number, not 'nan'", "-m", "a", "--temp", "nan")
end)

t.test("options: refusals say what is wrong", function()
  refuses("^%-m M is missing$")
  refuses("^%-m needs a value$", "-m")
  refuses("^unknown option %-%-tmep %(did you mean %-%-temp%?%)$", "--tmep", "1")
  refuses("^unknown option %-%-frobnicate$", "--frobnicate")
  refuses("^unknown option %-x$", "-x")
  refuses("^%-%-strict takes no value$", "-m", "a", "--strict=yes")
  refuses("at least 0, not %-1", "-m", "a", "-n", "-1")
  refuses("at most 2, not 3", "-m", "a", "--temp", "3")
  refuses("one of fast, exact, not 'slow'", "-m", "a", "--precision", "slow")
  refuses("'word' is not an option; see: `moonlet [^ ]+ %-%-help`", "-m", "a", "word")
  refuses("'word' is not an option; a model is named by %-m: `moonlet [^ ]+ %-m word`", "word")
  local generate = require "moonlet.cmd.generate"
  local _, err = pcall(options.parse, generate, {"-m", "a", "The Moon is"})
  t.eq(tostring(err),
    "'The Moon is' is not an option; a text is given by -p: `moonlet generate -m a -p \"The Moon is\"`")
end)

t.test("options: --help needs nothing else; -- ends options", function()
  t.eq(parse("--help").help, true)
  local _, words = options.parse({name = "try", options = {}, positional = "files"}, {"a", "--", "-b"})
  t.eq(words, {"a", "-b"})
end)

t.test("options: nearest", function()
  t.eq(options.nearest("generat", {"generate", "chat"}), "generate")
  t.eq(options.nearest("caht", {"generate", "chat"}), "chat")
  t.eq(options.nearest("perp", {"perplexity", "chat"}), "perplexity")
  t.eq(options.nearest("xyz", {"generate", "chat"}), nil)
end)

-- ---- dispatcher ----

t.test("overview lists every command", function()
  for _, argv in ipairs {{}, {"-h"}, {"--help"}, {"help"}} do
    local code, out = run(argv)
    t.eq(code, 0)
    for _, c in ipairs(cmd.commands) do t.ok(out:find("moonlet " .. c[1], 1, true), c[1]) end
  end
end)

t.test("every command has help with an example, and its options", function()
  for _, c in ipairs(cmd.commands) do
    local code, out, err = run {c[1], "--help"}
    t.eq(code, 0)
    t.eq(err, "")
    local usage = "usage: moonlet " .. c[1] .. (c[1] == "ls" and " [DIRECTORY]" or " -m MODEL")
    t.ok(out:find(usage, 1, true), c[1] .. " has a usage line")
    t.ok(out:find("example:\n  .*moonlet " .. c[1]), c[1] .. " has an example")
    t.ok(out:find("--json", 1, true) and out:find("-q, --quiet", 1, true), c[1] .. " has --json and -q")
    for line in out:gmatch "[^\n]+" do t.ok(#line <= 120, c[1] .. ": lines are at most 120 wide: " .. line) end
    t.eq(select(2, run {"help", c[1]}), out)
  end
end)

t.test("exit codes", function()
  local function check(argv, code, pattern)
    local got, out, err = run(argv)
    t.eq(got, code, table.concat(argv, " "))
    t.eq(out, "")
    t.ok(err:find(pattern), ("%s: %s"):format(pattern, err))
  end
  check({"generat"}, 2, "^moonlet: no command is called 'generat' %(did you mean generate%?%)\n$")
  check({"nothing"}, 2, "see `moonlet %-%-help`")
  check({"Makefile"}, 2, "a script is run by `moonlet %./Makefile`")
  check({"tests"}, 2, "^moonlet: no command is called 'tests'; it is a folder; `moonlet ls tests` lists the models")
  check({"./tests/lua"}, 2, "it is a folder; `moonlet ls %./tests/lua`")
  check({"tests/goldens/tiny/qwen3"}, 2, "a model is named by %-m: `moonlet chat %-m tests/goldens/tiny/qwen3`")
  check({"--verbose"}, 2, "unknown option %-%-verbose")
  check({"generate", "-m", "fake", "-p", "x", "--tpo-k", "3"}, 2, "^moonlet generate: .*did you mean %-%-top%-k")
  check({"generate", "-m", "none", "-p", "x"}, 1, "^moonlet generate: none: no such file or directory\n$")
  check({"tokenize", "-m", "none", "-p", "x"}, 1, "no such file")
  check({"generate", "-q", "-m", "fake", "-p", ("x"):rep(5000)}, 1, "does not fit the context\n$")
  check({"generate", "-m", "fake bug", "-p", "x"}, 1, "stack traceback")
  check({"generate", "-m", "fake", "-p", "x", "--file", "y"}, 2, "exclude each other")
  check({"generate", "-m", "fake", "--file", "/nowhere"}, 1, "/nowhere: No such file")
  check({"generate", "-m", "fake"}, 2, "no text; give %-p TEXT")
  check({"perplexity", "-m", "fake"}, 2, "no text; give %-p TEXT")
  check({"generate", "-m", "fake", "-p", "x", "--stop", ""}, 2, "^moonlet generate: %-%-stop must not be empty\n$")
  check({"generate", "-m", "fake", "-p", "x", "--repeat-penalty", "0"}, 2, "must be above 0, not 0")
  check({"chat", "-m", "fake", "-p", " "}, 2, "the question is empty")
  check({"bench", "-m", "fake", "-d", "2000"}, 1, "128 tokens after 2000 make 2128, the context holds 2048")
  check({"tokenize", "a.gguf"}, 2, "a model is named by %-m: `moonlet tokenize %-m a%.gguf`")
  check({"tokenize", "-m", "fake", "b"}, 2, 'a text is given by %-p: `moonlet tokenize %-m fake %-p "b"`')
end)

t.test("an interrupted command ends with 130 and one word", function()
  local load = fake.load
  fake.load = function() error({code = "cancelled", message = "cancelled"}) end
  local code, out, err = run {"info", "-m", "fake"}
  fake.load = load
  t.eq({code, out, err}, {130, "", "moonlet info: cancelled\n"})
end)

-- ---- generate ----

t.test("what stdout does not take is an error", function()
  for _, argv in ipairs {{"generate", "-m", "fake", "-p", "a"}, {"info", "-m", "fake"}, {"generate", "--help"}} do
    local code, _, err = run(argv, "", true)
    t.eq(code, 1)
    t.ok(err:find("standard output: No space left on device", 1, true), err)
  end
  for _, more in ipairs {{"-p", "x"}, {"-p", "x", "--json"}, {}} do
    local code, _, err = run({"chat", "-q", "-m", "fake", table.unpack(more)}, "one\ntwo\n", true)
    t.eq({code, err}, {1, "moonlet chat: standard output: No space left on device\n"})
  end
end)

t.test("generate: text to stdout, messages to stderr", function()
  local code, out, err = run {"generate", "-m", "fake", "-p", "hello"}
  t.eq({code, out}, {0, "HELLO\n"})
  t.ok(err:find "warning: config.json" and err:find "5 tokens", err)
  t.eq({run {"generate", "-m", "fake", "-p", "hello", "-q"}}, {0, "HELLO\n", ""})
end)

t.test("generate: prompts from a pipe and a file", function()
  t.eq(select(2, run({"generate", "-q", "-m", "fake"}, "piped\n")), "PIPED\n")
  t.eq(select(2, run({"generate", "-q", "-m", "fake", "-p", "-"}, "two\nlines\n\n")), "TWO\nLINES\n")
  local path = os.tmpname()
  local file = assert(io.open(path, "w"))
  file:write("from a file\r\n")
  file:close()
  t.eq(select(2, run {"generate", "-q", "-m", "fake", "--file", path}), "FROM A FILE\n")
  os.remove(path)
  console.terminal.stdin = true
  local code, _, err = run {"generate", "-m", "fake"}
  console.terminal.stdin = nil
  t.eq(code, 2)
  t.ok(err:find "give %-p TEXT")
end)

t.test("generate: options reach load and generate under their API names", function()
  fake.calls = {}
  run {"generate", "-m", "fake", "-p", "x", "-n", "9", "--temp", "0.5", "--seed", "3", "--top-k", "4", "--top-p", "0.9",
    "--min-p", "0.1", "--repeat-penalty", "1.1", "--stop", "a", "--stop", "b", "--threads", "2", "--precision", "exact",
    "--device", "cpu", "--max-context", "100", "--dtype", "float32", "--strict", "--family", "f.lua", "--ignore-eos"}
  t.eq(fake.calls, {
    {threads = 2, precision = "exact", device = "cpu", max_context = 100, dtype = "float32", strict = true,
      family = "f.lua"},
    {max_tokens = 9, temperature = 0.5, seed = 3, top_k = 4, top_p = 0.9, min_p = 0.1, repeat_penalty = 1.1,
      stop = {"a", "b"}, ignore_eos = true},
  })
  fake.calls = {}
  run {"generate", "-m", "fake", "-p", "x"}
  t.eq(fake.calls, {{}, {max_tokens = 256}})
end)

t.test("--threads beyond the processors is a note", function()
  local function err_of(...) return select(3, run {"generate", "-m", "fake", "-p", "x", ...}) end
  t.ok(err_of("--threads", "3"):find("note: --threads 3: there are 2 processors here; more threads", 1, true))
  t.ok(not err_of("--threads", "2"):find "note:" and not err_of():find "note:")
  t.eq(err_of("--threads", "3", "-q"), "")
end)

t.test("generate: a full context is told, a limit of the user's is not", function()
  local _, out, err = run {"generate", "-m", "fake", "-p", ("x"):rep(2040)}
  t.eq(#out, 8 + 1)
  t.ok(err:find("[cut after 8 tokens: the context of 2048 is full]", 1, true), err)
  t.ok(not select(3, run {"generate", "-m", "fake", "-p", "hello", "-n", "3"}):find "cut")
end)

t.test("--device names the devices that are here", function()
  t.ok(select(2, run {"chat", "--help"}):find "%-%-device NAME +cpu, the only one here\n")
end)

t.test("generate --json: one object", function()
  local code, out = run {"generate", "-m", "fake", "-p", "hi", "-n", "48", "--temp", "0", "--seed", "1", "--json"}
  t.eq(code, 0)
  t.eq(select(2, out:gsub("\n", "")), 1)
  local r = assert(json.decode(out))
  t.eq(keys_of(r), "finish_reason ids metrics text")
  t.eq(r.text, "HI")
  t.eq(r.ids, {72, 73})
  t.eq(r.finish_reason, "stop")
  t.eq(r.metrics.generated_tokens, 2)
end)

t.test("generate --ids: for models without a tokenizer", function()
  t.eq({run {"generate", "-q", "-m", "fake", "--ids", "72,73", "-n", "3"}}, {0, "x\n", ""})
  t.eq((run {"generate", "-m", "fake", "--ids", "1", "-p", "x"}), 2)
  t.eq((run {"generate", "-m", "fake", "--ids", "1,x"}), 2)
end)

t.test("loading shows how far it is on a terminal, when it takes long", function()
  local load = fake.load
  fake.load = function(path, opts)
    for i = 1, 4 do if opts.progress then opts.progress(i / 4, "weight") end end
    return load(path, opts)
  end
  console.terminal.stderr = true
  local _, out, err = run {"info", "-m", "fake"}
  t.ok(err:find "\rloading 25 %%\rloading 50 %%" and err:find "\r *\rwarning" and out:find "fake", err)
  t.eq(select(3, run {"info", "-q", "-m", "fake"}), "")
  console.terminal.stderr = nil
  t.ok(not select(3, run {"info", "-m", "fake"}):find "loading")
  fake.load = load
end)

-- ---- ls ----

t.test("ls", function()
  t.eq({run {"ls", "somewhere"}},
    {0, "fake         gguf         somewhere/a.gguf\n?            safetensors  somewhere/b\n", ""})
  t.eq(select(2, run {"ls", "empty"}), "")
  t.ok(select(3, run {"ls", "empty"}):find "no models in empty")
  t.eq(json.decode((select(2, run {"ls", "somewhere", "--json"}))),
    {{path = "somewhere/a.gguf", format = "gguf", model_type = "fake"}, {path = "somewhere/b", format = "safetensors"}})
  t.eq(select(2, run {"ls", "empty", "--json"}), "[]\n")
  local code, _, err = run {"ls", "nowhere"}
  t.eq({code, err}, {1, "moonlet ls: nowhere: no such directory\n"})
  t.eq((run {"ls", "a", "b"}), 2)
end)

-- ---- tokenize ----

t.test("tokenize: a line, an array", function()
  t.eq({run({"tokenize", "-m", "fake"}, '"ab"\n\n"\\u0041\\n"\n')}, {0, "[1,97,98]\n[1,65,10]\n", ""})
  t.eq(select(2, run({"tokenize", "-m", "fake", "--no-special"}, '"ab"\n""\n')), "[97,98]\n[]\n")
  t.eq(select(2, run {"tokenize", "-m", "fake", "-p", "ab"}), "[1,97,98]\n")
  t.eq(select(2, run({"tokenize", "-m", "fake", "--decode"}, "[1,97,98]\n")), '"<s>ab"\n')
  t.eq(select(2, run({"tokenize", "-m", "fake", "--decode", "--no-special"}, "[1,97,98]\n")), '"ab"\n')
end)

t.test("tokenize: a bad line is named", function()
  local code, out, err = run({"tokenize", "-m", "fake"}, '"a"\nb\n')
  t.eq({code, out}, {1, "[1,97]\n"})
  t.ok(err:find "line 2: json", err)
  t.ok(select(3, run({"tokenize", "-m", "fake"}, "[1]\n")):find "line 1: expected a JSON string")
  t.ok(select(3, run({"tokenize", "-m", "fake", "--decode"}, '"a"\n')):find "line 1: expected a JSON array of ids")
end)

-- ---- perplexity, info, bench ----

t.test("perplexity", function()
  local code, out = run({"perplexity", "-q", "-m", "fake"}, "some text\n")
  t.eq({code, out}, {0, "perplexity 1.6487, nll 0.50000, 10 tokens\n"})
  local r = json.decode((select(2, run({"perplexity", "-m", "fake", "--json"}, "some text\n"))))
  t.eq(keys_of(r), "nll perplexity tokens")
  t.eq(r.tokens, 10)
end)

t.test("info", function()
  local code, out, err = run {"info", "-m", "dir/fake.gguf"}
  t.eq(code, 0)
  for _, line in ipairs {"model type   fake\n", "parameters   135 M\n", "weights      Q4_1\n",
    "memory       98.0 MB\n"} do
    t.ok(out:find(line, 1, true), line)
  end
  t.ok(err:find "warning")
  code, out, err = run {"info", "-m", "fake", "--json"}
  t.eq({code, err}, {0, ""})
  t.eq(keys_of(json.decode(out)),
    "bytes context family hidden_size layers model_type parameters path quantization vocab_size warnings")
  local _, named = run {"info", "-m", "dir/fake.gguf"}
  t.eq(select(2, run {"info", "dir/fake.gguf"}), named)
  for _, case in ipairs {{"info"}, {"info", "a", "b"}, {"info", "a", "-m", "b"}} do
    code, out, err = run(case)
    t.eq({code, out}, {2, ""})
    t.ok(err:find("-m MODEL is missing", 1, true) or err:find("info takes one model", 1, true), err)
  end
end)

t.test("bench --json: the shape, rates from tokens and seconds", function()
  local code, out = run {"bench", "-m", "fake", "-p", "16,32", "-n", "4", "-d", "0,8", "-r", "3", "--json", "-q"}
  t.eq(code, 0)
  local r = json.decode(out)
  t.eq(keys_of(r), "decode device load_seconds model peak_bytes prefill threads")
  t.eq({r.model, r.device, r.threads, r.load_seconds}, {"fake", "cpu", 2, 0.5})
  t.ok(math.type(r.peak_bytes) == "integer" and r.peak_bytes > 100000, "what the process holds: " .. r.peak_bytes)
  t.eq(r.prefill, {{tokens = 16, median = 32, min = 32, max = 32}, {tokens = 32, median = 64, min = 64, max = 64}})
  t.eq(r.decode, {{depth = 0, tokens = 4, median = 16, min = 16, max = 16},
    {depth = 8, tokens = 4, median = 16, min = 16, max = 16}})
end)

t.test("bench: a warm-up each, -0 parts left out, random models", function()
  fake.calls = {}
  t.eq((run {"bench", "-q", "-m", "fake", "-p", "8", "-n", "0", "-r", "2"}), 0)
  t.eq(#fake.calls, 1 + 1 + 2)
  t.eq(fake.calls[2], {max_tokens = 1, ignore_eos = true})
  fake.calls = {}
  local _, out = run {"bench", "-q", "--random", "fakedir", "--seed", "5", "-p", "0", "-n", "3", "-r", "1"}
  t.ok(out:find "^fakedir on cpu, 2 threads" and out:find "decode 3 " and not out:find "prefill", out)
  t.eq(fake.calls[1], {random = 5})
  t.eq(fake.calls[2], {max_tokens = 4, ignore_eos = true})
  run {"bench", "-q", "--random", "fakedir", "--quantize", "Q4_1", "-p", "0", "-n", "1", "-r", "1"}
  t.eq(fake.calls[#fake.calls - 2], {random = 0, quantize = {format = "q4_1"}})
  t.eq((run {"bench", "-m", "fake", "--quantize", "q4_1"}), 2)
  t.eq((run {"bench"}), 2)
  t.eq((run {"bench", "-m", "fake", "--random", "fake"}), 2)
end)

-- ---- chat ----

t.test("chat -p: one question", function()
  t.eq({run {"chat", "-q", "-m", "fake", "-p", "why?", "--system", "Brief"}}, {0, "Brief: WHY?\n", ""})
  local r = json.decode((select(2, run {"chat", "-m", "fake", "-p", "why?", "--json"})))
  t.eq(keys_of(r), "finish_reason ids metrics text")
  t.eq(r.text, "WHY?")
end)

t.test("chat: each line of a pipe is a turn, taken as it is", function()
  t.eq({run({"chat", "-q", "-m", "fake"}, "one\n\n/two\n")}, {0, "ONE\n/TWO\n", ""})
  local code, out, err = run({"chat", "-q", "-m", "fake"}, "one\noverflow\nthree\n")
  t.eq({code, out}, {1, "ONE\n"})
  t.eq(err, "moonlet chat: send: the question makes 9 tokens by itself\n")
end)

t.test("chat: sampled as the model says, else as moonlet does; what the user says comes first", function()
  local function sent(model, ...)
    fake.calls = {}
    run {"chat", "-m", model, "-p", "x", "-n", "5", ...}
    fake.calls[2].cancel = nil
    return fake.calls[2]
  end
  t.eq(sent "fake", {max_tokens = 5, temperature = 0.8, top_k = 40, top_p = 0.95, min_p = 0.05})
  t.eq(sent("fake", "--temp", "0.5"), {max_tokens = 5, temperature = 0.5, top_k = 40, top_p = 0.95, min_p = 0.05})
  t.eq(sent("fake", "--temp", "0"), {max_tokens = 5, temperature = 0})
  t.eq(sent("fake", "--temp", "0", "--top-k", "3"), {max_tokens = 5, temperature = 0, top_k = 3})
  t.eq(sent "fake warm", {max_tokens = 5, temperature = 0.6, top_p = 0.9})
  t.eq(sent("fake warm", "--top-p", "1", "--seed", "4"), {max_tokens = 5, temperature = 0.6, top_p = 1, seed = 4})
  t.eq(sent("fake warm", "--temp", "0"), {max_tokens = 5, temperature = 0})
  t.eq(sent "fake greedy", {max_tokens = 5})
end)

local function talk(script, ...)
  console.script, console.terminal.stdin, console.remembered = script, true, {}
  local argv = {"chat", "-m", "fake", ...} -- the last -m counts
  local code, out, err = run(argv)
  console.terminal.stdin = nil
  return code, out, err
end

t.test("chat: banner, turns of several lines, commands", function()
  local path = os.tmpname()
  local code, out, err = talk({"hello", "a\\", "b", '"""x', 'y"""', '"""', "v", "", "w", '"""', "//slash", false, "  ",
    "/stats", "/save " .. path, "/clear", "/load " .. path, "/system", "/system Be brief", "now", "/nonsense",
    "/clear now", "/save2 x", "/save", "/help", "/exit", "not read"})
  os.remove(path)
  t.eq(code, 0)
  t.ok(err:find "fake, 135 M parameters, Q4_1, context 2048\n", err)
  t.ok(out:find "^HELLO\n\nA\nB\n\nX\nY\n\nV\n\nW\n\n/SLASH\n\n", out)
  t.ok(out:find "last answer: 6 tokens, 20.0 tokens/s, prompt 6 tokens, read at 12 tokens/s\n", out)
  t.ok(out:find "context: 21 of 2048 tokens, 5 turns\nmemory: 1.00 MB of tensors, the process at most %d", out)
  t.ok(out:find("saved " .. path .. "\nbegun again\ngoes on after 21 tokens\nno system message\n", 1, true), out)
  t.ok(out:find "with this system message\nBe brief: NOW\n", out)
  t.ok(err:find "there is no command /nonsense; /help lists them" and err:find "/save needs a path", err)
  t.ok(err:find "/clear stands alone, without 'now'" and err:find "there is no command /save2", err)
  t.ok(out:find "Ctrl%-C stops an answer", out)
  t.eq(console.script, {"not read"})
  t.eq({console.remembered[1], console.remembered[2], console.remembered[3]}, {"hello", "a\nb", "x\ny"})
end)

t.test("chat: a template from a file or by name; sessions that cannot be saved", function()
  local path = os.tmpname()
  local file = assert(io.open(path, "w"))
  file:write "{{ messages }}"
  file:close()
  talk({}, "--template", path)
  t.eq(fake.session_options, {template = "{{ messages }}", forget = true})
  os.remove(path)
  talk({}, "--template", "tool_use", "--system", "Brief.")
  t.eq(fake.session_options, {template = "tool_use", system = "Brief.", forget = true})
  for _, case in ipairs {
    {{"-m", "fake", "--template", "nosuch"}, "^moonlet chat: %-%-template nosuch: no such file; chat template: there"},
    {{"-m", "fake", "--template", "tests"}, "^moonlet chat: tests: Is a directory"},
    {{"-m", "fake base"}, "the model ships no chat template: give one by %-%-template"},
  } do
    local code, _, err = run {"chat", "-q", "-p", "x", table.unpack(case[1])}
    t.eq(code, 1)
    t.ok(err:find(case[2]), err)
  end
  local save = fake.Session.save
  fake.Session.save = nil
  local _, _, err = talk {"/save x"}
  fake.Session.save = save
  t.ok(err:find "this model's sessions have no save", err)
end)

t.test("chat: errors and Ctrl-C end an answer, not the conversation", function()
  local code, out, err = talk {"overflow", "/load /nowhere", "still here", "overflow"}
  t.eq(code, 0)
  t.eq(select(2, err:gsub("moonlet chat: send: the question makes 9 tokens by itself\n", "")), 2, err)
  t.ok(err:find "/nowhere: No such file", err)
  t.ok(out:find "STILL HERE", out)
  console.interrupt_now = true
  code, out, err = talk {"long story"}
  console.interrupt_now = nil
  t.eq({code, out}, {0, "a\n\n\n"})
  t.ok(err:find "%[stopped%]", err)
  t.ok(select(3, talk({"long story"}, "-n", "10")):find "%[cut after 10 tokens; %-n raises the limit%]")
end)

t.test("chat: blanks before a slash do not make it a question", function()
  local _, out, err = talk {"  /set", " /nothing", "\t//x", " y"}
  t.ok(out:find "^temperature 0.8[^\n]*\nmax_tokens 1024\n/X\n\n Y\n", out)
  t.ok(err:find "there is no command /nothing", err)
end)

t.test("chat: the banner says how answers are sampled, /set changes it", function()
  local function banner(...) return select(3, talk({}, ...)):match "\nsampling: ([^\n]*)\n/help" end
  t.eq(banner(), "temperature 0.8, top_k 40, top_p 0.95, min_p 0.05; moonlet's own, since the model brings none")
  t.eq(banner("--temp", "0"), "greedy (as you set it)")
  t.eq(banner("--top-k", "3", "--seed", "7"), "temperature 0.8, top_k 3 (as you set it), top_p 0.95, min_p 0.05, "
    .. "seed 7 (as you set it); moonlet's own, since the model brings none")
  t.eq(banner("-m", "fake warm"), "temperature 0.6, top_p 0.9; from the model's generation_config.json")
  t.eq(banner("-m", "fake greedy"), "greedy; from the model's generation_config.json")
  fake.calls = {}
  local _, out, err = talk({"/set", "/set temp 0.2", "one", "/set top_k=5", "/set --min-p 0", "/set max-tokens 9",
    "two", "/set temperature default", "/set max-tokens default", "three", "/set temp", "/set temp hot", "/set top-p 2",
    "/set stop x", "/set temp 0", "four"})
  t.ok(out:find("^temperature 0.8, top_k 40, top_p 0.95, min_p 0.05; moonlet's own, since the model brings none\n"
    .. "max_tokens 1024\ntemperature 0.2 %(as you set it%), top_k 40"), out)
  t.ok(out:find("greedy (as you set it), top_k 5 (as you set it), min_p 0 (as you set it)\n", 1, true), out)
  for _, line in ipairs {"/set temp needs a value, or \"default\"", "/set temp wants a number, not 'hot'",
    "/set top-p must be at most 1, not 2", "/set knows no 'stop'; /help lists what it knows"} do
    t.ok(err:find("moonlet chat: " .. line, 1, true), line .. ": " .. err)
  end
  for i = 2, #fake.calls do fake.calls[i].cancel = nil end
  t.eq({table.unpack(fake.calls, 2)}, {
    {max_tokens = 1024, temperature = 0.2, top_k = 40, top_p = 0.95, min_p = 0.05},
    {max_tokens = 9, temperature = 0.2, top_k = 5, top_p = 0.95, min_p = 0},
    {max_tokens = 1024, temperature = 0.8, top_k = 5, top_p = 0.95, min_p = 0},
    {max_tokens = 1024, temperature = 0, top_k = 5, min_p = 0},
  })
end)

t.test("chat: /retry and /undo", function()
  fake.calls = {}
  local _, out, err = talk({"/retry", "/undo", "one", "two", "/retry", "/retry", "/stats", "/undo", "/stats", "/undo",
    "/undo", "three"}, "--seed", "5")
  t.ok(out:find "^ONE\n\nTWO\n\nTWO\n\nTWO\n\n", out)
  t.ok(out:find "context: 6 of 2048 tokens, 2 turns\n" and out:find "context: 3 of 2048 tokens, 1 turn\n", out)
  t.ok(out:find "took back: two\n.*took back: one\nTHREE", out)
  t.eq(select(2, err:gsub("there is no question yet", "")), 3, err)
  local seeds = {}
  for i = 2, #fake.calls do seeds[#seeds + 1] = fake.calls[i].seed end
  t.eq(seeds, {5, 5, 6, 7, 5}) -- with a seed of its own, another answer
  _, out, err = talk {"one", "overflow", "/retry", "/undo", "/undo"}
  t.eq(select(2, err:gsub("the question makes 9 tokens", "")), 2, "a question that failed is asked again")
  t.ok(out:find "took back: overflow\ntook back: one\n", out)
  t.ok(select(2, talk {("é "):rep(90), "/undo"}):find("took back: " .. ("é "):rep(30) .. "...\n", 1, true))
end)

t.test("chat: turns that leave a full context are told of once, and counted", function()
  local _, out, err = talk {"one", "forget", "forget again", "/stats", "/clear", "forget"}
  t.eq(select(2, err:gsub("%[the context of 2048 tokens is full: the oldest turns leave the conversation%]\n", "")), 2)
  t.ok(out:find "tokens, 3 turns; 4 older left it\n", out)
end)

t.test("chat: /save asks before it overwrites what is no saved conversation", function()
  local path = os.tmpname()
  local function content()
    local file <close> = assert(io.open(path))
    return file:read "a"
  end
  local function write(text)
    local file <close> = assert(io.open(path, "w"))
    file:write(text)
  end
  t.ok(select(2, talk {"ab", "/save " .. path}):find("saved " .. path, 1, true), "an empty file")
  t.ok(select(2, talk {"abc", "/save " .. path}):find("saved " .. path, 1, true), "a saved conversation")
  t.eq(content(), "3")
  for _, no in ipairs {"", "n", "what?", false} do
    write "my letters"
    t.ok(select(2, talk {"abcd", "/save " .. path, no}):find "not saved\n", tostring(no))
    t.eq(content(), "my letters")
  end
  t.ok(select(2, talk {"abcd", "/save " .. path, "y"}):find "saved")
  t.eq(content(), "4")
  os.remove(path)
  t.ok(select(2, talk {"abcde", "/save " .. path}):find "saved")
  t.eq(content(), "5")
  os.remove(path)
end)

t.test("chat: completion of commands and paths", function()
  talk {}
  t.eq(console.complete("/s", "/s"), {"/save", "/set", "/stats", "/system"})
  t.eq(console.complete("x", "/save x"), true)
  t.eq(console.complete("th", "what is th"), nil)
end)

-- ---- words ----

t.test("bytes, counts, names", function()
  t.eq({common.bytes(0), common.bytes(999), common.bytes(1000), common.bytes(97.9e6), common.bytes(999.6e6)},
    {"0 B", "999 B", "1.00 kB", "97.9 MB", "1.00 GB"})
  t.eq({common.count(950), common.count(134515008), common.count(1235814400)}, {"950", "135 M", "1.24 B"})
  t.eq({common.name_of "a/b.gguf", common.name_of "org/name/", common.name_of "x"}, {"b", "name", "x"})
  t.eq(common.quantization_text {bits = 4, group_size = 64}, "4 bits, groups of 64")
  t.eq(common.quantization_text {format = "q4_k"}, "Q4_K")
  t.eq(common.quantization_text {format = "q8_0", formats = {"q8_0", "q4_k"}}, "Q8_0 + Q4_K")
end)

t.done()
