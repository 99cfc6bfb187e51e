-- Sessions: what the cache gives is what a cold run gives, and only what changed is computed; files, forks, trimming.
local ml = require "moonlet"
local bytes = require "tests.lua.byte_model"
local t = require "tests.lua.harness"

local function shared(held, ids)
  local n = 0
  while n < #held and n < #ids - 1 and held[n + 1] == ids[n + 1] do n = n + 1 end
  return n
end

-- The logits after the prompt that the session has just run, against a cold session's.
local function check_logits(m, s, prompt, what)
  local cold <close> = m:session()
  local function last() return s.runtime.lanes[1][1].logits end -- of all sessions, those after the last prefill
  local got = last():copy()
  ml.eval(got)
  for _ in cold:generate(prompt, {max_tokens = 1}) do end -- luacheck: ignore 542
  local want = last()
  local off = (got - want):abs():max():item() / want:abs():max():item()
  t.ok(off <= 1e-5, ("%s: off by %.3g of the largest logit"):format(what, off))
end

-- One turn: runs it to its end and checks the cache, and the logits unless `unchecked`.
local function turn(m, s, what, begin, unchecked)
  local held = table.move(s.slot.ids, 1, #s.slot.ids, 1, {})
  local g = begin()
  for _ in g do end -- luacheck: ignore 542
  t.eq(g.metrics.cached_tokens, shared(held, g.prompt), what .. ": cached_tokens")
  if not unchecked then check_logits(m, s, g.prompt, what) end
  return g
end

local function converse(m, opts, each)
  local s <close> = m:session {system = "Be brief."}
  local reused = 0
  for k = 1, 20 do
    local options = {max_tokens = opts.max_tokens, temperature = 0.8, seed = k}
    local text = ("Question %d: what is %d times %d?"):format(k, k, 7)
    local unchecked = k % (opts.check_every or 1) ~= 0
    local g = turn(m, s, "turn " .. k, function() return s:send(text, options) end, unchecked)
    reused = reused + g.metrics.cached_tokens
    if each then each(k, g) end
  end
  t.eq(#s.messages, 41)
  t.ok(reused > 0, "the cache serves")
end

t.test("20 turns, a template that only appends", function()
  local m <close> = assert(ml.load(bytes.make "session", {random = 3, precision = "exact"}))
  converse(m, {max_tokens = 12})
end)

t.test("20 turns, a template that rewrites earlier turns", function()
  local path = bytes.make("session-rewriting", {template = bytes.rewriting})
  local m <close> = assert(ml.load(path, {random = 3, precision = "exact"}))
  local rewritten = 0
  local before
  converse(m, {max_tokens = 12}, function(_, g)
    if before and g.metrics.cached_tokens < before then rewritten = rewritten + 1 end
    before = g.metrics.prompt_tokens
  end)
  t.ok(rewritten >= 15, "earlier turns were rewritten, and computed again from there")
end)

t.test("lists of ids whose middle changes", function()
  local m <close> = assert(ml.load("tests/goldens/tiny/qwen3", {precision = "exact"}))
  local s <close> = m:session()
  local ids, at = {}, 17
  local function next_id()
    at = (at * 48271) % 2147483647
    return at % m.info.vocab_size
  end
  for k = 1, 20 do
    for _ = 1, 9 do ids[#ids + 1] = next_id() end
    if k % 3 == 0 then ids[#ids // 2] = next_id() end
    local keep = 0
    while keep < #s.tokens and s.tokens[keep + 1] == ids[keep + 1] do keep = keep + 1 end
    turn(m, s, "turn " .. k, function()
      s:trim(keep)
      return s:generate(table.move(ids, keep + 1, #ids, 1, {}), {max_tokens = 4, ignore_eos = true})
    end)
  end
end)

t.test("Qwen 3's own template and tokenizer, 20 turns", function()
  local folder = t.tokenizer "qwen3"
  local path = bytes.make "session-qwen3"
  assert(os.execute(("cp '%s'/tokenizer*.json '%s'/"):format(folder, path)))
  local file = assert(io.open(path .. "/config.json"))
  local config = file:read "a"
  file:close()
  file = assert(io.open(path .. "/config.json", "w"))
  file:write((config:gsub('"vocab_size": %d+', '"vocab_size": 151936')))
  file:close()
  local m <close> = assert(ml.load(path, {random = 3, precision = "exact"}))
  converse(m, {max_tokens = 6})
end)

t.test("a real model, 20 turns", function()
  local m <close> = assert(ml.load(t.checkpoint "SmolLM2-135M-Instruct.gguf", {precision = "exact"}))
  converse(m, {max_tokens = 6, check_every = 20}) -- a cold run of so large a model takes seconds
end)

-- ---- one small model for the rest ----

local m = assert(ml.load(bytes.make "session-small", {random = 5, precision = "exact"}))

local function run(g)
  for _ in g do end -- luacheck: ignore 542
  return g
end

t.test("raw text goes on behind all of the last answer", function()
  local s <close> = m:session()
  local a = run((s:generate("abc", {max_tokens = 5, ignore_eos = true})))
  t.eq({s.length, s.slot.ids[8]}, {8, nil}) -- the answer's last token is not in the cache yet
  local b = turn(m, s, "second", function() return s:generate("def", {max_tokens = 5, ignore_eos = true}) end)
  local want = {97, 98, 99}
  table.move(a.ids, 1, 5, 4, want)
  table.move({100, 101, 102}, 1, 3, 9, want)
  t.eq(b.prompt, want)
  t.eq(b.metrics.cached_tokens, 7)
end)

t.test("a stop string leaves what the text says", function()
  local s <close> = m:session()
  run((s:generate("x", {sampler = bytes.says "one STOP", stop = "STOP"})))
  t.eq(s.tokens, {("xone "):byte(1, -1)})
  turn(m, s, "after", function() return s:generate("y", {max_tokens = 2, ignore_eos = true}) end)
  run((s:send("hello", {sampler = bytes.says "yes. No", stop = ". "})))
  t.eq(s.messages, {{role = "user", content = "hello"}, {role = "assistant", content = "yes"}})
  turn(m, s, "after chat", function() return s:send("and?", {max_tokens = 3}) end)
end)

t.test("a stop string of a special token leaves what the text says", function()
  local function kept(said, stop, opts)
    local s <close> = m:session()
    opts = opts or {}
    opts.sampler, opts.stop, opts.ignore_eos = bytes.says(said), stop, true
    opts.max_tokens = opts.max_tokens or #said
    local g = run((s:generate("x", opts)))
    local ids = s.tokens
    t.eq(table.remove(ids, 1), 120)
    t.eq(m.tokenizer:decode(ids, {skip_special_tokens = true}), g.text)
    turn(m, s, "after", function() return s:generate("y", {max_tokens = 2, ignore_eos = true}) end)
    return ids
  end
  local START = bytes.START
  local said = {97, START, 98, START, 99, 100}
  t.eq(kept(said, "<|start|>"), {97})
  t.eq(kept(said, "b<|start|>"), {97, START})
  t.eq(kept(said, "<|start|>c"), {97, START, 98})
  t.eq(kept(said, "start|>c"), {97, START, 98})
  t.eq(kept(said, "nothing"), said)
  t.eq(kept({97, START, 98}, "b<|start|>", {max_tokens = 3}), {97, START, 98})
  -- a character of which not all bytes count does not count at all
  t.eq(kept({97, 0xC3, 0xA9, START}, "\u{e9}<|start|>"), {97})
  t.eq(kept({97, 0xC3, 0xA9, 98}, "\u{e9}"), {97})
  local s <close> = m:session()
  run((s:send("hello", {sampler = bytes.says {97, 98, START, 117}, stop = "<|start|>u"})))
  t.eq(s.messages[2].content, "ab")
  turn(m, s, "after chat", function() return s:send("and?", {max_tokens = 3}) end)
end)

t.test("an answer that is cancelled stays as far as it came; one that never began is taken back", function()
  local s <close> = m:session()
  for tok in s:send("hello", {sampler = bytes.says "abcdef"}) do
    if tok.index == 3 then break end
  end
  t.eq(s.messages, {{role = "user", content = "hello"}, {role = "assistant", content = "abc"}})
  turn(m, s, "after", function() return s:send("more", {max_tokens = 3}) end)
  local n = #s.messages
  local cancel = ml.cancel_token()
  cancel:cancel()
  run((s:send("nothing", {cancel = cancel})))
  t.eq(#s.messages, n)
  t.raises(function() run((s:send("fails", {sampler = function() error("oh", 0) end}))) end, "oh")
  t.eq(#s.messages, n)
  turn(m, s, "after all", function() return s:send("more", {max_tokens = 3}) end)
end)

t.test("a new turn ends the answer before it", function()
  local s <close> = m:session()
  local g = s:send("hello", {sampler = bytes.says "abcdef"})
  g()
  s:send("again", {max_tokens = 1}):close()
  t.eq({g.finish_reason, s.messages[2].content, #s.messages}, {"cancelled", "a", 2})
end)

t.test("a session is not changed while it makes a token", function()
  local file = bytes.make "session-small" .. "/other.safetensors"
  do
    local other <close> = m:session()
    other:generate({80, 81}, {max_tokens = 2, ignore_eos = true}):complete()
    assert(other:save(file))
  end
  local want
  for name, change in pairs {
    nothing = false,
    load = function(s) return s:load(file) end, save = function(s) return s:save(file .. ".2") end,
    trim = function(s) return s:trim(0) end, undo = function(s) return s:undo() end,
    fork = function(s) return s:fork() end, send = function(s) return s:send "x" end,
    generate = function(s) return s:generate {1} end,
  } do
    local s <close> = m:session()
    s:generate({5, 6}, {max_tokens = 2, ignore_eos = true}):complete()
    local held = s.tokens
    local _, result = s:generate({7}, {max_tokens = 4, ignore_eos = true, sampler = function(logits, state)
      t.eq({s.tokens, s.length, #s.messages, s:is_saved(file)}, {held, #held, 0, true})
      if change then t.raises(function() change(s) end, name .. ": the session makes a token", "usage") end
      return logits:argmax(-1):item() + #state.ids % 2
    end}):complete()
    t.eq({result.finish_reason, #result.ids, s.length}, {"length", 4, #held + 5}, name)
    want = want or s.tokens
    t.eq(s.tokens, want, name)
  end
  for _, suffix in ipairs {"", ".2"} do os.remove(file .. suffix) end
end)

t.test("a full context raises \"limit\" and loses nothing", function()
  local small <close> = assert(ml.load(bytes.make "session-full", {random = 5, precision = "exact", max_context = 48}))
  local s <close> = small:session()
  run((s:send("hi", {sampler = bytes.says "yo"})))
  local messages, tokens = #s.messages, s.tokens
  t.raises(function() s:send(("long "):rep(20)) end, "context holds 48: with `forget = true`", "limit")
  t.eq({#s.messages, s.tokens}, {messages, tokens})
  t.raises(function() s:generate(("long "):rep(20)) end, "context holds 48", "limit")
  t.eq({#s.messages, s.tokens}, {messages, tokens})
  s:trim(2)
  t.eq(run((s:generate("x", {max_tokens = 100, ignore_eos = true}))).finish_reason, "length")
  t.raises(function() s:generate("y") end, nil, "limit")
end)

-- What each turn says: "q1" and "answer 1", ...
local function talk(s, from, to, opts)
  for i = from, to do
    local o = {sampler = bytes.says(("answer %d"):format(i))}
    for k, v in pairs(opts or {}) do o[k] = v end
    run((s:send("q" .. i, o)))
  end
end
local function contents(s)
  local list = {}
  for i, message in ipairs(s.messages) do list[i] = message.content end
  return table.concat(list, " ")
end

t.test("with forget the oldest turns leave a full context, the system text never", function()
  local small <close> = assert(ml.load(bytes.make "session-full", {random = 5, precision = "exact", max_context = 150}))
  local s <close> = small:session {system = "SYS", forget = true}
  talk(s, 1, 3, {max_tokens = 32})
  t.eq({s.forgotten, #s.messages, s.length <= 150}, {0, 7, true})
  talk(s, 4, 4, {max_tokens = 32})
  local gone = s.forgotten
  t.ok(gone > 0 and gone < 3, gone)
  t.eq(contents(s):sub(1, 4), "SYS ")
  t.ok(contents(s):find "q4 answer 4$" and not contents(s):find "q1", contents(s))
  t.eq(#s.messages, 1 + 2 * (4 - gone))
  turn(small, s, "what is left answers as a conversation of it", function()
    return s:send("q5", {max_tokens = 3, ignore_eos = true})
  end)
  for i = 6, 40 do
    talk(s, i, i, {max_tokens = 32})
    t.ok(s.length <= 151, "turn " .. i)
    t.eq((#s.messages - 1) / 2 + s.forgotten, i + 0.0)
  end
  t.eq(contents(s):sub(1, 4), "SYS ")
  local f <close> = s:fork()
  t.eq(f.forgotten, s.forgotten)
end)

t.test("forget: an answer of its own length has room; nothing leaves before it must", function()
  local small <close> = assert(ml.load(bytes.make "session-full", {random = 5, precision = "exact", max_context = 160}))
  local s <close> = small:session {forget = true}
  talk(s, 1, 2)
  local g = run((s:send("q3", {max_tokens = 1000, ignore_eos = true})))
  t.eq({g.finish_reason, s.forgotten, s.length}, {"length", 0, 161}) -- it fills the context
  g = run((s:send("q4", {max_tokens = 1000, ignore_eos = true})))
  t.ok(g.metrics.generated_tokens >= 40, "a quarter of the context is free for an answer")
  t.eq({#s.messages, s.forgotten}, {2, 3})
end)

t.test("forget: a turn that cannot fit, fails or is stopped loses nothing", function()
  local small <close> = assert(ml.load(bytes.make "session-full", {random = 5, precision = "exact", max_context = 160}))
  local s <close> = small:session {system = "SYS", forget = true}
  talk(s, 1, 3)
  local before, tokens = contents(s), s.tokens
  t.raises(function() s:send(("x"):rep(200)) end, "send: the question makes 2%d%d tokens by itself", "limit")
  t.eq({contents(s), s.tokens, s.forgotten}, {before, tokens, 0})
  t.raises(function() run((s:send(("x"):rep(90), {sampler = function() error("oh", 0) end}))) end, "oh")
  t.eq({contents(s), s.forgotten}, {before, 0})
  local cancel = ml.cancel_token()
  cancel:cancel()
  run((s:send(("x"):rep(90), {cancel = cancel})))
  t.eq({contents(s), s.forgotten}, {before, 0})
  run((s:send(("x"):rep(110), {sampler = bytes.says "ok"})))
  t.eq({contents(s), s.forgotten}, {"SYS " .. ("x"):rep(110) .. " ok", 3}) -- no room but for itself
end)

t.test("undo takes back the last turn, and keeps the tokens of the others", function()
  local s <close> = m:session {system = "SYS"}
  talk(s, 1, 2)
  local length = s.length
  talk(s, 3, 3)
  t.eq(s:undo(), "q3")
  t.eq(contents(s), "SYS q1 answer 1 q2 answer 2")
  t.eq(s.length, length + 1) -- and the end of the answer's turn, which the template has put there
  local g = turn(m, s, "after undo", function() return s:send("q4", {max_tokens = 3}) end)
  t.ok(g.metrics.cached_tokens >= length, "from the cache")
  t.eq({s:undo(), s:undo(), s:undo(), contents(s)}, {"q4", "q2", "q1", "SYS"})
  t.eq({s:undo(), s.length > 0}, {nil, true})
  turn(m, s, "from the beginning", function() return s:send("q5", {max_tokens = 3}) end)
  local empty <close> = m:session()
  t.eq({empty:undo(), empty.length}, {nil, 0})
  talk(empty, 1, 1)
  t.eq({empty:undo(), empty.length, #empty.messages}, {"q1", 0, 0})
end)

t.test("what is a saved session, by its file", function()
  local s <close> = m:session()
  local path = os.tmpname()
  local function holds(text)
    local file <close> = assert(io.open(path, "wb"))
    file:write(text)
    file:close()
    return s:is_saved(path)
  end
  t.eq({holds "", holds "a letter to someone", holds "\xff\xff\xff\xff\xff\xff\xff\xff{}", holds "\2\0\0\0\0\0\0\0{}",
    holds "\xff\xff\0\0\0\0\0\0{"}, {false, false, false, false, false})
  assert(ml.save_safetensors(path, {x = ml.zeros {2}}, {format = "pt"}))
  t.eq({s:is_saved(path), s:is_saved "/nowhere", s:is_saved "tests"}, {false, false, false})
  assert(s:save(path))
  t.eq(s:is_saved(path), true)
  os.remove(path)
end)

t.test("trim keeps the first tokens", function()
  local s <close> = m:session()
  run((s:generate("abcdef", {max_tokens = 2, ignore_eos = true})))
  s:trim(3)
  t.eq({s.tokens, s.length}, {{97, 98, 99}, 3})
  turn(m, s, "after", function() return s:generate("xyz", {max_tokens = 2, ignore_eos = true}) end)
  s:trim(0)
  t.eq(s.tokens, {})
  t.raises(function() s:trim(1.5) end, "trim", "usage")
  t.raises(function() s:trim(-1) end, "trim", "usage")
end)

local opts = {max_tokens = 6, temperature = 1, seed = 9, ignore_eos = true}

t.test("a fork goes on alone, from the same cache", function()
  local s <close> = m:session {system = "S"}
  run((s:send("hello", opts)))
  local f <close> = s:fork()
  t.eq({f.tokens, f.messages}, {s.tokens, s.messages})
  local a = turn(m, f, "fork", function() return f:send("next", opts) end)
  t.ok(a.metrics.cached_tokens > 10, "the fork has the cache")
  t.eq(#s.messages, 3)
  local b = turn(m, s, "original", function() return s:send("next", opts) end)
  t.eq(a.text, b.text)
  local empty <close> = m:session()
  local e <close> = empty:fork()
  t.eq(e.length, 0)
end)

t.test("save and load carry ids, messages and the cache", function()
  local file = os.tmpname()
  local s <close> = m:session {system = "S"}
  run((s:send("hello", opts)))
  t.eq(s:save(file), true)
  local l <close> = m:session()
  t.eq(l:load(file), true)
  t.eq({l.tokens, #l.messages, l.messages[2].content}, {s.tokens, 3, "hello"})
  local a = turn(m, l, "loaded", function() return l:send("next", opts) end)
  local b = turn(m, s, "original", function() return s:send("next", opts) end)
  t.eq({a.text, a.metrics.cached_tokens}, {b.text, b.metrics.cached_tokens})
  t.ok(a.metrics.cached_tokens > 10)
  local empty <close> = m:session()
  t.eq({empty:save(file), l:load(file), l.length, #l.messages}, {true, true, 0, 0})
  os.remove(file)
end)

t.test("a session of another model, another precision, a file that is none", function()
  local file = os.tmpname()
  local s <close> = m:session()
  run((s:generate("hello", opts)))
  s:save(file)
  local other <close> = assert(ml.load(bytes.make "session-small", {random = 6, precision = "exact"}))
  local o <close> = other:session()
  run((o:generate("mine", opts)))
  local mine = o.tokens
  t.fails("fingerprint", "mismatch", o:load(file))
  t.eq(o.tokens, mine)
  local fast <close> = assert(ml.load(bytes.make "session-small", {random = 5}))
  local f <close> = fast:session()
  t.eq({f:load(file), f.tokens}, {true, s.tokens})
  t.eq(run((f:generate("x", opts))).metrics.cached_tokens, 0)
  t.fails(nil, "not_found", s:load "/nonexistent/session")
  t.fails(nil, nil, s:save "/nonexistent/session")
  local out <close> = assert(io.open(file, "wb"))
  out:write "nonsense"
  out:close()
  t.fails(nil, "corrupt", s:load(file))
  t.fails("README.md: no safetensors file: expected '{' at byte 8: no saved session", "corrupt",
    s:load "README.md")
  t.eq(ml.save_safetensors(file, {x = ml.tensor {1}}), true)
  t.fails("no saved session", "corrupt", s:load(file))
  os.remove(file)
end)

t.test("closing frees the cache; a closed session, or model, says so", function()
  local warm = m:session() -- plans stay
  run((warm:generate(("hello "):rep(120), opts)))
  run((warm:generate("more", opts)))
  warm:close()
  local pool = m:runtime().store.pools[1]
  collectgarbage()
  collectgarbage "stop" -- closing frees at once
  local before, held = ml.memory.active(), pool:held()
  local s = m:session()
  run((s:generate(("hello "):rep(120), opts)))
  t.ok(ml.memory.active() > before and pool:held() > held)
  local g = s:generate("more", opts)
  g()
  s:close()
  s:close()
  t.eq(g.finish_reason, "cancelled")
  t.raises(function() s:send "x" end, "closed", "usage")
  local after = ml.memory.active()
  collectgarbage "restart"
  t.eq({after, pool:held()}, {before, held})
  local other = assert(ml.load(bytes.make "session-small", {random = 6}))
  local o <close> = other:session()
  other:close()
  t.raises(function() o:send "x" end, "model is closed", "usage")
end)

m:close()
t.done()
