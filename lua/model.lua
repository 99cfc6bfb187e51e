---A loaded model: generate, chat, complete, session, logits, perplexity, info.
local core = require "moonlet.core"
local ml = require "moonlet.init"
local util = require "moonlet.util"
local compile = require "moonlet.compile"
local generate = require "moonlet.generate"
local generation_config = require "moonlet.generation_config"
local metrics = require "moonlet.metrics"
local runtime = require "moonlet.runtime"

local M = {}

---@class moonlet.Model
---@field info table
---@field metrics table  of the last call that computed something
---@field generation_config table  generation_config.json; empty where the checkpoint has none, as GGUF files
---@field tokenizer moonlet.Tokenizer|nil
local Model = {}
Model.__index = Model
Model.__name = "moonlet.Model"
Model.__dir = {"info", "metrics", "tokenizer", "config", "net", "generation_config", "device"}

-- The weights' dtypes by their share of the bytes, the largest first.
local function dtypes_by_bytes(entries)
  local bytes = {}
  for _, e in ipairs(entries) do bytes[e.dtype] = (bytes[e.dtype] or 0) + e.bytes end
  local dtypes = util.sorted_keys(bytes)
  table.sort(dtypes, function(a, b) return bytes[a] > bytes[b] or bytes[a] == bytes[b] and a < b end)
  return dtypes
end

