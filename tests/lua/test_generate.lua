-- Generation: stop conditions, text, options, cancelling, what the decode loop costs, and what it leaves.
local ml = require "moonlet"
local core = require "moonlet.core"
local bytes = require "tests.lua.byte_model"
local S = require "moonlet.sample"
local t = require "tests.lua.harness"

local path = bytes.make "generate"
local m = assert(ml.load(path, {random = 7, precision = "exact"}))
local ids_only = assert(ml.load("tests/goldens/tiny/llama", {precision = "exact"}))

-- Runs a generation to its end: text, ids of the tokens, reason, g.
local function collect(g)
  local texts, ids = {}, {}
  for tok in g do
    texts[#texts + 1], ids[#ids + 1] = tok.text, tok.id
    t.eq(tok.index, #ids, "index")
  end
  t.eq(table.concat(texts), g.text, "the tokens' texts, joined")
  return table.concat(texts), ids, g.finish_reason, g
end

local function say(what, opts)
  opts = opts or {}
  opts.sampler = bytes.says(what)
  return collect((m:generate("Hello", opts)))
end

-- What models keep for the next call is no leak: plans, but no slot and no page.
t.leak_check = function()
  for _, model in ipairs {m, ids_only} do
    if model.shared then
      t.eq(next(model.shared.store.slots), nil, "slots in use")
      for _, pool in ipairs(model.shared.store.pools) do t.eq(pool:held(), 0, "pages in use") end
      model.shared:close()
      model.shared = nil
    end
  end
  return ml.memory.active()
end

t.test("an end token ends the text and is no part of it", function()
  local text, ids, reason = say "well then"
  t.eq({text, #ids, reason}, {"well then", 9, "stop"})
end)

t.test("ignore_eos goes on", function()
  local text, ids, reason = say({72, 105, bytes.END, 33}, {max_tokens = 4, ignore_eos = true})
  t.eq({text, #ids, reason}, {"Hi!", 4, "length"})
end)

t.test("stop_tokens end like an end token, beside it", function()
  local text, ids, reason = say("abcdef", {stop_tokens = {("d"):byte()}})
  t.eq({text, #ids, reason}, {"abc", 3, "stop"})
  t.eq(select(3, say("ab", {stop_tokens = ("z"):byte()})), "stop")
end)

t.test("stop strings: across tokens, at the very end, several, one within another", function()
  t.eq((say("one STOP two", {stop = "STOP"})), "one ")
  t.eq((say("one STO two", {stop = "STOP"})), "one STO two")
  t.eq((say("one STO", {stop = {"STOP"}})), "one STO")
  t.eq((say("one STO", {stop = {"STOP"}, max_tokens = 7})), "one STO")
  t.eq((say("a--b==c", {stop = {"==", "--"}})), "a")
  t.eq((say("xababac", {stop = "abac"})), "xab")
  t.eq((say("STOP", {stop = "STOP"})), "")
  local _, _, reason = say("one STOP two", {stop = "STOP"})
  t.eq(reason, "stop")
end)

-- Ids of texts and of ids in between.
local function ids_of(...)
  local list = {}
  for _, part in ipairs {...} do
    local more = type(part) == "string" and {part:byte(1, -1)} or {part}
    table.move(more, 1, #more, #list + 1, list)
  end
  return list
end

t.test("stop strings see special tokens, which are not shown", function()
  local START, END = bytes.START, bytes.END
  local function check(stop, said, text, n, reason, opts)
    opts = opts or {}
    opts.stop, opts.ignore_eos, opts.max_tokens = stop, true, opts.max_tokens or #said
    local got, ids, why, g = say(said, opts)
    t.eq({got, #ids, why}, {text, n, reason}, tostring(stop))
    return g
  end
  local said = ids_of("Hi", START, "user\nwell")
  check("<|start|>", said, "Hi", 3, "stop")
  check("<|start|>user", said, "Hi", 7, "stop")
  check("i<|start|>us", said, "H", 5, "stop")
  check("start|>u", said, "Hi", 4, "stop")
  check("i<|", said, "H", 3, "stop")
  check({"well", "<|start|>user"}, said, "Hi", 7, "stop")
  check("<|start|>system", said, "Hiuser\nwell", 12, "length")
  check("Hiuser", said, "Hiuser\nwell", 12, "length") -- the token stands between
  check("<|end|>", ids_of("a", END, START), "a", 2, "stop")
  check("<|end|><|start|>", ids_of("a", END, START, "b"), "a", 3, "stop")
  check("<|end|><|start|>x", ids_of("a", END, START, "b"), "ab", 4, "length")
  check("<|start|>", ids_of("a", START, "b"), "a", 2, "stop", {max_tokens = 2})
  check("<|start|>", {START, 97}, "", 1, "stop")
  check("<|start|>x", ids_of("\u{e9}", START), "\u{e9}", 3, "length")
  check("\u{e9}<|start|>", ids_of("a\u{e9}", START), "a", 4, "stop")
  -- nothing that may yet begin one is shown
  local g = m:generate("x", {stop = "b<|start|>c", ignore_eos = true, sampler = bytes.says(ids_of("ab", START, "bc")),
    max_tokens = 5})
  local texts = {}
  for tok in g do texts[#texts + 1] = tok.text end
  t.eq(texts, {"a", "", "", "b", "bc"})
  -- an end token that ends is no part of the text, and leaves what was held back
  t.eq((say(ids_of("aST", START), {stop = "STOP", stop_tokens = {START}})), "aST")
end)

t.test("no token shows a part of a stop string before it is known to be none", function()
  local g = m:generate("x", {stop = "STOP", sampler = bytes.says "aSTxSTOP"})
  local texts = {}
  for tok in g do texts[#texts + 1] = tok.text end
  t.eq(texts, {"a", "", "", "STx", "", "", "", ""})
end)

t.test("max_tokens 0 and 1", function()
  local text, ids, reason = say("abc", {max_tokens = 0})
  t.eq({text, #ids, reason}, {"", 0, "length"})
  text, ids, reason = say("abc", {max_tokens = 1})
  t.eq({text, #ids, reason}, {"a", 1, "length"})
end)

t.test("a character is never split, and what never becomes one is shown at the end", function()
  local g = m:generate("x", {sampler = bytes.says "aé€😀z"})
  local texts = {}
  for tok in g do texts[#texts + 1] = tok.text end
  t.eq(texts, {"a", "", "é", "", "", "€", "", "", "", "😀", "z"})
  local text = say({97, 0xe2, 0x82}, {max_tokens = 3})
  t.eq(text, "a\u{FFFD}")
end)

t.test("text of random bytes: streamed equals complete, each token's text is valid", function()
  for seed = 1, 5 do
    local opts = {max_tokens = 60, temperature = 2, seed = seed, ignore_eos = true}
    local text = collect((m:generate("random", opts)))
    t.ok(utf8.len(text), "valid UTF-8")
    t.eq(m:complete("random", opts), text)
  end
end)

t.test("complete gives text, ids, reason and metrics", function()
  local text, result = m:complete("Hello", {sampler = bytes.says "abc"})
  t.eq({text, result.text, result.ids, result.finish_reason}, {"abc", "abc", {97, 98, 99}, "stop"})
  t.eq({result.metrics.prompt_tokens, result.metrics.generated_tokens, result.metrics.cached_tokens}, {5, 4, 0})
  t.ok(result.metrics.total_seconds >= result.metrics.prefill_seconds and result.metrics.prefill_seconds > 0)
  t.eq(m.metrics, result.metrics)
end)

t.test("chat goes through the template", function()
  local g = m:chat({{role = "user", content = "Hi <|end|>"}}, {sampler = bytes.says "yes"})
  t.eq(collect(g), "yes")
  -- START "user\nHi <|end|>" END START "assistant\n": the content's special text stays text
  t.eq(g.metrics.prompt_tokens, 1 + 5 + 10 + 1 + 1 + 10)
end)

t.test("options: unknown ones, wrong types, sampling options beside a sampler", function()
  local function refused(pattern, opts) t.raises(function() m:generate("x", opts) end, pattern, "usage") end
  refused("max_tokesn", {max_tokesn = 1})
  refused("temperature", {temperature = "hot"})
  refused("temperature", {temperature = -1})
  refused("top_p", {top_p = 1.5})
  refused("max_tokens", {max_tokens = 1.5})
  refused("seed", {seed = 0.5})
  refused("stop", {stop = {1}})
  refused("stop", {stop = ""})
  refused("stop_tokens", {stop_tokens = {"x"}})
  refused("logprobs", {logprobs = true})
  refused("top_k", {sampler = bytes.says "a", top_k = 3})
  t.raises(m:generate("x", {logit_bias = {[9999] = 1}}), "logit_bias", "usage")
  refused("xtc_threshold", {temperature = 1, xtc_probability = 1, xtc_threshold = 0.7})
end)

t.test("prompts: empty, too long, text without a tokenizer, ids out of range", function()
  t.raises(function() m:generate({}) end, "empty", "usage")
  t.raises(function() m:generate({1, 2, 258}) end, "entry 3", "usage")
  t.raises(function() ids_only:generate("text") end, "no tokenizer", "not_found")
  local long = {}
  for i = 1, m.info.context + 1 do long[i] = 65 end
  t.raises(function() m:generate(long) end, "4097 tokens, the context holds 4096", "limit")
  t.raises(ml.compile(function() return m:generate "a" end), "a compiled function cannot make tokens", "usage")
  t.eq((say "fine"), "fine")
end)

t.test("a context that fills ends the text with \"length\"", function()
  local small <close> = assert(ml.load(path, {random = 7, precision = "exact", max_context = 16}))
  local g = small:generate("0123456789", {max_tokens = 100, ignore_eos = true})
  local _, ids, reason = collect(g)
  t.eq({#ids, reason}, {7, "length"}) -- the 17th token needs no place
  local full = small:generate("0123456789abcdef", {max_tokens = 100, ignore_eos = true})
  _, ids, reason = collect(full)
  t.eq({#ids, reason}, {1, "length"})
end)

-- ---- ending early ----

t.test("leaving the loop frees the runtime for the next call", function()
  collect((m:generate("Hello", {max_tokens = 4})))
  local before = ml.memory.active()
  for _ = 1, 20 do
    local n = 0
    for _ in m:generate("Hello", {ignore_eos = true}) do
      n = n + 1
      if n == 3 then break end
    end
  end
  t.eq(ml.memory.active(), before)
  t.eq(m.metrics.finish_reason, "cancelled")
end)

t.test("two at once do not disturb each other", function()
  local opts = {max_tokens = 12, ignore_eos = true}
  local want_a, want_b = m:complete("first", opts), m:complete("second", opts)
  local a, b = m:generate("first", opts), m:generate("second", opts)
  local texts = {"", ""}
  repeat
    local x, y = a(), b()
    texts[1], texts[2] = texts[1] .. (x and x.text or ""), texts[2] .. (y and y.text or "")
  until not x and not y
  t.eq(texts, {want_a, want_b})
end)

t.test("a cancel token, raised from the loop and from a sampler", function()
  local cancel = ml.cancel_token()
  local n = 0
  local g = m:generate("Hello", {cancel = cancel, ignore_eos = true})
  for _ in g do
    n = n + 1
    if n == 3 then cancel:cancel() end
  end
  t.eq({n, g.finish_reason, cancel.cancelled}, {3, "cancelled", true})
  cancel = ml.cancel_token()
  g = m:generate("Hello", {cancel = cancel, sampler = function(logits)
    if logits:max():item() then cancel:cancel() end
    return 65
  end})
  local _, ids = collect(g)
  t.eq(ids, {65})
  t.eq(g.finish_reason, "cancelled")
  local before = ml.cancel_token()
  before:cancel()
  t.eq(select(3, collect((m:generate("Hello", {cancel = before})))), "cancelled")
end)

t.test("a deadline ends the loop, in prefill too", function()
  local g = m:generate("Hello", {deadline = 0.05, max_tokens = 4000, ignore_eos = true})
  for _ in g do local till = core.clock() + 0.02 repeat until core.clock() > till end
  t.eq(g.finish_reason, "deadline")
  g = m:generate("Hello", {deadline = 0})
  t.eq({g(), g.finish_reason}, {nil, "deadline"})
  t.eq((say "fine"), "fine")
  -- one that ended leaves the deadline of another alone, and none stays behind
  local a = m:generate("Hello", {deadline = 30, max_tokens = 3, ignore_eos = true})
  a()
  collect((m:generate("Hello", {deadline = 10, max_tokens = 1})))
  t.eq(#{a(), a()}, 2)
  t.eq(a.finish_reason, "length")
end)

t.test("the engine's own flag (Ctrl-C) raises, and the next call is right", function()
  local want = m:complete("Hello", {max_tokens = 8, ignore_eos = true})
  local g = m:generate("Hello", {max_tokens = 8, ignore_eos = true})
  g()
  core.cancel()
  t.raises(g, nil, "cancelled")
  t.eq({g.finish_reason, g()}, {"cancelled"})
  t.eq(m:complete("Hello", {max_tokens = 8, ignore_eos = true}), want)
end)

t.test("an error in a sampler raises, leaves \"error\", and the model goes on", function()
  local n = 0
  local g = m:generate("Hello", {sampler = function(logits)
    n = n + 1
    if n == 3 and logits:max():item() then error {mine = true} end
    return 65 + logits:max():item() * 0
  end})
  local ok, err = pcall(function() for _ in g do end end) -- luacheck: ignore
  t.eq({ok, type(err)}, {false, "table"})
  t.eq(g.finish_reason, "error")
  t.eq((say "fine"), "fine")
  t.raises(function() m:complete("x", {sampler = function() return "no" end}) end, "sampler: expected", "usage")
  t.raises(function() m:complete("x", {sampler = function() return 258 end}) end,
    "sampler: an id: expected an integer from 0 to 257, found 258", "usage")
  t.raises(function() m:complete("x", {sampler = function(l) return l:matmul(l) end}) end, "matmul")
  t.eq((say "fine"), "fine")
end)

t.test("in a coroutine, with a sampler that yields", function()
  local co = coroutine.wrap(function()
    local n = 0
    local sampler = function(logits)
      n = n + 1
      coroutine.yield("sampling " .. n)
      return logits:argmax(-1)
    end
    return (m:complete("Hello", {max_tokens = 2, ignore_eos = true, sampler = sampler}))
  end)
  local seen, last = {}, nil
  for value in co do
    if not tostring(value):match "^sampling" then last = value break end
    seen[#seen + 1] = value
  end
  t.ok(#seen >= 2, "the sampler yielded")
  t.eq(last, (m:complete("Hello", {max_tokens = 2, ignore_eos = true})))
end)

t.test("closing twice, and asking an ended one", function()
  local g = m:generate("Hello", {max_tokens = 4})
  g:close()
  g:close()
  t.eq({g(), g.finish_reason}, {nil, "cancelled"})
end)

-- ---- what it costs ----

local function counters()
  local s = ml.stats()
  return {s.traces, s.plans, s.allocations}
end

for _, case in ipairs {
  {"greedy", {}}, {"temperature, top-p, seed", {temperature = 0.9, top_p = 0.9, seed = 3}},
  {"every step", {
    temperature = 0.9, top_p = 0.9, top_k = 20, min_p = 0.01, xtc_probability = 0.5, repeat_penalty = 1.2,
    presence_penalty = 0.1, seed = 3,
  }},
  {"log probabilities", {temperature = 0.9, seed = 3, logprobs = 5}},
  {"a traced step of one's own", {
    seed = 1, sampler = S.chain {S.top_k(9), S.traced(function(logits, state)
      return logits * (state.recent:slice {{}, {-1, -1}} + 2)
    end)},
  }},
} do
  for what, model in pairs {["with text"] = m, ["of ids"] = ids_only} do
    t.test(("no trace, no plan, no allocation from the third token on: %s, %s"):format(case[1], what), function()
      local opts = {max_tokens = 40, ignore_eos = true}
      for k, v in pairs(case[2]) do opts[k] = v end
      local third
      for tok in model:generate({5, 6, 7}, opts) do
        if tok.index == 3 then third = counters() end
        if tok.index > 3 then t.eq(counters(), third, "counters at token " .. tok.index) end
      end
    end)
  end
end

t.test("a second call of the same kind makes no plan at all", function()
  local opts = {max_tokens = 5, temperature = 0.5, seed = 1}
  m:complete("Hello", opts)
  local before = counters()
  m:complete("Howdy", opts)
  t.eq(counters(), before)
end)

t.test("log probabilities are those of the model", function()
  local prompt = {5, 6, 7}
  local g = m:generate(prompt, {max_tokens = 3, temperature = 1, seed = 2, logprobs = 4, ignore_eos = true})
  local ids = {5, 6, 7}
  for tok in g do
    local log_p = m:logits(ids)[1][#ids]:log_softmax():tolist()
    t.close(tok.logprob, log_p[tok.id + 1], 1e-4)
    t.eq(#tok.top_logprobs, 4)
    local sorted = {table.unpack(log_p)}
    table.sort(sorted, function(a, b) return a > b end)
    for i, top in ipairs(tok.top_logprobs) do
      t.close(top.logprob, sorted[i], 1e-4)
      t.close(top.logprob, log_p[top.id + 1], 1e-4)
    end
    ids[#ids + 1] = tok.id
  end
  local first = m:generate(prompt, {logprobs = 0, max_tokens = 1, ignore_eos = true})()
  t.ok(first.logprob < 0)
  t.eq(first.top_logprobs, {})
end)

-- ---- seeds ----

local seeded = {
  max_tokens = 24, temperature = 1.1, top_p = 0.95, repeat_penalty = 1.1, seed = 1234567890123, ignore_eos = true,
}

t.test("the same seed gives the same text, another another; so across processes", function()
  local text = ml.json.encode(ml.json.array(select(2, m:complete("Seed", seeded)).ids))
  t.eq(ml.json.encode(ml.json.array(select(2, m:complete("Seed", seeded)).ids)), text)
  local other = {}
  for k, v in pairs(seeded) do other[k] = v end
  other.seed = 4
  t.ok(ml.json.encode(ml.json.array(select(2, m:complete("Seed", other)).ids)) ~= text, "another seed")
  other.seed = nil
  local a, b = m:complete("Seed", other), m:complete("Seed", other)
  t.ok(a ~= b, "without a seed, texts differ")
  local code = ([[
    local ml = require "moonlet"
    local m = ml.load("%s", {random = 7, precision = "exact"})
    local _, r = m:complete("Seed", {
      max_tokens = 24, temperature = 1.1, top_p = 0.95, repeat_penalty = 1.1, seed = 1234567890123, ignore_eos = true,
    })
    io.write(ml.json.encode(ml.json.array(r.ids)))]]):format(path)
  local pipe <close> = assert(io.popen(((os.getenv "BUILD" or "build") .. "/moonlet -e '%s'"):format(code)))
  t.eq(pipe:read "a", text)
end)

-- ---- a model with more rows than the tokenizer has ids ----

t.test("ids that the tokenizer lacks have no text", function()
  local wide <close> = assert(ml.load(bytes.make("generate-wide", {rows = 320}), {random = 7}))
  t.eq({wide.info.vocab_size, wide.tokenizer.vocab_size}, {320, 258})
  local said = {72, 300, 105, 319, 258}
  local text, ids, reason = collect((wide:generate("Hello", {sampler = bytes.says(said)})))
  t.eq({text, ids, reason}, {"Hi", said, "stop"})
  t.eq(wide:complete("Hello", {sampler = bytes.says(said), stop = "i"}), "H")
  t.eq(wide:complete("Hello", {sampler = bytes.says {300, 0xC3, 0xA9}}), "\u{e9}")
  local s <close> = wide:session()
  for _ in s:send("Hello", {sampler = bytes.says {72, 300, 105}}) do end -- luacheck: ignore 542
  t.eq(s.messages[2].content, "Hi")
  for _ in s:send("again", {max_tokens = 4, ignore_eos = true}) do end -- luacheck: ignore 542
  local tk = wide.tokenizer
  t.eq({tk:decode {72, 300, 105}, tk:decode(said, {skip_special_tokens = true}), tk:decode {300}}, {"Hi", "Hi", ""})
  t.eq(tk:decode {0xC3, 300, 0xA9}, "\u{e9}")
  t.eq(tk:decode {72, 320, (1 << 31) - 1}, "H") -- the tokenizer does not know how many rows there are
  t.eq({tk:piece(300), tk:piece(320)}, {})
  for _, far in ipairs {1 << 31, 1 << 40, math.maxinteger} do
    t.eq({tk:decode {72, far, 105}, tk:decode {far}, tk:piece(far), tk.raw:is_special(far)}, {"Hi", "", nil, false})
    local stream <close> = tk:stream()
    t.eq(stream:push(far), "")
  end
  t.raises(function() tk:decode {-1} end, "decode: ids: expected a token id from 0, found %-1", "usage")
  t.raises(function() wide.tokenizer:stream():push(-1) end, "push: id: expected a token id from 0, found %-1", "usage")
end)

-- ---- closing ----

-- Closing frees at once: nothing waits for the collector.
local uses = {
  nothing = function() end,
  complete = function(x) x:complete("Hello", {max_tokens = 5, ignore_eos = true}) end,
  sampling = function(x)
    x:complete("Hello", {
      max_tokens = 5, ignore_eos = true, temperature = 0.8, top_p = 0.9, repeat_penalty = 1.1, logprobs = 3,
    })
  end,
  sampler = function(x) x:complete("Hello", {sampler = bytes.says "xyz"}) end,
  perplexity = function(x) x:perplexity "Hello there, all of you" end,
  logits = function(x) x:logits({1, 2, 3}):close() end,
  ["a chain that fails"] = function(x) pcall(x.complete, x, "Hello", {sampler = function() error "no" end}) end,
  ["generations that were left"] = function(x)
    local g = x:generate("Hello", {max_tokens = 50, ignore_eos = true})
    g()
    x:generate("Hello", {max_tokens = 50})
    return g
  end,
  ["sessions that were left"] = function(x)
    local s = x:session()
    s:generate("Hello", {max_tokens = 50, ignore_eos = true}):complete()
    s:fork()
    local g = s:send("Hello", {max_tokens = 50, ignore_eos = true})
    g()
    return g
  end,
}
for name, use in pairs(uses) do
  t.test("closing a model frees everything at once: " .. name, function()
    collectgarbage()
    collectgarbage "stop"
    local before = ml.memory.active()
    local other = assert(ml.load(path, {random = 8}))
    local g = use(other)
    other:close()
    local after = ml.memory.active()
    collectgarbage "restart"
    t.eq(after, before)
    if g then
      t.eq(g.finish_reason, "error")
      t.raises(g, "the model was closed while it generates", "usage")
      t.eq(g(), nil)
    end
    other:close()
    t.raises(function() other:generate("Hello") end, "the model is closed", "usage")
    t.raises(function() other:session() end, "the model is closed", "usage")
  end)
end

t.test("a model that its own sampler closes frees its memory when that returns", function()
  collectgarbage()
  local before = ml.memory.active()
  local other = assert(ml.load(path, {random = 8}))
  local says, n = bytes.says "abcdef", 0
  local g = other:generate("Hello", {sampler = function(logits)
    n = n + 1
    local id = says(logits)
    if n == 3 then other:close() end
    return id
  end})
  t.raises(function() g:complete() end, "the model was closed while it generates", "usage")
  t.eq({g.finish_reason, g.metrics.finish_reason, n, g()}, {"error", "error", 3})
  collectgarbage()
  t.eq(ml.memory.active(), before)
end)

t.test("a session, or a loop, whose model is closed inside it ends with an error", function()
  for _, door in ipairs {"session", "loop"} do
    local other = assert(ml.load(path, {random = 8}))
    local s = other:session()
    local g = door == "loop" and other:generate("Hello") or s:generate("Hello", {sampler = function(logits)
      other:close()
      return logits
    end})
    t.raises(function()
      for _ in g do other:close() end
    end, "the model was closed while it generates", "usage")
    t.eq({g.finish_reason, g()}, {"error"})
    g:close()
  end
end)

m:close()
ids_only:close()
t.done()
