---Qwen 3: Llama with RMSNorm on the heads of queries and keys, before RoPE.
---Source: Yang et al. 2025.
local nn, fn = require "moonlet.nn", require "moonlet.fn"

local Attention = nn.class "Attention"
function Attention:init(c)
  local d, hd = c.hidden_size, c.head_dim
  self.heads, self.kv_heads, self.scale = c.num_attention_heads, c.num_key_value_heads, hd ^ -0.5
  self.q_proj = nn.Linear(d, self.heads * hd, {bias = c.attention_bias})
  self.k_proj = nn.Linear(d, self.kv_heads * hd, {bias = c.attention_bias})
  self.v_proj = nn.Linear(d, self.kv_heads * hd, {bias = c.attention_bias})
  self.o_proj = nn.Linear(self.heads * hd, d, {bias = c.attention_bias})
  self.q_norm = nn.RMSNorm(hd, {eps = c.rms_norm_eps})
  self.k_norm = nn.RMSNorm(hd, {eps = c.rms_norm_eps})
  self.rope = nn.RoPE(hd, {theta = c.rope_theta, scaling = c.rope_scaling})
end
function Attention:forward(x, cache, window) -- (B, T, D)
  local q = self.q_norm(self.q_proj(x):split_heads(self.heads)) -- (B, H, T, hd)
  local k = self.k_norm(self.k_proj(x):split_heads(self.kv_heads))
  local v = self.v_proj(x):split_heads(self.kv_heads)
  q, k = self.rope(q, cache), self.rope(k, cache)
  return self.o_proj(fn.attention(q, k, v, {scale = self.scale, window = window, cache = cache}):merge_heads())
end

local MLP = nn.class "MLP"
function MLP:init(c)
  self.gate_proj = nn.Linear(c.hidden_size, c.intermediate_size)
  self.up_proj = nn.Linear(c.hidden_size, c.intermediate_size)
  self.down_proj = nn.Linear(c.intermediate_size, c.hidden_size)
  self.act = fn.activation(c.hidden_act, "hidden_act")
end
function MLP:forward(x) return self.down_proj(self.act(self.gate_proj(x)) * self.up_proj(x)) end

local Block = nn.class "Block"
function Block:init(c, layer_type)
  self.self_attn = Attention(c)
  self.mlp = MLP(c)
  self.input_layernorm = nn.RMSNorm(c.hidden_size, {eps = c.rms_norm_eps})
  self.post_attention_layernorm = nn.RMSNorm(c.hidden_size, {eps = c.rms_norm_eps})
  self.window = layer_type == "sliding_attention" and c.sliding_window or nil
end
function Block:forward(x, cache)
  x = x + self.self_attn(self.input_layernorm(x), cache, self.window)
  return x + self.mlp(self.post_attention_layernorm(x))
end

local Decoder = nn.class "Decoder"
function Decoder:init(c)
  self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
  self.layers = {}
  for i = 1, c.num_hidden_layers do self.layers[i] = Block(c, c.layer_types[i]) end
  self.norm = nn.RMSNorm(c.hidden_size, {eps = c.rms_norm_eps})
end
function Decoder:forward(tokens, caches)
  local x = self.embed_tokens(tokens)
  for i, layer in ipairs(self.layers) do x = layer(x, caches and caches[i]) end
  return self.norm(x)
end

local Qwen3 = nn.model "qwen3"
Qwen3.config = {
  num_key_value_heads = function(c) return c.num_attention_heads end,
  head_dim = 128,
  max_position_embeddings = 32768,
  rms_norm_eps = 1e-6,
  rope_theta = 10000.0,
  attention_bias = false,
  hidden_act = "silu",
  tie_word_embeddings = false,
  use_sliding_window = false,
  max_window_layers = 28,
  -- the window holds for layers from max_window_layers on, and only where it is switched on
  layer_types = function(c)
    local types = {}
    for i = 1, c.num_hidden_layers do
      local sliding = c.use_sliding_window and c.sliding_window and i > c.max_window_layers
      types[i] = sliding and "sliding_attention" or "full_attention"
    end
    return types
  end,
}
Qwen3.lora = {"q_proj", "v_proj"}
Qwen3.gguf = {
  architectures = {"qwen3"},
  config = {},
  names = {attn_q_norm = "self_attn.q_norm", attn_k_norm = "self_attn.k_norm"},
}
function Qwen3:init(c)
  self.model = Decoder(c)
  if not c.tie_word_embeddings then self.lm_head = nn.Linear(c.hidden_size, c.vocab_size) end
end
function Qwen3:forward(tokens, caches) -- (B, T) ids -> (B, T, V) logits
  local x = self.model(tokens, caches)
  return self.lm_head and self.lm_head(x) or self.model.embed_tokens:as_linear(x)
end
return Qwen3