-- The block formats among these, and {bits, group_size, format} of the first; nil without any.
local function quantization(dtypes)
  local formats = {}
  for _, dtype in ipairs(dtypes) do
    if dtype:match "^q%d" then formats[#formats + 1] = dtype end
  end
  local first = formats[1]
  if not first then return nil end
  return {
    format = first, bits = math.tointeger(first:match "%d"), group_size = first:match "_k$" and 256 or 32,
    formats = formats,
  }
end

local function make_info(parts)
  local c, parameters, bytes = parts.config, 0, 0
  local dtypes = dtypes_by_bytes(parts.entries)
  parts.net:each_parameter(function(_, _, tensor)
    parameters = parameters + tensor.size
    bytes = bytes + tensor.nbytes
  end)
  local trained, most = c.max_position_embeddings, parts.options.max_context
  local context = math.min(trained or most, most or math.maxinteger)
  if most and most > context then
    local warning = "load: max_context: %d is beyond the model's own %d, which stays"
    table.insert(parts.warnings, warning:format(most, context))
  end
  return {
    model_type = parts.raw.model_type, family = parts.family.model_types[1],
    layers = c.num_hidden_layers, hidden_size = c.hidden_size, vocab_size = c.vocab_size,
    parameters = parameters, quantization = quantization(dtypes), bytes = bytes,
    dtype = dtypes[1], compute_dtype = parts.options.dtype or "float32", context = math.tointeger(context),
    path = parts.path, warnings = parts.warnings,
  }
end

-- Keys and values lie in the dtype that is computed in; in float16 beside quantised weights, whose rounding is coarser.
local function cache_dtype(parts, info)
  if parts.options.cache_dtype then return parts.options.cache_dtype end
  if info.compute_dtype ~= "float32" then return info.compute_dtype end
  return parts.precision == "fast" and info.quantization and "float16" or "float32"
end

function M.new(parts)
  local info = make_info(parts)
  return setmetatable({
    net = parts.net, config = parts.config, raw = parts.raw, tokenizer = parts.tokenizer,
    generation_config = parts.generation_config or {}, ends = parts.ends or {}, device = core.default_device(),
    info = info, metrics = {},
    precision = parts.precision,
    cache_dtype = cache_dtype(parts, info),
    scope = parts.scope, options = parts.options, users = setmetatable({}, {__mode = "k"}),
  }, Model)
end

local function check_open(self, name)
  if not self.net then util.raise("usage", "%s: the model is closed", name) end
end

-- ---- prompts ----

local function check_ids(self, ids, what)
  for i, id in ipairs(ids) do
    local whole = type(id) == "number" and math.tointeger(id)
    if not whole or whole < 0 or whole >= self.info.vocab_size then
      local expected = ("a token id from 0 to %d"):format(self.info.vocab_size - 1)
      util.unexpected(("%s: entry %d"):format(what, i), expected, id)
    end
  end
  return ids
end

---Ids of a prompt: text is encoded as the tokenizer does it by default, though BOS stands there once if the text has it
---already; lists of ids are taken as they are.
function Model:prompt_ids(prompt, what)
  if type(prompt) == "table" then return check_ids(self, util.list(what, prompt, "a list of token ids"), what) end
  if type(prompt) ~= "string" then
    util.unexpected(what, "text or a list of token ids", prompt)
  end
  if not self.tokenizer then
    util.raise("not_found", "%s: the model has no tokenizer (%s): give a list of token ids", what, self.info.path)
  end
  local t = self.tokenizer
  local encoded = t:encode(prompt)
  if t.adds_bos and encoded[1] == t.bos_id and encoded[2] == t.bos_id then table.remove(encoded, 1) end
  return encoded
end

---Ids of a conversation with the header of the answer behind it.
function Model:chat_ids(messages, o)
  if not self.tokenizer then util.raise("not_found", "chat: the model has no tokenizer (%s)", self.info.path) end
  return self.tokenizer:encode_chat(messages, {
    add_generation_prompt = not o.continue_final_message, continue_final_message = o.continue_final_message,
    tools = o.tools, documents = o.documents, template = o.template, template_vars = o.template_vars,
    now = o.now, parse_special = o.parse_special,
  })
end

---The options of a call of `chat` with `defaults = "model"`: `opts`, and where it has nothing what generation_config
---says, as transformers takes it: `do_sample: true`, or a `temperature` in `opts` above 0, draws, by the file's
---temperature, top_k, top_p and min_p, with a temperature of 1 and top_k = 50 where it is silent; else the likeliest
---token is taken. A repetition penalty holds either way, over the whole context. Beside a `sampler` in `opts` the file
---says nothing; nor does one that has none of the keys below.
---@param opts table|nil  generate's or chat's
---@return table options  a table of its own
---@return boolean present  whether the file says anything of how tokens are chosen (do_sample, temperature, top_k,
---  top_p, min_p, typical_p, epsilon_cutoff, eta_cutoff, top_h, repetition_penalty)
function Model:generation_defaults(opts)
  local given = {}
  if opts ~= nil and type(opts) ~= "table" then
    util.unexpected("generation_defaults", "a table of options", opts)
  end
  for k, v in pairs(opts or {}) do given[k] = v end
  if given.defaults ~= nil and given.defaults ~= "model" then
    util.unexpected("chat: defaults", "\"model\"", given.defaults)
  end
  given.defaults = nil
  return generation_config.options(self.generation_config, given, self.info.context)
end

-- ---- other engines ----

---Lets other engines of this process use the weights: what it gives is theirs to load with, load {share = token}, in
---whatever thread, as long as this model is open. The weights count where they were loaded, are freed with the last
---model that has them, and are never written. Weights on the processor alone are shared: others are "unsupported".
---@return string token
function Model:share()
  check_open(self, "share")
  if not self.token then
    local tensors, order = self.net:parameters()
    local list = {}
    for i, path in ipairs(order) do list[i] = tensors[path] end
    self.token = core.share(require("moonlet.load").about(self), order, list)
  end
  return self.token
end

-- ---- slots ----

---What all sequences of the model share: pools of pages, slots, and what steps are decoded with. Made when it is first
---asked for, freed with the model; for those who write another way to generate.
---@return moonlet.Runtime
function Model:runtime()
  self.shared = self.shared or runtime.new(self)
  return self.shared
end

local function start(self, ids, o, what)
  local r = self:runtime()
  r:check_prompt(ids, what)
  local slot = r:slot()
  local ok, g = pcall(generate.start, self, slot, ids, o, function() slot:close() end)
  if not ok then
    slot:close()
    error(g, 0)
  end
  self.users[g] = true
  return g
end

---Tokens {id, text, index, logprob, top_logprobs} of a continuation: `for tok in m:generate(prompt, opts) do`.
---@param prompt string|integer[]  text, or token ids
---@param opts table|nil  {max_tokens = 256, temperature = 0 (the likeliest token), top_k, top_p, min_p,
---  xtc_probability, xtc_threshold, repeat_penalty, repeat_last_n = 64 (the prompt counts; at most the context),
---  presence_penalty, frequency_penalty, logit_bias ({[id] = number}), seed, stop (strings), stop_tokens (ids of the
---  model's), logprobs (how many of the likeliest; of the model's own probabilities, before temperature and penalties),
---  sampler (a chain or a function: see sampling), cancel (ml.cancel_token()), deadline (seconds), ignore_eos}.
---  top_p = 1 and 0 of the other sampling options change nothing; top_p = 0 leaves the likeliest token. Without a
---  temperature top_k, top_p, min_p and xtc do nothing, and `metrics.warnings`, a list of texts, says so
---@return moonlet.Generation ...  what a `for` wants. The generation, the first of them, has `text` and `ids` so far,
---  `metrics`, `logprobs` where they were asked for, and at the end `finish_reason`: "stop", "length", "cancelled",
---  "deadline" or "error"
function Model:generate(prompt, opts)
  check_open(self, "generate")
  local o = generate.options(opts, "generate")
  local g = start(self, self:prompt_ids(prompt, "generate"), o, "generate")
  return g, nil, nil, g
end

---The tokens of the answer to a conversation, through the model's chat template.
---@param messages table  a list of {role = "system", "user" or "assistant", content = text}
---@param opts table|nil  generate's, and {tools, documents, template (a name or a source), template_vars, now,
---  parse_special, continue_final_message, defaults = "model" (what generation_config says where `opts` does not)}
---@return moonlet.Generation ...  what a `for` wants
function Model:chat(messages, opts)
  check_open(self, "chat")
  local asked = type(opts) == "table" and opts.defaults ~= nil
  local o = generate.options(asked and self:generation_defaults(opts) or opts, "chat", generate.chat_known)
  local ids = self:chat_ids(messages, o)
  o.ends = self.tokenizer:ends(o.template)
  local g = start(self, ids, o, "chat")
  return g, nil, nil, g
