---generation_config.json as options of generate: what transformers would do with it.
local core = require "moonlet.core"
local util = require "moonlet.util"

local M = {}

local penalty = "repetition_penalty" -- which holds where nothing is drawn as well

-- Further keys that change which tokens come, with the values that change nothing; null never does.
local function never() return false end
local function only(neutral) return function(v) return v == neutral end end
local function none(v) return v == 0 or v == false end
local function empty(v) return type(v) == "table" and next(v) == nil end
local unable = {
  typical_p = only(1), epsilon_cutoff = none, eta_cutoff = none, top_h = never,
  encoder_repetition_penalty = only(1), no_repeat_ngram_size = none, num_beams = only(1), penalty_alpha = none,
  guidance_scale = only(1), min_length = none, min_new_tokens = none, bad_words_ids = empty, sequence_bias = empty,
  suppress_tokens = empty, begin_suppress_tokens = empty, forced_bos_token_id = never, forced_eos_token_id = never,
  exponential_decay_length_penalty = never, stop_strings = empty, watermarking_config = never, dola_layers = never,
}
local only_drawing = {typical_p = true, epsilon_cutoff = true, eta_cutoff = true, top_h = true}

local sampling = {[penalty] = true, do_sample = true, temperature = true, top_k = true, top_p = true, min_p = true}
for name in pairs(only_drawing) do sampling[name] = true end

local function is_between(low, high)
  return function(v) return type(v) == "number" and v >= low and v <= high and v < math.huge end
end
local values = {
  temperature = {"a number from 0", is_between(0, math.huge)},
  top_k = {"an integer from 0", function(v) return is_between(0, math.maxinteger)(v) and math.tointeger(v) end},
  top_p = {"a number from 0 to 1", is_between(0, 1)},
  min_p = {"a number from 0 to 1", is_between(0, 1)},
  [penalty] = {"a number above 0", function(v) return is_between(0, math.huge)(v) and v > 0 end},
  do_sample = {"true or false", function(v) return type(v) == "boolean" end},
}

-- The value of a key that can be used.
local function value_of(config, key)
  local value = config[key]
  if value ~= nil and values[key][2](value) then return value end
end

local function has(config, key) return config[key] ~= nil and config[key] ~= core.json.null end

---What of the file cannot be done, a text each.
---@param config table
---@param what string  the file
---@return string[]
function M.warnings(config, what)
  local list = {}
  for _, key in ipairs(util.sorted_keys(config)) do
    local value, expected, neutral = config[key], values[key], unable[key]
    if only_drawing[key] and config.do_sample ~= true or not has(config, key) then neutral = nil end
    if expected and has(config, key) and not expected[2](value) then
      list[#list + 1] = ("%s: %s: expected %s, found %s: it is not used"):format(what, key, expected[1],
        util.show(value))
    elseif neutral and not neutral(value) then
      list[#list + 1] = ("%s: %s is not supported: it is not used"):format(what, key)
    end
  end
  return list
end

-- The temperature that tokens are drawn with, as transformers has it: `do_sample: true` in the file, or a temperature
-- of the caller's, which asks for drawing where the file does not. Nil where the likeliest is taken.
local function heat_of(config, given, present)
  local heat = given.temperature
  if heat == nil and config.do_sample == true then heat = value_of(config, "temperature") or 1.0 end
  if not present or heat == 0 then return nil end
  return heat
end

---Options of generate: `given`, and what the file says where `given` has nothing. With `do_sample: true`, or a
---temperature in `given`, that is a temperature of 1 and top_k = 50 where the file is silent; else the likeliest token
---is taken, whatever else the file says of drawing, as in transformers. A repetition penalty holds either way, over all
---of the context. Beside a sampler of one's own the file says nothing; nor does one without any of these keys.
---@param config table
---@param given table
---@param context integer  ids that a penalty looks back on
---@return table options
---@return boolean present  whether the file says anything of how tokens are chosen
function M.options(config, given, context)
  local merged, present = {}, false
  for key in pairs(sampling) do present = present or has(config, key) end
  if given.sampler == nil then
    local heat = heat_of(config, given, present)
    if heat then
      merged.temperature, merged.top_k = heat, 50
      for _, name in ipairs {"top_k", "top_p", "min_p"} do merged[name] = value_of(config, name) or merged[name] end
    end
    merged.repeat_penalty = value_of(config, penalty)
    if merged.repeat_penalty and merged.repeat_penalty ~= 1 and given.repeat_penalty == nil
      and given.presence_penalty == nil and given.frequency_penalty == nil then
      merged.repeat_last_n = context
    end
  end
  for key, value in pairs(given) do merged[key] = value end
  return merged, present
end

return M
