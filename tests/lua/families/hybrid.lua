---A tiny family of the tests: gated short convolutions beside attention over all and over a window.
local ml = require "moonlet"
local nn, fn = require "moonlet.nn", require "moonlet.fn"

local Convolution = nn.class "Convolution"
function Convolution:init(c)
  self.reach = c.conv_kernel
  self.in_proj = nn.Linear(c.hidden_size, 3 * c.hidden_size)
  self.taps = nn.parameter({c.conv_kernel * c.hidden_size}, "vector") -- of each distance, for each channel
  self.out_proj = nn.Linear(c.hidden_size, c.hidden_size)
end
function Convolution:forward(x, cache) -- (B, T, D)
  local gate_in, gate_out, inner = table.unpack(self.in_proj(x):split(3, -1))
  inner = gate_in * inner
  local taps = self.taps:reshape {self.reach, x.shape[3]}
  local sum = inner * taps[1]
  for j, earlier in ipairs(fn.before(inner, self.reach - 1, {cache = cache})) do sum = sum + earlier * taps[j + 1] end
  return self.out_proj(gate_out * sum)
end

local Attention = nn.class "Attention"
function Attention:init(c, window)
  local d, hd = c.hidden_size, c.head_dim
  self.heads, self.kv_heads, self.window = c.num_attention_heads, c.num_key_value_heads, window
  self.q_proj = nn.Linear(d, self.heads * hd)
  self.k_proj = nn.Linear(d, self.kv_heads * hd)
  self.v_proj = nn.Linear(d, self.kv_heads * hd)
  self.o_proj = nn.Linear(self.heads * hd, d)
  self.rope = nn.RoPE(hd, {theta = 10000.0})
end
function Attention:forward(x, cache)
  local q, k = self.q_proj(x):split_heads(self.heads), self.k_proj(x):split_heads(self.kv_heads)
  local v = self.v_proj(x):split_heads(self.kv_heads)
  q, k = self.rope(q, cache), self.rope(k, cache)
  return self.o_proj(fn.attention(q, k, v, {window = self.window, cache = cache}):merge_heads())
end

local Hybrid = nn.model "hybrid"
Hybrid.config = {conv_kernel = 3, sliding_window = 0, num_key_value_heads = 1}
function Hybrid:init(c)
  self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
  self.layers, self.norms = {}, {}
  for i = 1, c.num_hidden_layers do
    self.layers[i] = i % 3 == 1 and Convolution(c) or Attention(c, i % 3 == 0 and c.sliding_window or nil)
    self.norms[i] = nn.RMSNorm(c.hidden_size)
  end
  self.norm = nn.RMSNorm(c.hidden_size)
end
function Hybrid:forward(tokens, caches)
  local x = self.embed_tokens(tokens)
  for i, layer in ipairs(self.layers) do x = x + layer(self.norms[i](x), caches and caches[i]) end
  return ml.linear(self.norm(x), self.embed_tokens.weight)
end
return Hybrid