end

---The whole text, and {text, ids, finish_reason, metrics, logprobs (where asked for: a list of {id, logprob,
---top_logprobs}, one for each id)}.
---@param prompt string|table  text, ids, or messages
---@param opts table|nil  generate's for text and ids, chat's for messages
---@return string text
---@return table result
function Model:complete(prompt, opts)
  check_open(self, "complete")
  local messages = type(prompt) == "table" and (type(prompt[1]) == "table" or prompt.role ~= nil)
  local g <close> = messages and self:chat(prompt, opts) or self:generate(prompt, opts)
  return g:complete()
end

---Many prompts at once, through `slots` rows: a list of results in the order of the prompts, each as of `complete`;
---where a prompt failed it has `error` and the finish_reason "error", and the others go on. In exact mode each is what
---the prompt gives alone.
---@param prompts table  a list of texts, lists of ids, lists of messages, or tables {prompt = one of these, and
---  generate's options for this one, or chat's}
---@param opts table|nil  those options for all, and {slots = 8 (at once), on_token (function(index, token); where it
---  returns false that prompt ends, as "cancelled", and the others go on), iterate = true (results as they end: `for
---  index, result in m:batch_generate(...)`)}
---@return table results
function Model:batch_generate(prompts, opts)
  check_open(self, "batch_generate")
  return require("moonlet.batch").new(self, prompts, opts)
end

---A conversation that keeps its cache: see sessions.
---@param opts table|nil  {system (a text), messages, tools, documents, template, template_vars, now,
---  forget = true (a conversation that the context no longer holds loses its oldest turns instead of raising "limit";
---  never the system text)}
---@return moonlet.Session
function Model:session(opts)
  check_open(self, "session")
  return require("moonlet.session").new(self, opts)
end

-- ---- whole sequences ----

