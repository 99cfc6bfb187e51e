-- session_steps.lua: what may be done to the sessions of a model in any order, and whether logits are those of a cold
-- run over the same ids: behind each prompt, and of the tokens of some answers.
local ml = require "moonlet"
local bytes = require "tests.lua.byte_model"
local t = require "tests.lua.harness"
local tiny = require "tests.tiny"

local M = {LIMIT = 1e-5} -- of the largest logit

local MOST_SESSIONS, MOST_TOKENS = 5, 1500

-- ---- models ----

local function config(model_type, more)
  return ([[{"model_type": "%s", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "vocab_size": 258, "max_position_embeddings": 4096,
"rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": true, "hidden_act": "silu"%s}]]):format(model_type,
    more or "")
end

M.families = {
  {name = "full", config = config "llama"},
  {name = "sliding", config = config("mistral", ', "sliding_window": 150')},
  {name = "recurrent", config = config("hybrid", ', "sliding_window": 100, "conv_kernel": 4'),
    family = "tests/lua/families/hybrid.lua"},
}

---A tiny model of a family, in exact mode.
---@param family table  an entry of `families`
function M.load(family)
  local path = bytes.make("slots-" .. family.name)
  tiny.write(path .. "/config.json", family.config)
  return assert(ml.load(path, {random = 7, precision = "exact", family = family.family}))
end

-- ---- logits ----

---Runs a generator to its end.
function M.run(g)
  for _ in g do end -- luacheck: ignore 542
  return g
end

