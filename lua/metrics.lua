---Figures of calls that compute whole texts and make no tokens.
local core = require "moonlet.core"

local M = {}

---@param begun number  when, on core.clock
---@param asked integer  how many tokens were asked for
---@param computed integer  how many of them were computed, where some stand for several
function M.of_texts(begun, asked, computed)
  local seconds = core.clock() - begun
  return {
    prompt_tokens = asked, cached_tokens = asked - computed, generated_tokens = 0,
    prefill_seconds = seconds, decode_seconds = 0.0, total_seconds = seconds,
    prefill_tokens_per_second = seconds > 0 and computed / seconds or 0.0, decode_tokens_per_second = 0.0,
    peak_bytes = core.memory.peak(), active_bytes = core.memory.active(),
  }
end

return M
