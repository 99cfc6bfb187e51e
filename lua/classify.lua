---Classifying texts and scoring continuations: many sequences in one forward (packed.lua).
local ml = require "moonlet.init"
local core = require "moonlet.core"
local metrics = require "moonlet.metrics"
local packed = require "moonlet.packed"
local pages = require "moonlet.pages"
local util = require "moonlet.util"

local M = {}

local known = {
  labels = false, template = false, batch_size = false, logits = false, truncate = false, progress = false,
}

-- ---- what is asked ----

local function options_of(opts)
  local o = util.options(opts, known, "classify")
  if o.labels ~= nil then
    util.list("classify: labels", o.labels, "a list of texts")
    if #o.labels == 0 then util.raise("usage", "classify: labels: expected at least one") end
    for i, label in ipairs(o.labels) do
      if type(label) ~= "string" or label == "" then
        util.unexpected(("classify: labels: entry %d"):format(i), "a text", label)
      end
    end
  end
  if o.template ~= nil and type(o.template) == "string" and not o.template:find("{text}", 1, true) then
    util.unexpected("classify: template", "a text with {text} in it, or a function", o.template)
  elseif o.template ~= nil and type(o.template) ~= "string" then
    util.callable("classify: template", o.template, "a text with {text} in it, or a function")
  end
  if o.batch_size ~= nil then o.batch_size = util.integer("classify: batch_size", o.batch_size, 1) end
  if o.progress ~= nil then util.callable("classify: progress", o.progress, "a function") end
  util.flag("classify: logits", o.logits or false)
  util.flag("classify: truncate", o.truncate or false)
  return o
end

local function prompt_of(model, text, o, what)
  local template = o.template
  if type(template) == "string" then
    if type(text) ~= "string" then util.unexpected(what, "a text for the template", text) end
    local before, behind = template:match "^(.-){text}(.*)$"
    text = before .. text .. behind
  elseif template ~= nil then
    text = template(text)
  end
  if type(text) == "table" and (type(text[1]) == "table" or text.role ~= nil) then return model:chat_ids(text, {}) end
  return model:prompt_ids(text, what)
end