local function pad(lists, vocab)
  local longest = 0
  for _, ids in ipairs(lists) do longest = math.max(longest, #ids) end
  local rows = {}
  for i, ids in ipairs(lists) do
    rows[i] = {}
    for t = 1, longest do rows[i][t] = ids[t] or 0 end
  end
  return rows, longest, vocab
end

---Float32 logits (B, T, V) of a list of ids, or of a list of such lists (right-padded).
---@param ids integer[]|integer[][]
---@return moonlet.Tensor
function Model:logits(ids)
  local _ <close> = core.on(self.device)
  check_open(self, "logits")
  if type(ids) ~= "table" then util.unexpected("logits", "a list of token ids, or of such lists", ids) end
  local lists = type(ids[1]) == "table" and ids or {ids}
  for i, list in ipairs(lists) do
    if type(list) ~= "table" or #list == 0 then
      util.raise("usage", "logits: row %d: expected a list of token ids, found %s", i,
        type(list) == "table" and "no entry" or util.show(list))
    end
    if #list > self.info.context then
      util.raise("limit", "logits: row %d has %d tokens, the context holds %d", i, #list, self.info.context)
    end
    check_ids(self, list, "logits")
  end
  local begun, asked = core.clock(), 0
  for _, list in ipairs(lists) do asked = asked + #list end
  return compile.scope(function()
    local tokens = ml.tensor(pad(lists), {dtype = "int32"})
    local logits = runtime.check_logits(self, tokens, self.net(tokens)):astype "float32"
    ml.eval(logits)
    self.metrics = metrics.of_texts(begun, asked, asked)
    return logits
  end)
end

---What each text is, by the model's next token: per text {label, index (position in `labels`), probability (among the
---labels), logits (with `logits`: one a label, of several tokens the sum of their log probabilities)}. Without labels
---the likeliest next token: {label (its piece), id, probability}.
---@param texts table  a list of texts, lists of ids, or lists of messages
---@param opts table|nil  {labels = texts, template = a text with {text} in it, or a function of the text that gives a
---  prompt, batch_size = how many texts at most run together, logits = true, truncate = true (what is too long loses
---  its beginning), progress = function(done, all)}
---@return table
function Model:classify(texts, opts)
  check_open(self, "classify")
  return require("moonlet.classify").classify(self, texts, opts)
end

---What stands for each text among the states that the model's head is applied to: float32 (n, D).
---@param texts table  a list of texts, lists of ids, or lists of messages
---@param opts table|nil  {pooling = "mean" (of all tokens), "last" or "cls" (the first), normalize = true (to length
---  1), batch_size, truncate}. A NaN in what a text gives is an error of code "corrupt"
---@return moonlet.Tensor
function Model:embed(texts, opts)
  check_open(self, "embed")
  return require("moonlet.classify").embed(self, texts, opts)
end

