---Gemma 3 (text): four norms a block of weight 1 + w, norms on the heads of queries and keys, local layers with a
---sliding window and a rope base of their own, GELU-gated MLP, embeddings scaled by sqrt(hidden size).
---Source: Gemma Team 2025.
local nn, fn = require "moonlet.nn", require "moonlet.fn"

local function norm(size, c) return nn.RMSNorm(size, {eps = c.rms_norm_eps, offset = 1}) end

local Attention = nn.class "Attention"
function Attention:init(c, sliding)
  local d, hd = c.hidden_size, c.head_dim
  self.heads, self.kv_heads, self.scale = c.num_attention_heads, c.num_key_value_heads, c.query_pre_attn_scalar ^ -0.5
  self.window = sliding and c.sliding_window or nil
  self.q_proj = nn.Linear(d, self.heads * hd, {bias = c.attention_bias})
  self.k_proj = nn.Linear(d, self.kv_heads * hd, {bias = c.attention_bias})
  self.v_proj = nn.Linear(d, self.kv_heads * hd, {bias = c.attention_bias})
  self.o_proj = nn.Linear(self.heads * hd, d, {bias = c.attention_bias})
  self.q_norm, self.k_norm = norm(hd, c), norm(hd, c)
  local rope = c.rope_of(sliding and "sliding_attention" or "full_attention")
  self.rope = nn.RoPE(hd, {theta = rope.theta, scaling = rope.scaling})
end
function Attention:forward(x, cache) -- (B, T, D)
  local q = self.q_norm(self.q_proj(x):split_heads(self.heads)) -- (B, H, T, hd)
  local k = self.k_norm(self.k_proj(x):split_heads(self.kv_heads))
  local v = self.v_proj(x):split_heads(self.kv_heads)
  q, k = self.rope(q, cache), self.rope(k, cache)
  local out = fn.attention(q, k, v, {scale = self.scale, window = self.window, cache = cache})
  return self.o_proj(out:merge_heads())
end

local MLP = nn.class "MLP"
function MLP:init(c)
  self.gate_proj = nn.Linear(c.hidden_size, c.intermediate_size)
  self.up_proj = nn.Linear(c.hidden_size, c.intermediate_size)
  self.down_proj = nn.Linear(c.intermediate_size, c.hidden_size)
  self.act = fn.activation(c.hidden_activation, "hidden_activation")
end
function MLP:forward(x) return self.down_proj(self.act(self.gate_proj(x)) * self.up_proj(x)) end

local Block = nn.class "Block"
function Block:init(c, sliding)
  self.self_attn = Attention(c, sliding)
  self.mlp = MLP(c)
  self.input_layernorm = norm(c.hidden_size, c)
  self.post_attention_layernorm = norm(c.hidden_size, c)
  self.pre_feedforward_layernorm = norm(c.hidden_size, c)
  self.post_feedforward_layernorm = norm(c.hidden_size, c)
end
function Block:forward(x, cache)
  x = x + self.post_attention_layernorm(self.self_attn(self.input_layernorm(x), cache))
  return x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))
end

local Decoder = nn.class "Decoder"
function Decoder:init(c)
  self.scale = c.hidden_size ^ 0.5
  self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
  self.layers = {}
  for i = 1, c.num_hidden_layers do self.layers[i] = Block(c, c.layer_types[i] == "sliding_attention") end
  self.norm = norm(c.hidden_size, c)
end
function Decoder:forward(tokens, caches)
  local x = self.embed_tokens(tokens) * self.scale
  for i, layer in ipairs(self.layers) do x = layer(x, caches and caches[i]) end
  return self.norm(x)
end

local Gemma3 = nn.model("gemma3_text", "gemma3")
Gemma3.text_config = true -- a multimodal config keeps ours under this key, and weights under language_model
Gemma3.config = {
  vocab_size = 262208,
  hidden_size = 2304,
  intermediate_size = 9216,
  num_hidden_layers = 26,
  num_attention_heads = 8,
  num_key_value_heads = 4,
  head_dim = 256,
  max_position_embeddings = 131072,
  rms_norm_eps = 1e-6,
  query_pre_attn_scalar = 256,
  attention_bias = false,
  hidden_activation = "gelu_pytorch_tanh",
  sliding_window = 4096,
  rope_theta = 1000000.0,
  rope_local_base_freq = 10000.0,
  tie_word_embeddings = true,
  -- the last of each `pattern` layers sees everything
  layer_types = function(c)
    local types, pattern = {}, c.sliding_window_pattern or c._sliding_window_pattern or 6
    for i = 1, c.num_hidden_layers do types[i] = i % pattern == 0 and "full_attention" or "sliding_attention" end
    return types
  end,
}
Gemma3.lora = {"q_proj", "v_proj"}
Gemma3.ignore = {
  "^vision_tower%.", "^multi_modal_projector%.", "^model%.vision_tower%.", "^model%.multi_modal_projector%.",
}
Gemma3.gguf = {
  architectures = {"gemma3"},
  config = {sliding_window = "attention.sliding_window"},
  names = {
    attn_q_norm = "self_attn.q_norm", attn_k_norm = "self_attn.k_norm",
    post_attention_norm = "post_attention_layernorm",
    ffn_norm = "pre_feedforward_layernorm", post_ffw_norm = "post_feedforward_layernorm",
  },
  norm_offset = 1, -- the file's norms hold 1 + w
  defaults = {query_pre_attn_scalar = function(c) return c.head_dim end},
}
function Gemma3:init(c)
  self.softcap = c.final_logit_softcapping
  self.model = Decoder(c)
  if not c.tie_word_embeddings then self.lm_head = nn.Linear(c.hidden_size, c.vocab_size) end
end
function Gemma3:forward(tokens, caches) -- (B, T) ids -> (B, T, V) logits
  local x = self.model(tokens, caches)
  x = self.lm_head and self.lm_head(x) or self.model.embed_tokens:as_linear(x)
  return self.softcap and (x / self.softcap):tanh() * self.softcap or x
end
return Gemma3