-- Ids of each text, with room behind for the longest label.
local function ids_of(model, texts, o, room, call)
  local lists = {}
  for i, text in ipairs(util.list(call .. ": texts", texts, "a list")) do
    local what = ("%s: text %d"):format(call, i)
    local ids = prompt_of(model, text, o, what)
    local most = model.info.context - room
    if #ids == 0 then util.raise("usage", "%s: it has no tokens, and the tokenizer adds none", what) end
    if #ids > most and o.truncate then ids = table.move(ids, #ids - most + 1, #ids, 1, {})
    elseif #ids > most then
      util.raise("limit", "%s has %d tokens, %d are allowed: `truncate = true` cuts its beginning", what, #ids, most)
    end
    lists[i] = ids
  end
  return lists
end

-- The tokens of each label, as they follow a text.
local function label_ids(model, labels)
  local lists, longest = {}, 0
  for i, label in ipairs(labels or {}) do
    if not model.tokenizer then
      util.raise("not_found", "classify: labels: the model has no tokenizer (%s)", model.info.path)
    end
    lists[i] = model.tokenizer:encode(label, {add_special_tokens = false, parse_special = false})
    if #lists[i] == 0 then util.raise("usage", "classify: labels: entry %d has no tokens", i) end
    longest = math.max(longest, #lists[i])
  end
  return lists, longest
end

-- ---- running ----

-- How many whole pages of tokens all lists begin with, in tokens; 0 where it is not worth a slot.
local function shared_prefix(lists)
  if #lists < 2 then return 0 end
  local n = #lists[1] - 1
  for i = 2, #lists do
    local list, k = lists[i], 0
    while k < n and k < #list - 1 and list[k + 1] == lists[1][k + 1] do k = k + 1 end
    n = k
  end
  return n // pages.PAGE * pages.PAGE
end

-- Puts all of a list but the last `behind` ids into a slot.
local function prefill(runtime, slot, ids, behind)
  local head = table.move(ids, 1, #ids - behind, 1, {})
  runtime:with_lane(1, nil, function(lane) lane:prefill(slot, head) end)
  return slot
end

-- Slots that are all given back when the caller is through.
local function borrowed()
  return setmetatable({}, {__close = function(slots)
    for _, s in ipairs(slots) do s:close() end
  end})
end

-- Places of lists of ids, the shortest first, and how many ids they have together.
local function by_length(lists)
  local order, ids = {}, 0
  for i, list in ipairs(lists) do order[i], ids = i, ids + #list end
  table.sort(order, function(a, b) return #lists[a] < #lists[b] or #lists[a] == #lists[b] and a < b end)
  return order, ids
end

-- Calls fn(rows) with rows that fit one forward, the shortest first, until all lists are through; `tail` is how many of
-- the last ids of each are looked at. What all of them begin with is computed once; what one forward does not hold is
-- computed before, in a slot.
local function each_forward(model, lists, o, tail, fn)
  local runtime, most, begun = model:runtime(), packed.SIZES[#packed.SIZES], core.clock()
  local order, asked = by_length(lists)
  local records = runtime:has_records()
  local prefix, kept <close> = records and 0 or shared_prefix(lists), borrowed()
  if prefix > 0 then kept[1] = prefill(runtime, runtime:slot(), table.move(lists[1], 1, prefix, 1, {}), 0) end
  local rows = {}
  for i, index in ipairs(order) do
    local list = lists[index]
    rows[i] = {ids = table.move(list, prefix + 1, #list, 1, {}), index = index}
  end
  local at = 1
  while at <= #rows do
    local n, slots <close> = packed.fitting(rows, at, o.batch_size), borrowed()
    local some = table.move(rows, at, at + n - 1, 1, {})
    for i, row in ipairs(some) do
      if kept[1] then slots[i] = kept[1]:fork() end
      if #row.ids > most then
        slots[i] = prefill(runtime, slots[i] or runtime:slot(), lists[row.index], tail)
        row.ids = table.move(row.ids, #row.ids - tail + 1, #row.ids, 1, {})
      end
      row.slot = slots[i]
    end
    fn(some)
    at = at + n
    if o.progress then o.progress(at - 1, #rows) end
  end
  model.metrics = metrics.of_texts(begun, asked, asked - prefix * math.max(0, #lists - 1))
end

local function softmax(values)
  local most, sum, out = -math.huge, 0, {}
  for _, v in ipairs(values) do most = math.max(most, v) end
  for i, v in ipairs(values) do
    out[i] = most > -math.huge and math.exp(v - most) or 1
    sum = sum + out[i]
  end
  for i = 1, #out do out[i] = out[i] / sum end
  return out
end

-- The likeliest of values, its position, and the probability that it has among them.
local function best_of(values)
  local p, best = softmax(values), 1
  for i = 2, #values do
    if values[i] > values[best] then best = i end
  end
  return best, p[best]
end

local function check_numbers(model, values, index)
  for _, v in ipairs(values) do
    if v ~= v then model:runtime():corrupt("classify: text %d: the model gives no logits: they hold a NaN", index) end
  end
end

-- Labels of one token each: by the logits behind the texts.
local function by_logits(model, lists, labels, o, give)
  local first = {}
  for i, ids in ipairs(labels) do first[i] = ids[1] end
  each_forward(model, lists, o, 1, function(rows)
    local values = ml.scope(function()
      return packed.last(model:runtime(), rows):take(ml.tensor(first, {dtype = "int32"}), 2):tolist()
    end)
    for i, row in ipairs(rows) do give(row.index, values[i]) end
  end)
end

-- Labels of several tokens: each text once with each of them.
local function by_continuations(model, lists, labels, longest, o, give)
  local all, sums, left = {}, {}, {}
  for i, list in ipairs(lists) do
    sums[i], left[i] = {}, #labels
    for _, ids in ipairs(labels) do
      all[#all + 1] = table.move(ids, 1, #ids - 1, #list + 1, table.move(list, 1, #list, 1, {}))
    end
  end
  each_forward(model, all, o, longest, function(rows)
    for _, row in ipairs(rows) do row.targets = labels[(row.index - 1) % #labels + 1] end
    local log_p = packed.targets(model:runtime(), rows)
    for i, row in ipairs(rows) do
      local text, label, sum = (row.index - 1) // #labels + 1, (row.index - 1) % #labels + 1, 0.0
      for _, v in ipairs(log_p[i]) do sum = sum + v end
      sums[text][label], left[text] = sum, left[text] - 1
      if left[text] == 0 then give(text, sums[text]) end
    end
  end)
end

local function next_tokens(model, lists, o, results)
  each_forward(model, lists, o, 1, function(rows)
    local ids, most, total = ml.scope(function()
      local logits = packed.last(model:runtime(), rows)
      return logits:argmax(-1):tolist(), logits:max(-1):tolist(), logits:logsumexp(-1):tolist()
    end)
    for i, row in ipairs(rows) do
      check_numbers(model, {most[i]}, row.index)
      results[row.index] = {
        id = ids[i], label = model.tokenizer and model.tokenizer:decode {ids[i]}, index = ids[i] + 1,
        probability = math.exp(most[i] - total[i]),
      }
    end
  end)
end

---See moonlet.Model:classify.
function M.classify(model, texts, opts)
  local o, results = options_of(opts), {}
  local labels, longest = label_ids(model, o.labels)
  local lists = ids_of(model, texts, o, math.max(0, longest - 1), "classify")
  local _ <close> = core.on(model.device)
  local function give(index, values)
    check_numbers(model, values, index)
    local best, probability = best_of(values)
    results[index] = {
      label = o.labels[best], index = best, probability = probability, logits = o.logits and values or nil,
    }
  end
  if not o.labels then next_tokens(model, lists, o, results)
  elseif longest == 1 then by_logits(model, lists, labels, o, give)
  else by_continuations(model, lists, labels, longest, o, give) end
  return results
end

---See moonlet.Model:embed.
function M.embed(model, texts, opts)
  local o = util.options(opts, {pooling = "mean", normalize = false, batch_size = false, truncate = false}, "embed")
  local poolings = {mean = true, last = true, cls = true}
  if not poolings[o.pooling] then util.unexpected("embed: pooling", '"mean", "last" or "cls"', o.pooling) end
  util.flag("embed: normalize", o.normalize)
  local _ <close> = core.on(model.device)
  local lists, parts, places = ids_of(model, texts, {truncate = o.truncate}, 0, "embed"), {}, {}
  local begun, order, asked = core.clock(), by_length(lists)
  local rows, at = {}, 1
  for i, index in ipairs(order) do rows[i] = {ids = lists[index], index = index} end
  return ml.scope(function()
    while at <= #rows do
      local n = packed.fitting(rows, at, o.batch_size or nil)
      local some = table.move(rows, at, at + n - 1, 1, {})
      local vectors = packed.embed(model:runtime(), some, o.pooling):slice({{1, n}, {}}):copy()
      ml.eval(vectors)
      parts[#parts + 1] = vectors
      for i, row in ipairs(some) do places[row.index] = at + i - 2 end
      at = at + n
    end
    if #parts == 0 then return ml.zeros {0, model.info.hidden_size} end
    local x = ml.take(ml.concat(parts, 1), ml.tensor(places, {dtype = "int32"}), 1)
    if o.normalize then x = x / ml.maximum(x:square():sum(-1, true):sqrt(), 1e-12) end
    ml.eval(x)
    for i, holds_nan in ipairs(x:isnan():any(-1):tolist()) do
      if holds_nan then model:runtime():corrupt("embed: text %d: the model gives no vector: it holds a NaN", i) end
    end
    model.metrics = metrics.of_texts(begun, asked, asked)
    return x
  end)
end

---See moonlet.Model:score.
function M.score(model, prefix, continuations)
  local _ <close> = core.on(model.device)
  local ids, lists, longest, results = prompt_of(model, prefix, {}, "score: prefix"), {}, 1, {}
  if #ids == 0 then util.raise("usage", "score: prefix: expected at least one token") end
  for i, c in ipairs(util.list("score: continuations", continuations, "a list")) do
    local what = ("score: continuation %d"):format(i)
    if type(c) == "string" and model.tokenizer then
      c = model.tokenizer:encode(c, {add_special_tokens = false, parse_special = false})
    else
      c = model:prompt_ids(c, what)
    end
    if #c == 0 then util.raise("usage", "%s: it has no tokens", what) end
    local most = packed.SIZES[#packed.SIZES]
    if #c > most then util.raise("limit", "%s has %d tokens, %d are allowed", what, #c, most) end
    if #ids + #c > model.info.context + 1 then
      util.raise("limit", "%s: with the prefix it has %d tokens, the context holds %d", what, #ids + #c,
        model.info.context)
    end
    lists[i], longest = c, math.max(longest, #c)
  end
  local whole = {}
  for i, c in ipairs(lists) do
    whole[i] = table.move(c, 1, #c - 1, #ids + 1, table.move(ids, 1, #ids, 1, {}))
  end
  each_forward(model, whole, {}, longest, function(rows)
    for _, row in ipairs(rows) do row.targets = lists[row.index] end
    local log_p, chosen = packed.targets(model:runtime(), rows)
    for i, row in ipairs(rows) do
      local sum, greedy = 0.0, true
      for k, v in ipairs(log_p[i]) do
        sum, greedy = sum + v, greedy and chosen[i][k] == row.targets[k]
      end
      if sum ~= sum then
        model:runtime():corrupt("score: continuation %d: the model gives no probabilities: its logits hold a NaN, or "
          .. "nothing but -inf", row.index)
      end
      results[row.index] = {logprob = sum, tokens = #row.targets, greedy = greedy}
    end
  end)
  return results
end

return M