---How likely continuations are behind a prefix, which is computed once: per continuation {logprob (the sum of its
---tokens' natural log probabilities), tokens (how many), greedy (whether each is the likeliest)}. Logits that hold a
---NaN, or nothing but -inf, are an error of code "corrupt".
---@param prefix string|table  text, ids or messages
---@param continuations table  texts, or lists of ids
---@return table
function Model:score(prefix, continuations)
  check_open(self, "score")
  return require("moonlet.classify").score(self, prefix, continuations)
end

---{nll, perplexity, tokens} of a text: windows of `context` ids, one every `stride` ids, each begun cold; a window
---predicts the ids that none before it held. nll is the mean natural logarithm a predicted token. A model whose logits
---hold a NaN, or nothing but -inf, is an error of code "corrupt".
---@param text string|integer[]
---@param opts table|nil  {context = 512 (at most the model's own), stride = context, limit = how many tokens
---  to predict at most, logprobs = true (the result's `logprobs` has the log probability of each predicted token)}
function Model:perplexity(text, opts)
  check_open(self, "perplexity")
  local o = util.options(opts, {context = 512, stride = false, limit = false, logprobs = false}, "perplexity")
  util.flag("perplexity: logprobs", o.logprobs)
  for name, low in pairs {context = 2, stride = 1, limit = 1} do
    o[name] = o[name] and util.integer("perplexity: " .. name, o[name], low)
  end
  local ids = self:prompt_ids(text, "perplexity")
  local context = math.min(o.context, self.info.context)
  local stride = util.integer("perplexity: stride", o.stride or context, 1, context)
  if #ids < 2 then util.raise("usage", "perplexity: expected at least 2 tokens, found %d", #ids) end
  local r = self:runtime()
  local slot = r:slot()
  local sum, count, held, from = 0.0, 0, 0, 1 -- windows so far held ids up to `held`
  local limit, logprobs, begun, computed = o.limit or math.huge, o.logprobs and {}, core.clock(), 0
  local ok, err = pcall(function()
    while held < #ids and count < limit do
      local to = math.min(from + context - 1, #ids)
      if to > from then
        local nll = r:score(slot, table.move(ids, from, to, 1, {}))
        computed = computed + #nll
        for i = math.max(1, held + 1 - from), #nll do -- nll[i] is of ids[from + i]
          if count < limit then
            sum, count = sum + nll[i], count + 1
            if logprobs then logprobs[count] = -nll[i] end
          end
        end
      end
      held, from = to, from + stride
    end
  end)
  slot:close()
  if not ok then error(err, 0) end
  self.metrics = metrics.of_texts(begun, computed, computed)
  return {nll = sum / count, perplexity = math.exp(sum / count), tokens = count, logprobs = logprobs or nil}
end

-- ---- identity ----

-- A configuration as JSON can say it: infinities and NaN, which Python writes, as text.
local function sayable(value)
  if type(value) == "number" and (value ~= value or math.abs(value) == math.huge) then return tostring(value) end
  if type(value) ~= "table" then return value end
  local copy
  for _, key in ipairs(util.sorted_keys(value)) do
    local said = sayable(value[key])
    if said ~= value[key] and not copy then
      copy = {}
      for k, v in pairs(value) do copy[k] = v end
    end
    if copy then copy[key] = said end
  end
  return copy or value
end

-- A digest of the configuration and of values out of every parameter.
local function digest_weights(self)
  local h = core.hash(ml.json.encode(sayable(self.raw)))
  local samples = {}
  self.net:each_parameter(function(_, _, w, path)
    h = core.hash(path .. table.concat(w.shape, ","), h)
    if w.ndim == 3 then w = w[1] end -- of several experts, the first
    samples[#samples + 1] = w.ndim == 2 and ml.embedding(w, ml.tensor {0, w.shape[1] // 2}) or w
  end)
  ml.eval(table.unpack(samples))
  for _, x in ipairs(samples) do h = core.hash(x:tobytes(), h) end
  return h
end

local function digest_tokenizer(t)
  local h = core.hash(t.vocab_size .. " " .. table.concat(t.eos_ids, ","))
  for id = 0, t.vocab_size - 1 do h = core.hash((t:piece(id) or "") .. "\0", h) end
  return core.hash(type(t.chat_template) == "string" and t.chat_template or "", h)
end

---A text that tells this model and tokenizer from others: saved sessions carry it. It comes from the configuration,
---from rows of every weight, and from all of the vocabulary, so that where the files lie does not matter.
function Model:fingerprint()
  local _ <close> = core.on(self.device)
  check_open(self, "fingerprint")
  if not self.identity then
    local weights = ml.scope(digest_weights, self)
    self.identity = ("%016x-%016x"):format(weights, self.tokenizer and digest_tokenizer(self.tokenizer) or 0)
  end
  return self.identity
end

-- ---- closing ----

-- Ends generations and sessions: what is on its way fails.
local function close_users(self)
  local users = {}
  for user in pairs(self.users) do users[#users + 1] = user end
  for _, user in ipairs(users) do
    local answer = user.answer or user -- a session's, or a generation
    if answer.abort then answer:abort "the model was closed while it generates" end
    user:close()
  end
end

---Frees everything, generations and sessions included; twice is harmless. What still generates, if it is asked for
---another token, or closed its model from a sampler, raises "usage" and has the finish_reason "error".
function Model:close()
  local net = self.net
  if not net then return end
  self.net = nil
  if self.token then core.unshare(self.token) end
  close_users(self)
  if self.shared then self.shared:close() end
  net:each_parameter(function(owner, key, tensor)
    if ml.is_tensor(tensor) then tensor:close() end
    owner[key] = nil
  end)
  if self.scope then util.close(self.scope) end
  if self.tokenizer then self.tokenizer:close() end
  self.users = {}
end
util.guard(Model, "model:", true)
Model.__close = Model.close
function Model:__tostring()
  local info = self.info
  if not self.net then return ("model %s (closed)"):format(info.family) end
  local parameters = ("%d"):format(info.parameters)
  if info.parameters >= 1e6 then parameters = ("%.0f M"):format(info.parameters / 1e6) end
  return ("model %s, %d layers, %s parameters, %s, context %d, on %s"):format(info.family, info.layers,
    parameters, info.quantization and info.quantization.format or info.dtype, info.context, self.device)
end
Model.__gc = Model.close

return M