---How far what the lane holds of the last prefill is from the model without a cache, in largest logits; at most LIMIT.
function M.check(m, ids, what)
  local got = m:runtime().lanes[1][1].logits:copy()
  ml.eval(got)
  local all = m:logits(ids)[1]
  local want = all[#all]
  local off = (got[1] - want):abs():max():item() / want:abs():max():item()
  t.ok(off <= M.LIMIT, ("%s: off by %.3g of the largest logit"):format(what, off))
  return off
end

-- The same of the tokens of an answer: their log probabilities, and those of the likeliest.
local function check_answer(m, prompt, tokens, what)
  if #tokens == 0 then return 0 end
  local ids = table.move(prompt, 1, #prompt, 1, {})
  for i, token in ipairs(tokens) do ids[#prompt + i] = token.id end
  local logits = m:logits(ids)[1]:slice {{#prompt, #ids - 1}, {}}
  local known, largest, worst = logits:log_softmax(), logits:abs():max():item(), 0
  for i, row in ipairs(known:tolist()) do
    worst = math.max(worst, math.abs(tokens[i].logprob - row[tokens[i].id + 1]))
    for _, other in ipairs(tokens[i].top_logprobs) do
      worst = math.max(worst, math.abs(other.logprob - row[other.id + 1]))
    end
  end
  t.ok(worst <= M.LIMIT * largest, ("%s: an answer is off by %.3g of the largest logit"):format(what, worst / largest))
  return worst / largest
end

-- ---- steps ----

local function random_ids(random, n)
  local ids = {}
  for i = 1, n do ids[i] = random:int(0, 255) end
  return ids
end
M.random_ids = random_ids

---@class SessionSteps  of one model
---@field sessions moonlet.Session[]
---@field counts table<string, integer>  how often each kind of step was taken
---@field ends integer[]  lengths of prompts, the latest last
---@field worst number  the largest difference, in largest logits
local Steps = {}
Steps.__index = Steps

---@param m moonlet.Model
---@param random table
---@param file string  where sessions are saved
function M.new(m, random, file)
  return setmetatable({
    m = m, random = random, file = file, sessions = {m:session()}, counts = {}, ends = {}, worst = 0,
  }, Steps)
end

local function options(self)
  local random = self.random
  return {
    max_tokens = random:int(1, 12), ignore_eos = true, temperature = 1, seed = random:int(1, 1 << 30),
    logprobs = random:chance(0.5) and 3 or nil,
  }
end

local function note(self, off) self.worst = math.max(self.worst, off) end

-- Runs an answer to its end. Its prompt's logits are compared, and at times its own.
local function answer(self, what, g, opts)
  local tokens = {}
  for token in g do tokens[#tokens + 1] = token end
  table.insert(self.ends, #g.prompt)
  note(self, M.check(self.m, g.prompt, what))
  if opts.logprobs then note(self, check_answer(self.m, g.prompt, tokens, what)) end
end

-- Answers of several sessions, a token of each in turn.
local function together(self, what)
  local running, opts = {}, options(self)
  opts.logprobs = 3
  for i, s in ipairs(self.sessions) do
    opts.max_tokens, opts.seed = self.random:int(1, 12), i
    running[i] = {g = s:generate(random_ids(self.random, self.random:pick {1, 3, 70}), opts), tokens = {}}
  end
  local going = #running
  while going > 0 do
    going = 0
    for _, one in ipairs(running) do
      local token = not one.done and one.g()
      if token then table.insert(one.tokens, token) else one.done = true end
      if token then going = going + 1 end
    end
  end
  for _, one in ipairs(running) do note(self, check_answer(self.m, one.g.prompt, one.tokens, what)) end
end

local kinds = {}

function kinds.generate(self, s, what)
  local opts = options(self)
  answer(self, what, s:generate(random_ids(self.random, self.random:pick {1, 3, 20, 70, 300}), opts), opts)
end

function kinds.send(self, s, what)
  local opts = options(self)
  answer(self, what, s:send(("word "):rep(self.random:int(1, 40)), opts), opts)
end

-- A length to go back to: any, one near the end, near the end of a page, near that of a prompt, where snapshots are.
local function length_for(self, s)
  local random = self.random
  local near = random:int(-1, 1)
  local n = random:pick {
    random:int(0, s.length), s.length - random:int(0, 3), random:int(0, s.length // 64) * 64 + near,
    (self.ends[#self.ends - random:int(0, 3)] or 0) + near,
  }
  return math.max(0, math.min(n, s.length))
end

function kinds.trim(self, s, what)
  local opts = options(self)
  s:trim(length_for(self, s))
  answer(self, what, s:generate(random_ids(self.random, 2), opts), opts)
end

function kinds.fork(self, s, what)
  local fork = s:fork()
  table.insert(self.sessions, fork)
  for _, one in ipairs {s, fork} do
    local opts = options(self)
    answer(self, what, one:generate(random_ids(self.random, 3), opts), opts)
  end
end

function kinds.save(self, s, what)
  local other, opts = self.m:session(), options(self)
  assert(s:save(self.file))
  assert(other:load(self.file))
  t.eq(other.tokens, s.tokens)
  table.insert(self.sessions, other)
  answer(self, what, other:generate(random_ids(self.random, 3), opts), opts)
end

function kinds.cancel(self, s)
  local g = s:generate(random_ids(self.random, 30), options(self))
  g()
  g:close()
end

function kinds.together(self, _, what) together(self, what) end
function kinds.new(self) table.insert(self.sessions, self.m:session()) end
function kinds.close() end

local choices = {
  "generate", "generate", "generate", "send", "trim", "trim", "fork", "save", "together", "new", "close", "cancel",
}

---One thing done to one of the sessions.
---@param number integer  for messages
function Steps:step(number)
  local sessions, random = self.sessions, self.random
  local i = random:int(1, #sessions)
  local kind = random:pick(choices)
  if sessions[i].length > MOST_TOKENS then kind = "close" end
  self.counts[kind] = (self.counts[kind] or 0) + 1
  kinds[kind](self, sessions[i], ("step %d: %s"):format(number, kind))
  if kind == "close" or #sessions > MOST_SESSIONS then table.remove(sessions, i):close() end
  if #sessions == 0 then sessions[1] = self.m:session() end
end

---Closes all sessions: no page, no slot may be held.
function Steps:close()
  for _, s in ipairs(self.sessions) do s:close() end
  local store = self.m:runtime().store
  t.eq(next(store.slots), nil, "slots in use")
  for _, pool in ipairs(store.pools) do t.eq(pool:held(), 0, "pages in use") end
  os.remove(self.file)
end

return M
