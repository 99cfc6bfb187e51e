---Functional helpers for model files.
local ml = require "moonlet.init"
local caches = require "moonlet.cache"
local util = require "moonlet.util"

local M = {}

local function check_heads(name, x)
  if ml.is_tensor(x) and x.ndim == 4 then return end
  util.unexpected("attention: " .. name, "a tensor (B, heads, T, d)", x)
end

---softmax(q k' scale) v by heads. q (B, H, T, d); k, v (B, KV heads, T, d).
---With `cache`, k and v are appended to it first and q attends to all that it holds; `window` counts the token itself.
---A row does not see what is hidden from it (by causality, window, false or -inf in `mask`), were it infinite or NaN.
---Causal attention without a cache is an error while a model generates: it would forget what came before.
---@param opts table  {scale, mask, causal = true, window, cache, softcap, sinks}
function M.attention(q, k, v, opts)
  opts = util.options(opts, {
    scale = false, mask = false, causal = true, window = 0, cache = false, softcap = 0, sinks = false,
  }, "attention")
  util.integer("attention: window", opts.window or 0, 0)
  check_heads("q", q)
  check_heads("k", k)
  check_heads("v", v)
  local cache = opts.cache or {}
  if opts.cache then k, v = cache:append(k, v, opts.window)
  elseif opts.causal then caches.missing "attention" end
  return ml.attention(q, k, v, {
    pages = cache.pages, slots = cache.slots, start = cache.start, count = cache.count, offsets = cache.offsets,
    mask = opts.mask, sinks = opts.sinks, scale = opts.scale or q.shape[4] ^ -0.5, causal = opts.causal,
    window = opts.window or 0, softcap = opts.softcap or 0,
  })
end

---What came 1, 2 ... n tokens before each: a list of n tensors like x (B, T, D), zeros before a sequence begins. With
---`cache` the layer keeps the last n of each sequence for the tokens to come.
---@param x moonlet.Tensor
---@param n integer
---@param opts table|nil  {cache}
---@return moonlet.Tensor[]
function M.before(x, n, opts)
  opts = util.options(opts, {cache = false}, "before")
  if not ml.is_tensor(x) or x.ndim ~= 3 then util.unexpected("before: x", "a tensor (B, T, D)", x) end
  n = util.integer("before: n", n, 0)
  if opts.cache then return opts.cache:before(x, n) end
  caches.missing "before"
  local B, T, D = table.unpack(x.shape)
  return caches.earlier(ml.concat({ml.zeros({B, n, D}, {dtype = x.dtype}), x}, 2), n, T)
end

---x / sqrt(mean(x^2) + eps) times (offset + weight), along the last axis.
---@param opts table|nil  {eps = 1e-5, offset = 0}
function M.rms_norm(x, weight, opts)
  opts = util.options(opts, {eps = 1e-5, offset = 0}, "rms_norm")
  return ml.rms_norm(x, weight, opts.eps, opts.offset)
end
---(x - mean) / sqrt(variance + eps) times weight plus bias, along the last axis.
---@param opts table|nil  {eps = 1e-5}
function M.layer_norm(x, weight, bias, opts)
  return ml.layer_norm(x, weight, bias, util.options(opts, {eps = 1e-5}, "layer_norm"))
end

for _, name in ipairs {"rope", "softmax", "log_softmax", "silu", "gelu", "gelu_tanh", "relu"} do M[name] = ml[name] end

local activations = {
  silu = ml.silu, swish = ml.silu, gelu = ml.gelu, gelu_pytorch_tanh = ml.gelu_tanh, gelu_new = ml.gelu_tanh,
  gelu_tanh = ml.gelu_tanh, relu = ml.relu,
}
---The activation that a configuration names.
---@param name string
---@param key string|nil  the configuration's key, for messages
function M.activation(name, key)
  return activations[name]
    or util.unexpected(key or "activation", table.concat(util.sorted_keys(activations), ", "), name, "unsupported")
end

-- The float dtype of a loss of tensors, and the one that it is computed in: float32 for narrow ones, float64 for
-- integers, whose differences need not fit their own.
local function loss_dtypes(what, x, y)
  if not ml.is_tensor(x) and not ml.is_tensor(y) then util.unexpected(what, "a tensor", x) end
  local dtype, wide = util.common_dtype(what, x, y)
  if dtype:find "float" then return dtype, wide end
  return "float32", "float64"
end

-- How much each position counts, in the shape of what is counted.
local function weights_of(mask, shape, dtype)
  if not ml.is_tensor(mask) then util.unexpected("cross_entropy: mask", "a tensor", mask) end
  return mask:astype(dtype):broadcast_to(shape)
end

---Mean negative log likelihood of 0-based targets (...); logits (..., V). mask: 1 where a position counts; where it is
---0, logits and target may be anything. Computed in float32 or float64 and given in the dtype of the logits.
---@param opts table|nil  {mask, reduction = "mean", label_smoothing = 0}
function M.cross_entropy(logits, targets, opts)
  opts = util.options(opts, {mask = false, reduction = "mean", label_smoothing = 0}, "cross_entropy")
  local reductions = {none = true, sum = true, mean = true}
  if not reductions[opts.reduction] then
    util.unexpected("cross_entropy: reduction", '"mean", "sum" or "none"', opts.reduction)
  end
  util.number("cross_entropy: label_smoothing", opts.label_smoothing, 0, 1)
  if not ml.is_tensor(targets) then util.unexpected("cross_entropy: targets", "a tensor", targets) end
  local dtype, wide = loss_dtypes("cross_entropy: logits", logits)
  local weights = opts.mask and weights_of(opts.mask, targets.shape, wide)
  if weights then targets = ml.where(weights:ne(0), targets, 0) end
  local log_p = util.in_dtype(logits, wide):log_softmax()
  local loss = -log_p:take_along_axis(targets:expand_dims(-1), -1):squeeze(-1)
  if opts.label_smoothing > 0 then
    loss = loss * (1 - opts.label_smoothing) - log_p:mean(-1) * opts.label_smoothing
  end
  if weights then loss = ml.where(weights:ne(0), loss * weights, 0) end
  if opts.reduction == "sum" then loss = loss:sum()
  elseif opts.reduction == "mean" then loss = weights and loss:sum() / ml.maximum(weights:sum(), 1) or loss:mean() end
  return util.in_dtype(loss, dtype)
end

---Mean of squared differences, computed in float32 or float64; of integers float32.
function M.mse(x, y)
  local dtype, wide = loss_dtypes("mse: x", x, y)
  if ml.is_tensor(x) and ml.is_tensor(y) and x.dtype == "int64" and y.dtype == "int64" then
    local far = util.in_dtype(x, wide) - util.in_dtype(y, wide) -- near ones differ by what float64 does not hold
    local d = ml.where(far:abs():lt(2.0 ^ 62), (x - y):astype(wide), far)
    return util.in_dtype(d:square():mean(), dtype)
  end
  return util.in_dtype((util.in_dtype(x, wide) - util.in_dtype(y, wide)):square():mean(), dtype)
end

---sum(p (log p - log q)) over the last axis, mean over the rest; arguments are log probabilities. What has probability
---0 in p adds nothing. Computed in float32 or float64.
function M.kl_div(log_q, log_p)
  local dtype, wide = loss_dtypes("kl_div: log_q", log_q, log_p)
  log_q, log_p = util.in_dtype(log_q, wide), util.in_dtype(log_p, wide)
  local each = ml.where(log_p:eq(-math.huge), 0, log_p:exp() * (log_p - log_q))
  return util.in_dtype(each:sum(-1):mean(), dtype)
end

---Each entry zero with probability p, the others divided by 1 - p.
function M.dropout(x, p)
  util.number("dropout: p", p, 0, 1)
  local keep = require("moonlet.random").bernoulli(1 - p, x.shape)
  return ml.where(keep, x * (1 / (1 - p)), 0.0)
end

return util.guard(M, "fn.", true, true)
