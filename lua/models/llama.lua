---Llama, Mistral, SmolLM: RMSNorm, grouped-query attention with RoPE, SwiGLU.
---Sources: Touvron et al. 2023; Grattafiori et al. 2024 (rope scaling of Llama 3).
local nn, fn = require "moonlet.nn", require "moonlet.fn"

local function is_mistral(c) return c.model_type == "mistral" end

local Attention = nn.class "Attention"
function Attention:init(c)
  local d, hd = c.hidden_size, c.head_dim
  self.heads, self.kv_heads, self.scale = c.num_attention_heads, c.num_key_value_heads, hd ^ -0.5
  self.window = is_mistral(c) and c.sliding_window or nil -- which Llama does not know
  self.q_proj = nn.Linear(d, self.heads * hd, {bias = c.attention_bias})
  self.k_proj = nn.Linear(d, self.kv_heads * hd, {bias = c.attention_bias})
  self.v_proj = nn.Linear(d, self.kv_heads * hd, {bias = c.attention_bias})
  self.o_proj = nn.Linear(self.heads * hd, d, {bias = c.attention_bias})
  self.rope = nn.RoPE(hd, {theta = c.rope_theta, scaling = c.rope_scaling})
end
function Attention:forward(x, cache) -- (B, T, D)
  local q = self.q_proj(x):split_heads(self.heads) -- (B, H, T, hd)
  local k = self.k_proj(x):split_heads(self.kv_heads)
  local v = self.v_proj(x):split_heads(self.kv_heads)
  q, k = self.rope(q, cache), self.rope(k, cache)
  local out = fn.attention(q, k, v, {scale = self.scale, window = self.window, cache = cache})
  return self.o_proj(out:merge_heads())
end

local MLP = nn.class "MLP"
function MLP:init(c)
  local d, f = c.hidden_size, c.intermediate_size
  self.gate_proj = nn.Linear(d, f, {bias = c.mlp_bias})
  self.up_proj = nn.Linear(d, f, {bias = c.mlp_bias})
  self.down_proj = nn.Linear(f, d, {bias = c.mlp_bias})
  self.act = fn.activation(c.hidden_act, "hidden_act")
end
function MLP:forward(x) return self.down_proj(self.act(self.gate_proj(x)) * self.up_proj(x)) end

local Block = nn.class "Block"
function Block:init(c)
  self.self_attn = Attention(c)
  self.mlp = MLP(c)
  self.input_layernorm = nn.RMSNorm(c.hidden_size, {eps = c.rms_norm_eps})
  self.post_attention_layernorm = nn.RMSNorm(c.hidden_size, {eps = c.rms_norm_eps})
end
function Block:forward(x, cache)
  x = x + self.self_attn(self.input_layernorm(x), cache)
  return x + self.mlp(self.post_attention_layernorm(x))
end

local Decoder = nn.class "Decoder"
function Decoder:init(c)
  self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
  self.layers = {}
  for i = 1, c.num_hidden_layers do self.layers[i] = Block(c) end
  self.norm = nn.RMSNorm(c.hidden_size, {eps = c.rms_norm_eps})
end
function Decoder:forward(tokens, caches)
  local x = self.embed_tokens(tokens)
  for i, layer in ipairs(self.layers) do x = layer(x, caches and caches[i]) end
  return self.norm(x)
end

local Llama = nn.model("llama", "mistral")
Llama.config = {
  num_key_value_heads = function(c, null) return is_mistral(c) and not null and 8 or c.num_attention_heads end,
  sliding_window = function(_, null) return not null and 4096 or nil end, -- null: none
  max_position_embeddings = function(c) return is_mistral(c) and 131072 or 2048 end,
  head_dim = function(c) return c.hidden_size // c.num_attention_heads end,
  rms_norm_eps = 1e-6,
  rope_theta = 10000.0,
  attention_bias = false,
  mlp_bias = false,
  hidden_act = "silu",
  tie_word_embeddings = false,
}
Llama.lora = {"q_proj", "v_proj"}
Llama.ignore = {"%.rotary_emb%.inv_freq$"}
Llama.gguf = {
  architectures = {"llama"},
  config = {},
  names = {},
  permuted = {"attn_q", "attn_k"}, -- rows of interleaved rope
}
function Llama:init(c)
  self.model = Decoder(c)
  if not c.tie_word_embeddings then self.lm_head = nn.Linear(c.hidden_size, c.vocab_size) end
end
function Llama:forward(tokens, caches) -- (B, T) ids -> (B, T, V) logits
  local x = self.model(tokens, caches)
  return self.lm_head and self.lm_head(x) or self.model.embed_tokens:as_linear(x)
end
return Llama
