---Sampling: from logits (B, V) to ids (B).
---
---A step is a function of (logits, state) that gives new logits. Steps made of tensor operations become part of the decode plan. `state` has
---`recent` (B, n) int32: the last ids, the prompt's too, -1 where there are none yet.
local ml = require "moonlet.init"
local util = require "moonlet.util"

local M = {}

function M.temperature(t) return function(logits) return logits * (1.0 / t) end end
---Keeps the k likeliest.
function M.top_k(k) return function(logits) return ml.top_k_mask(logits, k) end end
---Keeps the likeliest entries whose exclusive cumulative probability is at most p: at least one.
function M.top_p(p) return function(logits) return ml.top_p_mask(logits, p) end end
---Keeps entries at least p times as likely as the likeliest.
function M.min_p(p) return function(logits) return ml.min_p_mask(logits, p) end end

---Ids among the last n: positive logits divided by, negative ones multiplied by the penalty.
function M.repeat_penalty(penalty, n)
  return setmetatable({last_n = n or 64}, {__call = function(_, logits, state)
    return ml.repeat_penalty(logits, state.recent, {penalty = penalty})
  end})
end

---Ids among the last n lose `presence` once and `frequency` for each time that they occur.
function M.presence(presence, frequency, n)
  return setmetatable({last_n = n or 64}, {__call = function(_, logits, state)
    return ml.repeat_penalty(logits, state.recent, {presence = presence or 0, frequency = frequency or 0})
  end})
end

---Adds to the logits of single ids: {[id] = bias}.
function M.logit_bias(bias)
  local tensor
  return function(logits)
    if not tensor then
      local values = {}
      for i = 1, logits.shape[2] do values[i] = bias[i - 1] or 0.0 end
      tensor = ml.tensor(values, {dtype = "float32"})
    end
    return logits + tensor
  end
end

---With the given probability, drops all but the least likely of the entries above the threshold.
function M.xtc(probability, threshold)
  return function(logits, state)
    local p = logits:softmax()
    local above = p:gt(threshold)
    local least = ml.where(above, p, 2.0):min(-1, true)
    local drop = ml.logical_and(above, p:gt(least))
    local on = state.uniform():lt(probability):reshape {logits.shape[1], 1}
    return ml.where(ml.logical_and(drop, on), -math.huge, logits)
  end
end

---Steps in the order written. What remains is drawn at random, or, for a chain without a temperature, the likeliest is taken.
function M.chain(steps)
  local last_n = 1
  for i, step in ipairs(steps) do
    if type(step) ~= "function" and not (getmetatable(step) or {}).__call then util.raise("usage", "chain: step %d is a %s, not a function", i, type(step)) end
    if type(step) == "table" then last_n = math.max(last_n, step.last_n or 1) end
  end
  return setmetatable({steps = steps, last_n = last_n, greedy = steps.greedy or false}, {__call = function(_, logits, state)
    for _, step in ipairs(steps) do logits = step(logits, state) end
    return logits
  end})
end

---The chain that options mean: penalties, then top-p, min-p, xtc, top-k, temperature (the order of mlx-lm).
function M.from_options(o)
  local steps = {greedy = (o.temperature or 0) == 0}
  if o.logit_bias and next(o.logit_bias) then steps[#steps + 1] = M.logit_bias(o.logit_bias) end
  if o.repeat_penalty and o.repeat_penalty ~= 1 then steps[#steps + 1] = M.repeat_penalty(o.repeat_penalty, o.repeat_last_n) end
  if (o.presence_penalty or 0) ~= 0 or (o.frequency_penalty or 0) ~= 0 then
    steps[#steps + 1] = M.presence(o.presence_penalty, o.frequency_penalty, o.repeat_last_n)
  end
  if steps.greedy then return M.chain(steps) end
  if o.top_p and o.top_p > 0 and o.top_p < 1 then steps[#steps + 1] = M.top_p(o.top_p) end
  if o.min_p and o.min_p > 0 then steps[#steps + 1] = M.min_p(o.min_p) end
  if o.xtc_probability and o.xtc_probability > 0 then steps[#steps + 1] = M.xtc(o.xtc_probability, o.xtc_threshold or 0.1) end
  if o.top_k and o.top_k > 0 then steps[#steps + 1] = M.top_k(o.top_k) end
  if o.temperature ~= 1 then steps[#steps + 1] = M.temperature(o.temperature) end
  return M.chain(steps)
end

return util.guard(M, "sample.")
