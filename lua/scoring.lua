---How likely each token of a whole sequence was.
local core = require "moonlet.core"
local ml = require "moonlet.init"
local decode = require "moonlet.decode"
local plans = require "moonlet.plans"
local prefill = require "moonlet.prefill"

local M = {}

local SCORE_BYTES = 64 << 20 -- of the logits that exist at once

-- Like a prefill's plan, with the negative log likelihood (T) of a target a position.
local function score_plan(runtime, T)
  if runtime.scorers[T] then return runtime.scorers[T] end
  local entry
  plans.record(function()
    entry = prefill.state(T)
    entry.targets, entry.nll = plans.int_state(T, 0), core.make_state(ml.zeros {T})
    local logits = decode.shares(prefill.logits(runtime, entry, T):astype "float32")
    local own = ml.take_along_axis(logits, entry.targets:reshape {T, 1}, -1):reshape {T}
    ml.assign(entry.nll, logits:logsumexp(-1) - own)
    entry.plan = core.plan({}, {})
    return entry
  end)
  runtime.scorers[T] = entry
  return entry
end

---Natural logarithms: minus the log probability of ids[2], ids[3] ... given all before. The logits of a few rows exist
---at a time.
---@param runtime moonlet.Runtime
---@param slot moonlet.Slot
---@param ids integer[]
---@return number[]
function M.nll(runtime, slot, ids)
  local least = prefill.CHUNKS[1]
  runtime:check_prompt(ids)
  slot:trim(0)
  local most = math.max(least, SCORE_BYTES // (4 * runtime.model.info.vocab_size))
  local at, total, nll = 0, #ids - 1, {}
  while at < total do
    local T = prefill.chunk_for(total - at, runtime.model.device)
    while T > most and T > least do T = T // 2 end
    local count = math.min(T, total - at)
    local entry, targets = score_plan(runtime, T), {}
    slot:reserve(at + count)
    prefill.fill(entry, slot, ids, at, count, T)
    for i = 1, T do targets[i] = i <= count and ids[at + i + 1] or 0 end
    core.state_write(entry.targets, targets)
    entry.plan:run()
    table.move(ids, at + 1, at + count, at + 1, slot.ids)
    table.move(entry.nll:tolist(), 1, count, at + 1, nll)
    for i = at + 1, at + count do
      if nll[i] ~= nll[i] then
        runtime:corrupt("the model gives no probabilities: its logits hold a NaN, or nothing but -inf, behind %d "
          .. "token%s", i, i == 1 and "" or "s")
      end
    end
    at = at + count
  end
  return nll
end

return M
