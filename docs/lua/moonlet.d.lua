---@meta
---LuaCATS annotations for editors. Written by `make docs`; changes here are lost.

---@class moonlet.sample
local S = {}

---Divides the logits; 0, and less than float32 divides by, takes the likeliest of what remains.
---@param t number
function S.temperature(t) end

---Whether options take the likeliest token.
---@param o table  options of m:generate
function S.is_greedy(o) end

---Takes the likeliest of what remains, of equal ones the first.
function S.greedy() end

---Keeps the k likeliest; 0 keeps all.
---@param k integer
function S.top_k(k) end

---Keeps the likeliest entries whose exclusive cumulative probability is at most p: at least one. 1 keeps all, 0 the
---likeliest alone.
---@param p number
function S.top_p(p) end

---Keeps entries at least p times as likely as the likeliest; 0 keeps all.
---@param p number
function S.min_p(p) end

---Ids among the last n, the prompt's too: positive logits divided by, negative ones multiplied by the penalty.
---@param penalty number  1 changes nothing
---@param n integer|nil  64 unless given
function S.repeat_penalty(penalty, n) end

---Ids among the last n, the prompt's too, lose `presence` once and `frequency` for each time that they occur.
---@param presence number|nil  0 unless given
---@param frequency number|nil  0 unless given
---@param n integer|nil  64 unless given
function S.presence(presence, frequency, n) end

---Adds to the logits of single ids: {[id] = bias}. -math.huge forbids one, math.huge demands it whatever its logit is;
---among several of these the choice is even.
---@param bias table<integer, number>
function S.logit_bias(bias) end

---With the given probability, drops all but the least likely of the entries whose own probability is above the
---threshold.
---@param probability number
---@param threshold number|nil  0.1 unless given, 0.5 at most
function S.xtc(probability, threshold) end

---Marks a function of one's own, of (logits, state), that is made of tensor operations alone: a step that is recorded
---once, over B rows, and is part of the plan. It gets logits (B, V) float32, `state.recent` (B, n) int32 (newest last,
---and -1 where there are none) and `state.uniform()` -> (B) float32, and gives logits (B, V), or as the last step ids
---(B). What it reads that is no tensor stays as it was then; reading a tensor's value in it is an error.
---@param fn function
---@return moonlet.SampleStep
function S.traced(fn) end

---Steps in the order written; of what remains behind the last, one id is drawn at random (behind `greedy`, the likeliest
---is taken). A chain may stand in a chain. Printed, a chain says which steps run in Lua.
---@param steps table  of steps; {last_n = n} says how many ids `state.recent` has in functions of one's own: 64 unless given, and never more than the model's context
---@return moonlet.SampleChain
function S.chain(steps) end

---Whether x is a chain.
---@return boolean
function S.is_chain(x) end

---Notes which steps the chain of some options has that are numbers alone, so that rows of different options can have
---chains of the same steps: `from_options` takes what was noted of all.
---@param o table  options as `from_options` has them
---@param steps table  of other options before: {repeat_penalty = {[n] = true}, presence, top_p, min_p, top_k, ...}
function S.note_steps(o, steps) end

---The chain that the options of m:generate mean: bias and penalties, then top-p, min-p, xtc, top-k, temperature (the
---order of mlx-lm). Without a temperature, the likeliest behind bias and penalties.
---@param o table|nil  options of m:generate by name, those of sampling alone
---@param also table|nil  steps that the chain has even where they do nothing (`note_steps`)
---@return moonlet.SampleChain
---@return string  equal for chains that differ in `numbers` alone
function S.from_options(o, also) end

---@class moonlet.chat
local chat = {}

---Checks a list of messages before a template runs. True, or nil, message, code.
---@param messages table  it may be empty
---@return boolean?, string?, string?
function chat.check(messages) end

---The text of a conversation.
---@param template string|moonlet.Template|table  source, compiled, or several: {{name =, template =}, ...} or by name
---@param messages table  a list of {role =, content =, ...}
---@param options moonlet.ChatOptions?
---@return string? text
---@return table|string spans  byte ranges {first, last} inside {% generation %}; or the message of the failure
---@return string? code
function chat.apply(template, messages, options) end

---The text of a conversation in segments, for a tokenizer; their concatenation is what `apply` gives.
---@param template string|moonlet.Template|table
---@param messages table
---@param options moonlet.ChatOptions  with control_tokens
---@return {text: string, special: boolean}[]? segments
---@return string? message
---@return string? code
function chat.segments(template, messages, options) end

---@class moonlet.fn
local fn = {}

---softmax(q k' scale) v by heads. q (B, H, T, d); k, v (B, KV heads, T, d). With `cache`, k and v are appended to it
---first and q attends to all that it holds; `window` counts the token itself. A row does not see what is hidden from it
---(by causality, window, false or -inf in `mask`), were it infinite or NaN. Causal attention without a cache is an error
---while a model generates: it would forget what came before.
---@param opts table  {scale, mask, causal = true, window, cache, softcap, sinks}
function fn.attention(q, k, v, opts) end

---What came 1, 2 ... n tokens before each: a list of n tensors like x (B, T, D), zeros before a sequence begins. With
---`cache` the layer keeps the last n of each sequence for the tokens to come.
---@param x moonlet.Tensor
---@param n integer
---@param opts table|nil  {cache}
---@return moonlet.Tensor[]
function fn.before(x, n, opts) end

---x / sqrt(mean(x^2) + eps) times (offset + weight), along the last axis.
---@param opts table|nil  {eps = 1e-5, offset = 0}
function fn.rms_norm(x, weight, opts) end

---(x - mean) / sqrt(variance + eps) times weight plus bias, along the last axis.
---@param opts table|nil  {eps = 1e-5}
function fn.layer_norm(x, weight, bias, opts) end

---The activation that a configuration names.
---@param name string
---@param key string|nil  the configuration's key, for messages
function fn.activation(name, key) end

---Mean negative log likelihood of 0-based targets (...); logits (..., V). mask: 1 where a position counts; where it is
---0, logits and target may be anything. Computed in float32 or float64 and given in the dtype of the logits.
---@param opts table|nil  {mask, reduction = "mean", label_smoothing = 0}
function fn.cross_entropy(logits, targets, opts) end

---Mean of squared differences, computed in float32 or float64; of integers float32.
function fn.mse(x, y) end

---sum(p (log p - log q)) over the last axis, mean over the rest; arguments are log probabilities. What has probability 0
---in p adds nothing. Computed in float32 or float64.
function fn.kl_div(log_q, log_p) end

---Each entry zero with probability p, the others divided by 1 - p.
function fn.dropout(x, p) end

---@class moonlet.Generation
local g = {}

---The ids that say what `text` says: of an answer that a stop string ended, those before it, a token of which only the
---beginning counts being written anew.
function g:kept_ids() end

---Its model is closed: the next call raises, or the one that runs when it returns. One that has ended stays as it is.
function g:abort(message) end

---The next token, or nil at the end. An error raises and leaves finish_reason = "error"; cancellation and deadline end
---normally.
function g:next() end

---Ends the generation early; harmless afterwards. From within a callback it takes effect when that returns.
function g:close() end

---Seconds since it began.
---@return number
function g:elapsed() end

---What there is of it so far: {text, ids, finish_reason, metrics, logprobs}.
function g:result() end

---Runs to the end; the whole result.
---@return string text, table result  {text, ids, finish_reason, metrics, logprobs}
function g:complete() end

---@class moonlet.jinja
local jinja = {}

---A template ready to be rendered; nil, message, code where the source is none.
---@param source string  a template, UTF-8
---@return moonlet.Template? template
---@return string? message
---@return string? code
function jinja.compile(source) end

---@class moonlet.json
local json = {}

---The value of a JSON text; nil, message, code when it is none. Null is json.null, and an object keeps the order of its
---keys.
function json.decode(text) end

---The JSON text of a value. Raises on NaN and on what JSON cannot say.
function json.encode(value, opts) end

---Marks a table as a JSON array, also when it is empty, and returns it.
function json.array(table) end

---Marks a table as a JSON object, also when it is empty, and returns it.
function json.object(table) end

---@class moonlet.Model
---@field info table
---@field metrics table
---@field tokenizer moonlet.Tokenizer|nil
---@field config table
---@field net moonlet.Module
---@field generation_config table
---@field device string
local m = {}

---Ids of a prompt: text is encoded as the tokenizer does it by default, though BOS stands there once if the text has it
---already; lists of ids are taken as they are.
function m:prompt_ids(prompt, what) end

---Ids of a conversation with the header of the answer behind it.
function m:chat_ids(messages, o) end

---The options of a call of `chat` with `defaults = "model"`: `opts`, and where it has nothing what generation_config
---says, as transformers takes it: `do_sample: true`, or a `temperature` in `opts` above 0, draws, by the file's
---temperature, top_k, top_p and min_p, with a temperature of 1 and top_k = 50 where it is silent; else the likeliest
---token is taken. A repetition penalty holds either way, over the whole context. Beside a `sampler` in `opts` the file
---says nothing; nor does one that has none of the keys below.
---@param opts table|nil  generate's or chat's
---@return table options  a table of its own
---@return boolean present  whether the file says anything of how tokens are chosen (do_sample, temperature, top_k, top_p, min_p, typical_p, epsilon_cutoff, eta_cutoff, top_h, repetition_penalty)
function m:generation_defaults(opts) end

---Lets other engines of this process use the weights: what it gives is theirs to load with, load {share = token}, in
---whatever thread, as long as this model is open. The weights count where they were loaded, are freed with the last
---model that has them, and are never written. Weights on the processor alone are shared: others are "unsupported".
---@return string token
function m:share() end

---What all sequences of the model share: pools of pages, slots, and what steps are decoded with. Made when it is first
---asked for, freed with the model; for those who write another way to generate.
---@return moonlet.Runtime
function m:runtime() end

---Tokens {id, text, index, logprob, top_logprobs} of a continuation: `for tok in m:generate(prompt, opts) do`.
---@param prompt string|integer[]  text, or token ids
---@param opts table|nil  {max_tokens = 256, temperature = 0 (the likeliest token), top_k, top_p, min_p, xtc_probability, xtc_threshold, repeat_penalty, repeat_last_n = 64 (the prompt counts; at most the context), presence_penalty, frequency_penalty, logit_bias ({[id] = number}), seed, stop (strings), stop_tokens (ids of the model's), logprobs (how many of the likeliest; of the model's own probabilities, before temperature and penalties), sampler (a chain or a function: see sampling), cancel (ml.cancel_token()), deadline (seconds), ignore_eos}. top_p = 1 and 0 of the other sampling options change nothing; top_p = 0 leaves the likeliest token. Without a temperature top_k, top_p, min_p and xtc do nothing, and `metrics.warnings`, a list of texts, says so
---@return moonlet.Generation ...  what a `for` wants. The generation, the first of them, has `text` and `ids` so far, `metrics`, `logprobs` where they were asked for, and at the end `finish_reason`: "stop", "length", "cancelled", "deadline" or "error"
function m:generate(prompt, opts) end

---The tokens of the answer to a conversation, through the model's chat template.
---@param messages table  a list of {role = "system", "user" or "assistant", content = text}
---@param opts table|nil  generate's, and {tools, documents, template (a name or a source), template_vars, now, parse_special, continue_final_message, defaults = "model" (what generation_config says where `opts` does not)}
---@return moonlet.Generation ...  what a `for` wants
function m:chat(messages, opts) end

---The whole text, and {text, ids, finish_reason, metrics, logprobs (where asked for: a list of {id, logprob,
---top_logprobs}, one for each id)}.
---@param prompt string|table  text, ids, or messages
---@param opts table|nil  generate's for text and ids, chat's for messages
---@return string text
---@return table result
function m:complete(prompt, opts) end

---Many prompts at once, through `slots` rows: a list of results in the order of the prompts, each as of `complete`;
---where a prompt failed it has `error` and the finish_reason "error", and the others go on. In exact mode each is what
---the prompt gives alone.
---@param prompts table  a list of texts, lists of ids, lists of messages, or tables {prompt = one of these, and generate's options for this one, or chat's}
---@param opts table|nil  those options for all, and {slots = 8 (at once), on_token (function(index, token); where it returns false that prompt ends, as "cancelled", and the others go on), iterate = true (results as they end: `for index, result in m:batch_generate(...)`)}
---@return table results
function m:batch_generate(prompts, opts) end

---A conversation that keeps its cache: see sessions.
---@param opts table|nil  {system (a text), messages, tools, documents, template, template_vars, now, forget = true (a conversation that the context no longer holds loses its oldest turns instead of raising "limit"; never the system text)}
---@return moonlet.Session
function m:session(opts) end

---Float32 logits (B, T, V) of a list of ids, or of a list of such lists (right-padded).
---@param ids integer[]|integer[][]
---@return moonlet.Tensor
function m:logits(ids) end

---What each text is, by the model's next token: per text {label, index (position in `labels`), probability (among the
---labels), logits (with `logits`: one a label, of several tokens the sum of their log probabilities)}. Without labels
---the likeliest next token: {label (its piece), id, probability}.
---@param texts table  a list of texts, lists of ids, or lists of messages
---@param opts table|nil  {labels = texts, template = a text with {text} in it, or a function of the text that gives a prompt, batch_size = how many texts at most run together, logits = true, truncate = true (what is too long loses its beginning), progress = function(done, all)}
---@return table
function m:classify(texts, opts) end

---What stands for each text among the states that the model's head is applied to: float32 (n, D).
---@param texts table  a list of texts, lists of ids, or lists of messages
---@param opts table|nil  {pooling = "mean" (of all tokens), "last" or "cls" (the first), normalize = true (to length 1), batch_size, truncate}. A NaN in what a text gives is an error of code "corrupt"
---@return moonlet.Tensor
function m:embed(texts, opts) end

---How likely continuations are behind a prefix, which is computed once: per continuation {logprob (the sum of its
---tokens' natural log probabilities), tokens (how many), greedy (whether each is the likeliest)}. Logits that hold a
---NaN, or nothing but -inf, are an error of code "corrupt".
---@param prefix string|table  text, ids or messages
---@param continuations table  texts, or lists of ids
---@return table
function m:score(prefix, continuations) end

---{nll, perplexity, tokens} of a text: windows of `context` ids, one every `stride` ids, each begun cold; a window
---predicts the ids that none before it held. nll is the mean natural logarithm a predicted token. A model whose logits
---hold a NaN, or nothing but -inf, is an error of code "corrupt".
---@param text string|integer[]
---@param opts table|nil  {context = 512 (at most the model's own), stride = context, limit = how many tokens to predict at most, logprobs = true (the result's `logprobs` has the log probability of each predicted token)}
function m:perplexity(text, opts) end

---A text that tells this model and tokenizer from others: saved sessions carry it. It comes from the configuration, from
---rows of every weight, and from all of the vocabulary, so that where the files lie does not matter.
function m:fingerprint() end

---Frees everything, generations and sessions included; twice is harmless. What still generates, if it is asked for
---another token, or closed its model from a sampler, raises "usage" and has the finish_reason "error".
function m:close() end

---@class moonlet.memory
local memory = {}

---Bytes that live tensors hold.
function memory.active() end

---The largest number of bytes kept for reuse; with a number, sets it.
function memory.cache_limit(bytes) end

---Bytes kept for reuse.
function memory.cached() end

---Frees what is kept for reuse.
function memory.clear() end

---The largest number of bytes that tensors may hold; with a number, sets it. Beyond it, "limit" is raised; 0, as at
---first, is no limit.
function memory.limit(bytes) end

---The largest number of bytes held at once since the last reset_peak.
function memory.peak() end

---Begins to measure the peak anew.
function memory.reset_peak() end

---@class moonlet
---@field random moonlet.random
---@field memory moonlet.memory
---@field json moonlet.json
---@field version string
local ml = {}

---A tensor of numbers, booleans, or nested lists of them; a tensor gives a copy of it. Integers are int32, with any
---float float32, booleans bool. A number that an integer dtype does not hold is an error, a fraction too; one beyond a
---float dtype is an infinity.
---@param values any
---@param opts table|nil  {dtype, device}
---@return moonlet.Tensor
function ml.tensor(values, opts) end

---A tensor of the little-endian values in a string, row-major. "mismatch" when the string's length does not fit.
---@param bytes string
---@param shape integer[]
---@param dtype string
---@return moonlet.Tensor
function ml.from_bytes(bytes, shape, dtype) end

---One value everywhere.
---@param shape integer[]|integer
---@param value number|boolean|moonlet.Tensor
---@param opts table|nil  {dtype, device}
---@return moonlet.Tensor
function ml.full(shape, value, opts) end

---Zeros, float32 unless `dtype` says otherwise.
---@param shape integer[]|integer
---@param opts table|nil
---@return moonlet.Tensor
function ml.zeros(shape, opts) end

---Ones, float32 unless `dtype` says otherwise.
---@param shape integer[]|integer
---@param opts table|nil
---@return moonlet.Tensor
function ml.ones(shape, opts) end

---0, 1 .. n-1 (`arange(n)`), or from start up to, not including, stop. Of integers int32, or int64 where int32 does not
---hold them all; of floats float32, each of them start + i step in float64 first. An integer `dtype` that does not hold
---them is an error.
---@param start number
---@param stop number|nil
---@param step number|nil  1 unless given; may be negative
---@param opts table|nil  {dtype, device}
---@return moonlet.Tensor
function ml.arange(start, stop, step, opts) end

---n numbers from first to last, both included; float32.
---@param first number
---@param last number
---@param n integer|nil  50 unless given
---@return moonlet.Tensor
function ml.linspace(first, last, n) end

---The identity matrix: (n, m), ones where row and column are equal.
---@param n integer
---@param m integer|nil  n unless given
---@param opts table|nil  {dtype}
---@return moonlet.Tensor
function ml.eye(n, m, opts) end

---A matrix (n, m) of ones on and below diagonal k, zeros above; float32.
---@param n integer
---@param m integer|nil  n unless given
---@param k integer|nil  0 unless given; 1 is the diagonal above
---@return moonlet.Tensor
function ml.tri(n, m, k) end

---The last two axes with zeros above diagonal k.
---@param x moonlet.Tensor
---@param k integer|nil  0 unless given
---@return moonlet.Tensor
function ml.tril(x, k) end

---The last two axes with zeros below diagonal k.
---@param x moonlet.Tensor
---@param k integer|nil  0 unless given
---@return moonlet.Tensor
function ml.triu(x, k) end

---Axes first to last as one.
---@param x moonlet.Tensor
---@param first integer|nil  1 unless given
---@param last integer|nil  -1 unless given
---@return moonlet.Tensor
function ml.flatten(x, first, last) end

---One axis as several of the sizes given, one of which may be -1.
---@param x moonlet.Tensor
---@param axis integer
---@param shape integer[]
---@return moonlet.Tensor
function ml.unflatten(x, axis, shape) end

---Without axes of size 1: those named, or all.
---@param x moonlet.Tensor
---@param axes integer|integer[]|nil
---@return moonlet.Tensor
function ml.squeeze(x, axes) end

---With axes of size 1 at the places that they have in the result.
---@param x moonlet.Tensor
---@param axes integer|integer[]
---@return moonlet.Tensor
function ml.expand_dims(x, axes) end

---Two axes exchanged.
---@param x moonlet.Tensor
---@param a integer
---@param b integer
---@return moonlet.Tensor
function ml.swapaxes(x, a, b) end

---One axis moved to another place, the others keeping their order.
---@param x moonlet.Tensor
---@param from integer
---@param to integer
---@return moonlet.Tensor
function ml.moveaxis(x, from, to) end

---The same values in row-major storage of their own.
---@param x moonlet.Tensor
---@return moonlet.Tensor
function ml.contiguous(x) end

---Parts along an axis, a list: n equal ones, or parts that end at the positions given (inclusive; the last part is the
---rest).
---@param x moonlet.Tensor
---@param parts integer|integer[]
---@param axis integer|nil  1 unless given
---@return moonlet.Tensor[]
function ml.split(x, parts, axis) end

---Tensors of one shape joined along a new axis.
---@param tensors moonlet.Tensor[]
---@param axis integer|nil  the place of the new axis, 1 unless given
---@return moonlet.Tensor
function ml.stack(tensors, axis) end

---In reverse order along the axes named, or all.
---@param x moonlet.Tensor
---@param axes integer|integer[]|nil
---@return moonlet.Tensor
function ml.flip(x, axes) end

---Moved by `shift` places along an axis, what leaves at one end coming in at the other; of the flattened values without
---one.
---@param x moonlet.Tensor
---@param shift integer
---@param axis integer|nil
---@return moonlet.Tensor
function ml.roll(x, shift, axis) end

---Repeated as a whole: counts for the last axes.
---@param x moonlet.Tensor
---@param counts integer|integer[]
---@return moonlet.Tensor
function ml.tile(x, counts) end

---Each entry n times in a row along an axis; of the flattened values without one.
---@param x moonlet.Tensor
---@param n integer
---@param axis integer|nil
---@return moonlet.Tensor
function ml.repeat_interleave(x, n, axis) end

---Edges of `value` around it.
---@param x moonlet.Tensor
---@param widths integer[]|integer[][]  one pair {before, after} for all axes, or a list of as many pairs as axes
---@param value number|nil  0 unless given
---@return moonlet.Tensor
function ml.pad(x, widths, value) end

---Of a vector the matrix that has it on diagonal k, of a matrix its diagonal k.
---@param x moonlet.Tensor
---@param k integer|nil  0 unless given; 1 is the diagonal above
---@return moonlet.Tensor
function ml.diag(x, k) end

---Heads apart: (B, T, n d) -> (B, n, T, d).
---@param x moonlet.Tensor
---@param n integer
---@return moonlet.Tensor
function ml.split_heads(x, n) end

---Heads together: (B, n, T, d) -> (B, T, n d).
---@param x moonlet.Tensor
---@return moonlet.Tensor
function ml.merge_heads(x) end

---Not below low and not above high; either may be nil.
---@param x moonlet.Tensor
---@param low number|moonlet.Tensor|nil
---@param high number|moonlet.Tensor|nil
---@return moonlet.Tensor
function ml.clip(x, low, high) end

---x to the power y.
---@param x moonlet.Tensor
---@return moonlet.Tensor
function ml.power(x, y) end

---NaN and infinities replaced: 0 and the dtype's largest and smallest numbers unless given.
---@param x moonlet.Tensor
---@param nan number|nil
---@param high number|nil  for infinity
---@param low number|nil  for minus infinity
---@return moonlet.Tensor
function ml.nan_to_num(x, nan, high, low) end

---Inverse of the error function, to about 1e-6 of the value; infinite at -1 and 1, NaN beyond.
---@param x moonlet.Tensor
---@return moonlet.Tensor
function ml.erfinv(x) end

---The device or dtype named: x:to "float16", x:to "cpu".
---@param x moonlet.Tensor
---@param what string
---@return moonlet.Tensor
function ml.to(x, what) end

---Values of a quantised or packed weight as float32.
---@param x moonlet.Tensor
---@return moonlet.Tensor
function ml.dequantize(x) end

---A weight (outputs, inputs) in the layout that products on its device read fastest, the same values: `linear`,
---`linear_transposed`, `embedding`, `dequantize`, `unpack` and reading take it, every other operation refuses it. Values
---of blocks are read from what `dequantize` gives. Of float32, bfloat16 or float16, or of blocks as a file has them. One
---of (experts, outputs, inputs) is what `gather_linear` reads: `dequantize`, `unpack` and reading take it too, and
---`w[i]` is the i-th expert's matrix, in the same storage.
---@param x moonlet.Tensor
---@param opts table|nil  {precision = "exact"}: "fast" lets products round what they multiply with quantised weights
---@return moonlet.Tensor
function ml.pack(x, opts) end

---A packed weight in the layout that it had before: floats, or a file's blocks.
---@param x moonlet.Tensor
---@return moonlet.Tensor
function ml.unpack(x) end

---A copy of x in storage of its own, which `assign` and in-place operations write. `assign` to a view of it writes the
---part that the view shows, and where an operation had nothing to do (`astype` to the dtype that x has) what it gave is
---such a view; the view keeps the values that it showed, and an in-place operation on it changes that handle alone.
---@param x moonlet.Tensor
---@return moonlet.Tensor
function ml.state(x) end

---A copy of x in storage of its own, which `assign` and in-place operations write. `state(shape, dtype)` is one of
---zeros, all of which counts as memory, and is taken from the system as it is written.
---@param x moonlet.Tensor|integer[]
---@param dtype string|nil  of zeros: "float32" unless given
---@return moonlet.Tensor
function ml.state(x, dtype) end

---Entry at 1-based positions: x:at(i, j) is x[i][j].
---@param x moonlet.Tensor
---@param ... integer
---@return moonlet.Tensor
function ml.at(x, ...) end

---Entries of x along an axis at 0-based `index`, a tensor, a table or a number; the axis is replaced by index's shape.
---@param x moonlet.Tensor
---@param index moonlet.Tensor|table|integer
---@param axis integer|nil  1 unless given
---@return moonlet.Tensor
function ml.take(x, index, axis) end

---Per position, the entry of x along `axis` that `index` (0-based, as many axes as x) names.
---@param x moonlet.Tensor
---@param index moonlet.Tensor|table
---@param axis integer|nil  -1 unless given
---@return moonlet.Tensor
function ml.take_along_axis(x, index, axis) end

---The same as take_along_axis.
---@param x moonlet.Tensor
---@param index moonlet.Tensor|table
---@param axis integer|nil  -1 unless given
---@return moonlet.Tensor
function ml.gather(x, index, axis) end

---x with `values` written along `axis` at 0-based `index` (as many axes as x); of an index named twice the last value
---stays.
---@param x moonlet.Tensor
---@param index moonlet.Tensor|table
---@param values moonlet.Tensor|number  broadcast to index's shape
---@param axis integer|nil  -1 unless given
---@return moonlet.Tensor
function ml.put_along_axis(x, index, values, axis) end

---The same as put_along_axis.
---@param x moonlet.Tensor
---@param index moonlet.Tensor|table
---@param values moonlet.Tensor|number
---@param axis integer|nil  -1 unless given
---@return moonlet.Tensor
function ml.scatter(x, index, values, axis) end

---x with `values` added along `axis` at 0-based `index`; entries named twice get both.
---@param x moonlet.Tensor
---@param index moonlet.Tensor|table
---@param values moonlet.Tensor|number  broadcast to index's shape
---@param axis integer|nil  -1 unless given
---@return moonlet.Tensor
function ml.scatter_add(x, index, values, axis) end

---x with the entries of a slice replaced.
---@param x moonlet.Tensor
---@param ranges table  as of slice: {first, last, step} for each axis, 1-based, inclusive
---@param values moonlet.Tensor|number  broadcast to the slice's shape
---@return moonlet.Tensor
function ml.slice_update(x, ranges, values) end

---Entries of x's row-major values at offset + i1 stride1 + i2 stride2 + ..; a copy.
---@param x moonlet.Tensor
---@param shape integer[]
---@param strides integer[]|nil  in elements; those of row-major order unless given
---@param offset integer|nil  in elements, 0 unless given
---@return moonlet.Tensor
function ml.as_strided(x, shape, strides, offset) end

---Values along an axis in an order in which entry k (0-based) is where sorting would put it: sorted, here. A k that the
---axis does not have is an error.
---@param x moonlet.Tensor
---@param k integer
---@param axis integer|nil  -1 unless given
---@return moonlet.Tensor
function ml.partition(x, k, axis) end

---0-based indices of `partition`.
---@param x moonlet.Tensor
---@param k integer
---@param axis integer|nil  -1 unless given
---@return moonlet.Tensor
function ml.argpartition(x, k, axis) end

---Where values would have to go into x (one axis, ascending, NaN last) to keep its order: the number of smaller entries,
---int32 (int64 where that does not hold their number). Plain numbers, and those of a table, are compared as they are.
---@param x moonlet.Tensor
---@param values moonlet.Tensor|table|number
---@param opts table|nil  {right = false}: behind equal entries
---@return moonlet.Tensor
function ml.searchsorted(x, values, opts) end

---The different values in ascending order, for each entry of x the 0-based index of its value, and how often each comes
---(int32). Reads x; NaN is one value.
---@param x moonlet.Tensor
---@return moonlet.Tensor values
---@return moonlet.Tensor inverse  in x's shape
---@return moonlet.Tensor counts
function ml.unique(x) end

---Matrix product over the last two axes, leading axes broadcast; a vector is a row on the left, a column on the right.
---Integers give integers (exact below 2^53), integers with floats floats.
---@param x moonlet.Tensor
---@param b moonlet.Tensor
---@return moonlet.Tensor
function ml.matmul(x, b) end

---Sums of products by labels: einsum("bij,bjk->bik", {a, b}). A letter names an axis; letters that the result does not
---name are summed over; without an arrow the result has the letters that stand once, in alphabetical order; `...` stands
---for leading axes that broadcast. Operands are multiplied in turn from the left, in the dtype that all of them meet at,
---which is the result's; for float16 and bfloat16 in float32, rounded once.
---@param equation string
---@param operands moonlet.Tensor[]
---@return moonlet.Tensor
function ml.einsum(equation, operands) end

---Sum of products over pairs of axes: the last n of a with the first n of b, or {{axes of a}, {axes of b}}.
---@param x moonlet.Tensor
---@param b moonlet.Tensor
---@param axes integer|integer[][]|nil  2 unless given
---@return moonlet.Tensor
function ml.tensordot(x, b, axes) end

---Products of all entries of x with all entries of y: (x.size, y.size).
---@param x moonlet.Tensor
---@param y moonlet.Tensor
---@return moonlet.Tensor
function ml.outer(x, y) end

---Sum of products over the last axes of both.
---@param x moonlet.Tensor
---@param y moonlet.Tensor
---@return moonlet.Tensor
function ml.inner(x, y) end

---alpha a b + beta c, a b being the matrix product; float16 and bfloat16 are computed in float32 and rounded once.
---@param x moonlet.Tensor
---@param a moonlet.Tensor
---@param b moonlet.Tensor
---@param alpha number|nil  1 unless given
---@param beta number|nil  1 unless given
---@return moonlet.Tensor
function ml.addmm(x, a, b, alpha, beta) end

---Convolution along the middle axis: x (B, T, inputs), weight (outputs, width, inputs / groups) -> (B, T', outputs),
---with T' = (T + 2 padding - dilation (width - 1) - 1) // stride + 1. The weight is not reversed (cross-correlation).
---float16 and bfloat16 are computed in float32 and rounded once.
---@param x moonlet.Tensor
---@param weight moonlet.Tensor
---@param opts table|nil  {stride = 1, padding = 0, dilation = 1, groups = 1}
---@return moonlet.Tensor
function ml.conv1d(x, weight, opts) end

---The same values in row-major storage of their own.
---@param x moonlet.Tensor
---@return moonlet.Tensor
function ml.copy(x) end

---The values converted to `dtype`; floats are truncated towards zero into integers (NaN is 0; what lies outside is taken
---to the nearest 64-bit integer, then wrapped).
---@param x moonlet.Tensor
---@param dtype string  dtype
---@return moonlet.Tensor
function ml.astype(x, dtype) end

---Minus x.
---@param x moonlet.Tensor
---@return moonlet.Tensor
function ml.neg(x) end

---Absolute value.
---@param x moonlet.Tensor
---@return moonlet.Tensor
function ml.abs(x) end

----1, 0 or 1.
---@param x moonlet.Tensor
---@return moonlet.Tensor
function ml.sign(x) end

---x times x.
---@param x moonlet.Tensor
---@return moonlet.Tensor
function ml.square(x) end

---e to the power x.
---@param x moonlet.Tensor
---@return moonlet.Tensor
function ml.exp(x) end

---exp(x) - 1, exact for small x.
---@param x moonlet.Tensor
---@return moonlet.Tensor
function ml.expm1(x) end

---Natural logarithm.
---@param x moonlet.Tensor
---@return moonlet.Tensor
function ml.log(x) end

---log(1 + x), exact for small x.
---@param x moonlet.Tensor
---@return moonlet.Tensor
function ml.log1p(x) end

---Logarithm to base 2.
---@param x moonlet.Tensor
---@return moonlet.Tensor
function ml.log2(x) end

---Square root.
---@param x moonlet.Tensor
---@return moonlet.Tensor
function ml.sqrt(x) end

---1 / sqrt(x).
---@param x moonlet.Tensor
---@return moonlet.Tensor
function ml.rsqrt(x) end

---1 / x.
---@param x moonlet.Tensor
---@return moonlet.Tensor
function ml.reciprocal(x) end

---Sine, x in radians.
---@param x moonlet.Tensor
---@return moonlet.Tensor
function ml.sin(x) end

---Cosine, x in radians.
---@param x moonlet.Tensor
---@return moonlet.Tensor
function ml.cos(x) end

---Tangent, x in radians.
---@param x moonlet.Tensor
---@return moonlet.Tensor
function ml.tan(x) end

---Hyperbolic sine.
---@param x moonlet.Tensor
---@return moonlet.Tensor
function ml.sinh(x) end

---Hyperbolic cosine.
---@param x moonlet.Tensor
---@return moonlet.Tensor
function ml.cosh(x) end

---Hyperbolic tangent.
---@param x moonlet.Tensor
---@return moonlet.Tensor
function ml.tanh(x) end

---Inverse sine, in radians.
---@param x moonlet.Tensor
---@return moonlet.Tensor
function ml.arcsin(x) end

---Inverse cosine, in radians.
---@param x moonlet.Tensor
---@return moonlet.Tensor
function ml.arccos(x) end

---Inverse tangent, in radians.
---@param x moonlet.Tensor
---@return moonlet.Tensor
function ml.arctan(x) end

---Error function.
---@param x moonlet.Tensor
---@return moonlet.Tensor
function ml.erf(x) end

---1 / (1 + exp(-x)).
---@param x moonlet.Tensor
---@return moonlet.Tensor
function ml.sigmoid(x) end

---x sigmoid(x).
---@param x moonlet.Tensor
---@return moonlet.Tensor
function ml.silu(x) end

---x times the normal distribution function of x (exact, by erf).
---@param x moonlet.Tensor
---@return moonlet.Tensor
function ml.gelu(x) end

---GELU by its tanh approximation.
---@param x moonlet.Tensor
---@return moonlet.Tensor
function ml.gelu_tanh(x) end

---The larger of x and 0.
---@param x moonlet.Tensor
---@return moonlet.Tensor
function ml.relu(x) end

---Largest integer not above x.
---@param x moonlet.Tensor
---@return moonlet.Tensor
function ml.floor(x) end

---Smallest integer not below x.
---@param x moonlet.Tensor
---@return moonlet.Tensor
function ml.ceil(x) end

---Nearest integer, halves to even.
---@param x moonlet.Tensor
---@return moonlet.Tensor
function ml.round(x) end

---Whether x is not a number.
---@param x moonlet.Tensor
---@return moonlet.Tensor
function ml.isnan(x) end

---Whether x is infinite.
---@param x moonlet.Tensor
---@return moonlet.Tensor
function ml.isinf(x) end

---Whether x is neither infinite nor NaN.
---@param x moonlet.Tensor
---@return moonlet.Tensor
function ml.isfinite(x) end

---Whether x is zero.
---@param x moonlet.Tensor
---@return moonlet.Tensor
function ml.logical_not(x) end

---a + b.
---@param a moonlet.Tensor
---@param b moonlet.Tensor
---@return moonlet.Tensor
function ml.add(a, b) end

---a - b.
---@param a moonlet.Tensor
---@param b moonlet.Tensor
---@return moonlet.Tensor
function ml.sub(a, b) end

---a times b.
---@param a moonlet.Tensor
---@param b moonlet.Tensor
---@return moonlet.Tensor
function ml.mul(a, b) end

---a / b; integers give float32.
---@param a moonlet.Tensor
---@param b moonlet.Tensor
---@return moonlet.Tensor
function ml.div(a, b) end

---floor(a / b); an integer divided by zero gives 0. Floats as NumPy: (a - a % b) / b.
---@param a moonlet.Tensor
---@param b moonlet.Tensor
---@return moonlet.Tensor
function ml.floordiv(a, b) end

---The remainder of a by b with the sign of b, exact; an integer modulo zero gives 0.
---@param a moonlet.Tensor
---@param b moonlet.Tensor
---@return moonlet.Tensor
function ml.mod(a, b) end

---a to the power b; an integer to a negative power is truncated towards zero.
---@param a moonlet.Tensor
---@param b moonlet.Tensor
---@return moonlet.Tensor
function ml.pow(a, b) end

---The larger; NaN when either is NaN; of 0.0 and -0.0 either.
---@param a moonlet.Tensor
---@param b moonlet.Tensor
---@return moonlet.Tensor
function ml.maximum(a, b) end

---The smaller; NaN when either is NaN; of 0.0 and -0.0 either.
---@param a moonlet.Tensor
---@param b moonlet.Tensor
---@return moonlet.Tensor
function ml.minimum(a, b) end

---The angle of the point (b, a), in radians.
---@param a moonlet.Tensor
---@param b moonlet.Tensor
---@return moonlet.Tensor
function ml.arctan2(a, b) end

---log(exp(a) + exp(b)).
---@param a moonlet.Tensor
---@param b moonlet.Tensor
---@return moonlet.Tensor
function ml.logaddexp(a, b) end

---a = b, elementwise. Lua's own == compares handles and is false for two tensors of equal values: a:eq(b):all():item()
---says whether all are equal.
---@param a moonlet.Tensor
---@param b moonlet.Tensor
---@return moonlet.Tensor
function ml.eq(a, b) end

---a differs from b.
---@param a moonlet.Tensor
---@param b moonlet.Tensor
---@return moonlet.Tensor
function ml.ne(a, b) end

---a < b.
---@param a moonlet.Tensor
---@param b moonlet.Tensor
---@return moonlet.Tensor
function ml.lt(a, b) end

---a <= b.
---@param a moonlet.Tensor
---@param b moonlet.Tensor
---@return moonlet.Tensor
function ml.le(a, b) end

---a > b.
---@param a moonlet.Tensor
---@param b moonlet.Tensor
---@return moonlet.Tensor
function ml.gt(a, b) end

---a >= b.
---@param a moonlet.Tensor
---@param b moonlet.Tensor
---@return moonlet.Tensor
function ml.ge(a, b) end

---Both are not zero.
---@param a moonlet.Tensor
---@param b moonlet.Tensor
---@return moonlet.Tensor
function ml.logical_and(a, b) end

---One is not zero.
---@param a moonlet.Tensor
---@param b moonlet.Tensor
---@return moonlet.Tensor
function ml.logical_or(a, b) end

---Bits set in both integers.
---@param a moonlet.Tensor
---@param b moonlet.Tensor
---@return moonlet.Tensor
function ml.bitwise_and(a, b) end

---Bits set in either integer.
---@param a moonlet.Tensor
---@param b moonlet.Tensor
---@return moonlet.Tensor
function ml.bitwise_or(a, b) end

---Bits set in one integer alone.
---@param a moonlet.Tensor
---@param b moonlet.Tensor
---@return moonlet.Tensor
function ml.bitwise_xor(a, b) end

---a moved up by b bits.
---@param a moonlet.Tensor
---@param b moonlet.Tensor
---@return moonlet.Tensor
function ml.left_shift(a, b) end

---a moved down by b bits, the sign kept.
---@param a moonlet.Tensor
---@param b moonlet.Tensor
---@return moonlet.Tensor
function ml.right_shift(a, b) end

---a where condition is not zero, else b.
---@param condition moonlet.Tensor
---@param a moonlet.Tensor
---@param b moonlet.Tensor
---@return moonlet.Tensor
function ml.where(condition, a, b) end

---The values in row-major order under another shape; one -1 is worked out.
---@param x moonlet.Tensor
---@param shape integer[]  sizes
---@return moonlet.Tensor
function ml.reshape(x, shape) end

---Axes in another order; without `axes`, reversed.
---@param x moonlet.Tensor
---@param axes integer|integer[]|nil  axis or axes; all unless given
---@return moonlet.Tensor
function ml.transpose(x, axes) end

---Axes of size 1, and missing leading ones, repeated.
---@param x moonlet.Tensor
---@param shape integer[]  sizes
---@return moonlet.Tensor
function ml.broadcast_to(x, shape) end

---A range of each axis.
---@param x moonlet.Tensor
---@param ranges integer[][]  {first, last, step} for each axis
---@return moonlet.Tensor
function ml.slice(x, ranges) end

---Sum over axes; of bool, int8, uint8, int16 and uint16 as int32, in float32 for narrow floats. Integers wrap.
---@param x moonlet.Tensor
---@param axis integer|integer[]|nil  axis or axes; all unless given
---@param keepdims boolean|nil  false unless given
---@return moonlet.Tensor
function ml.sum(x, axis, keepdims) end

---Mean over axes; of integers as float32, from a sum that does not wrap.
---@param x moonlet.Tensor
---@param axis integer|integer[]|nil  axis or axes; all unless given
---@param keepdims boolean|nil  false unless given
---@return moonlet.Tensor
function ml.mean(x, axis, keepdims) end

---Product over axes, in the dtypes of `sum`.
---@param x moonlet.Tensor
---@param axis integer|integer[]|nil  axis or axes; all unless given
---@param keepdims boolean|nil  false unless given
---@return moonlet.Tensor
function ml.prod(x, axis, keepdims) end

---Largest over axes; NaN wins.
---@param x moonlet.Tensor
---@param axis integer|integer[]|nil  axis or axes; all unless given
---@param keepdims boolean|nil  false unless given
---@return moonlet.Tensor
function ml.max(x, axis, keepdims) end

---Smallest over axes; NaN wins.
---@param x moonlet.Tensor
---@param axis integer|integer[]|nil  axis or axes; all unless given
---@param keepdims boolean|nil  false unless given
---@return moonlet.Tensor
function ml.min(x, axis, keepdims) end

---Whether none is zero.
---@param x moonlet.Tensor
---@param axis integer|integer[]|nil  axis or axes; all unless given
---@param keepdims boolean|nil  false unless given
---@return moonlet.Tensor
function ml.all(x, axis, keepdims) end

---Whether one is not zero.
---@param x moonlet.Tensor
---@param axis integer|integer[]|nil  axis or axes; all unless given
---@param keepdims boolean|nil  false unless given
---@return moonlet.Tensor
function ml.any(x, axis, keepdims) end

---0-based index of the first largest along one axis, or of the flattened values.
---@param x moonlet.Tensor
---@param axis integer|integer[]|nil  axis or axes; all unless given
---@param keepdims boolean|nil  false unless given
---@return moonlet.Tensor
function ml.argmax(x, axis, keepdims) end

---0-based index of the first smallest along one axis, or of the flattened values.
---@param x moonlet.Tensor
---@param axis integer|integer[]|nil  axis or axes; all unless given
---@param keepdims boolean|nil  false unless given
---@return moonlet.Tensor
function ml.argmin(x, axis, keepdims) end

---Variance over axes: the mean of squared distances from the mean, with n - `ddof` (0 at the least) for n.
---@param x moonlet.Tensor
---@param axis integer|integer[]|nil  axis or axes; all unless given
---@param keepdims boolean|nil  false unless given
---@param ddof number|nil  0 unless given
---@return moonlet.Tensor
function ml.var(x, axis, keepdims, ddof) end

---Standard deviation over axes: the square root of `var`, which a dtype narrower than float64 need not hold itself.
---@param x moonlet.Tensor
---@param axis integer|integer[]|nil  axis or axes; all unless given
---@param keepdims boolean|nil  false unless given
---@param ddof number|nil  0 unless given
---@return moonlet.Tensor
function ml.std(x, axis, keepdims, ddof) end

---Euclidean norm over axes: the square root of the sum of squares, which a dtype narrower than float64 need not hold
---itself.
---@param x moonlet.Tensor
---@param axis integer|integer[]|nil  axis or axes; all unless given
---@param keepdims boolean|nil  false unless given
---@return moonlet.Tensor
function ml.norm(x, axis, keepdims) end

---log of the sum of exp over axes.
---@param x moonlet.Tensor
---@param axis integer|integer[]|nil  axis or axes; all unless given
---@param keepdims boolean|nil  false unless given
---@return moonlet.Tensor
function ml.logsumexp(x, axis, keepdims) end

---Running sum along an axis, in the dtypes of `sum`.
---@param x moonlet.Tensor
---@param axis integer|nil  axis; -1 unless given
---@return moonlet.Tensor
function ml.cumsum(x, axis) end

---Running product along an axis, in the dtypes of `sum`.
---@param x moonlet.Tensor
---@param axis integer|nil  axis; -1 unless given
---@return moonlet.Tensor
function ml.cumprod(x, axis) end

---Running maximum along an axis.
---@param x moonlet.Tensor
---@param axis integer|nil  axis; -1 unless given
---@return moonlet.Tensor
function ml.cummax(x, axis) end

---Running minimum along an axis.
---@param x moonlet.Tensor
---@param axis integer|nil  axis; -1 unless given
---@return moonlet.Tensor
function ml.cummin(x, axis) end

---Tensors joined along an axis.
---@param tensors moonlet.Tensor[]
---@param axis integer|nil  axis; 1 unless given
---@return moonlet.Tensor
function ml.concat(tensors, axis) end

---Ascending along an axis; NaN last.
---@param x moonlet.Tensor
---@param axis integer|nil  axis; -1 unless given
---@return moonlet.Tensor
function ml.sort(x, axis) end

---0-based indices that sort along an axis, ascending and stable; NaN last.
---@param x moonlet.Tensor
---@param axis integer|nil  axis; -1 unless given
---@return moonlet.Tensor
function ml.argsort(x, axis) end

---The k largest along an axis, in descending order: values, and their 0-based indices. NaN is never among the largest;
---of equal ones the first comes first.
---@param x moonlet.Tensor
---@param k integer
---@param axis integer|nil  axis; -1 unless given
---@return moonlet.Tensor values
---@return moonlet.Tensor indices
function ml.topk(x, k, axis) end

---exp(x - max) over its sum, along an axis.
---@param x moonlet.Tensor
---@param axis integer|nil  axis; -1 unless given
---@return moonlet.Tensor
function ml.softmax(x, axis) end

---log of softmax, along an axis.
---@param x moonlet.Tensor
---@param axis integer|nil  axis; -1 unless given
---@return moonlet.Tensor
function ml.log_softmax(x, axis) end

---x / sqrt(mean(x^2) + eps) times (offset + weight), along the last axis.
---@param x moonlet.Tensor
---@param weight moonlet.Tensor|nil
---@param eps number|nil  1e-5 unless given
---@param offset number|nil  0 unless given
---@return moonlet.Tensor
function ml.rms_norm(x, weight, eps, offset) end

---(x - mean) / sqrt(variance + eps) times weight plus bias, along the last axis.
---@param x moonlet.Tensor
---@param weight moonlet.Tensor|nil
---@param bias moonlet.Tensor|nil
---@param eps number|nil  1e-5 unless given
---@return moonlet.Tensor
function ml.layer_norm(x, weight, bias, eps) end

---x times the transpose of weight (outputs, inputs), which may be quantised; in the dtype of x, sums in float32. Of
---bfloat16 by bfloat16, numbers smaller than 2^-126 may count as 0.
---@param x moonlet.Tensor
---@param weight moonlet.Tensor
---@return moonlet.Tensor
function ml.linear(x, weight) end

---y times weight (outputs, inputs), which may be quantised: what a gradient sends back through linear.
---@param y moonlet.Tensor
---@param weight moonlet.Tensor
---@return moonlet.Tensor
function ml.linear_transposed(y, weight) end

---Rows of weight (which may be quantised) at 0-based ids, as float32, float16 or bfloat16: what is computed of them has
---that dtype.
---@param weight moonlet.Tensor
---@param ids moonlet.Tensor
---@param dtype string|nil  dtype; float32 unless given
---@return moonlet.Tensor
function ml.embedding(weight, ids, dtype) end

---Rows of x times the transposes of the matrices of weight (experts, outputs, inputs), which may be quantised, that
---0-based ids name: x (..., inputs) with ids (..., k) gives (..., k, outputs), each row multiplied by k experts; with
---ids (...) it gives (..., outputs), each row by its own; in the dtype of x, sums in float32, as `linear` gives them.
---Only experts that are named are read.
---@param x moonlet.Tensor
---@param weight moonlet.Tensor
---@param ids moonlet.Tensor
---@return moonlet.Tensor
function ml.gather_linear(x, weight, ids) end

---Cosines and sines (B, T, 2 n) of whole positions (B, T) times n frequencies, both times scale.
---@param positions moonlet.Tensor
---@param frequencies moonlet.Tensor
---@param scale number|nil  1 unless given
---@return moonlet.Tensor
function ml.rope_table(positions, frequencies, scale) end

---Rotates the first 2 n entries of the last axis of x (B, H, T, d) by the table's angles; pairs are (i, i + n), or
---neighbours when interleaved.
---@param x moonlet.Tensor
---@param table moonlet.Tensor
---@param interleaved boolean|nil  false unless given
---@return moonlet.Tensor
function ml.rope(x, table, interleaved) end

---softmax(q k' scale) v by heads: q (B, H, T, d), k and v (B, KV heads, S, d), the last query beside the last key. With
---`pages`, a table of whole numbers (rows, n), k and v are pools of pages (pages, KV heads, positions, d), and those of
---row slots[b] hold a sequence's keys in order (b itself unless given): the first query is at position start[b], and
---what lies behind the last is none. Queries from count[b] on, where given, are none and give 0. With `offsets` (n + 1),
---q is (1, H, N, d), and so are k and v without pages: sequence r has tokens offsets[r] to offsets[r + 1] - 1.
---@param q moonlet.Tensor
---@param k moonlet.Tensor
---@param v moonlet.Tensor
---@param pages moonlet.Tensor|nil
---@param slots moonlet.Tensor|nil
---@param start moonlet.Tensor|nil
---@param count moonlet.Tensor|nil
---@param offsets moonlet.Tensor|nil
---@param mask moonlet.Tensor|nil
---@param sinks moonlet.Tensor|nil
---@param scale number
---@param causal boolean|nil  true unless given
---@param window integer|nil  0 unless given
---@param softcap number|nil  0 unless given
---@return moonlet.Tensor
function ml.attention(q, k, v, pages, slots, start, count, offsets, mask, sinks, scale, causal, window, softcap) end

---Writes x (B, KV heads, T, d) to pages of a pool (pages, KV heads, positions, d): token t < count[b] of sequence b to
---its position start[b] + t, which lies in the page that the table `pages` (rows, n) has in row slots[b] (b itself
---unless given) for it. With `offsets` x is (1, KV heads, N, d), its sequences end to end, as in `attention`. Where it
---fails half way, or what it writes does, some entries may be written: those behind what a sequence held before are of
---no use then.
---@param pool moonlet.Tensor
---@param x moonlet.Tensor
---@param pages moonlet.Tensor
---@param slots moonlet.Tensor|nil
---@param start moonlet.Tensor
---@param count moonlet.Tensor|nil
---@param offsets moonlet.Tensor|nil
---@return moonlet.Tensor
function ml.cache_append(pool, x, pages, slots, start, count, offsets) end

---Writes values, of the same shape and dtype, over the storage of target: a state, or a view of one. It happens when
---something is evaluated next, which raises where it fails; the states that were to be written then have no values until
---they are assigned. What the next whole assignment writes over before anybody has read it is not made.
---@param target moonlet.Tensor
---@param values moonlet.Tensor
---@return moonlet.Tensor
function ml.assign(target, values) end

---Writes ids[b] to ring[b, position[b] mod n]; a negative position writes nothing.
---@param ring moonlet.Tensor
---@param ids moonlet.Tensor
---@param position moonlet.Tensor
---@return moonlet.Tensor
function ml.ring_push(ring, ids, position) end

---Ids in recent (B, n; negative: none) have positive logits divided by and negative ones multiplied by penalty, then
---presence and count times frequency subtracted. by_row (B, 3) float64 has all three for each row.
---@param logits moonlet.Tensor
---@param recent moonlet.Tensor
---@param penalty number|nil  1 unless given
---@param presence number|nil  0 unless given
---@param frequency number|nil  0 unless given
---@param by_row moonlet.Tensor|nil
---@return moonlet.Tensor
function ml.repeat_penalty(logits, recent, penalty, presence, frequency, by_row) end

---All but the k largest become -inf (ties with the k-th stay, and NaN); 0 keeps all. by_row (B) float64 has k for each
---row.
---@param logits moonlet.Tensor
---@param k integer|nil  0 unless given
---@param by_row moonlet.Tensor|nil
---@return moonlet.Tensor
function ml.top_k_mask(logits, k, by_row) end

---Keeps the likeliest entries whose exclusive cumulative probability is at most p: with 0 the likeliest alone, with 1
---all. by_row (B) float64 has p for each row.
---@param logits moonlet.Tensor
---@param p number|nil  1 unless given
---@param by_row moonlet.Tensor|nil
---@return moonlet.Tensor
function ml.top_p_mask(logits, p, by_row) end

---Keeps entries at least p times as likely as the likeliest. by_row (B) float64 has p for each row.
---@param logits moonlet.Tensor
---@param p number|nil  0 unless given
---@param by_row moonlet.Tensor|nil
---@return moonlet.Tensor
function ml.min_p_mask(logits, p, by_row) end

---logits / t. A row that float32 would not hold is moved so that its largest is 0, which leaves the probabilities as
---they are. by_row (B) float64 has t for each row; 0, and less than a normal float32, keeps the likeliest alone, of
---equal ones the first.
---@param logits moonlet.Tensor
---@param t number|nil  1 unless given
---@param by_row moonlet.Tensor|nil
---@return moonlet.Tensor
function ml.temperature(logits, t, by_row) end

---uint32 numbers from a key of two or three uint32 words by Philox 4x32-10: the same on every device. Of keys (B, words)
---each gives the entry of the first axis in its place what it gives alone.
---@param key moonlet.Tensor
---@param shape integer[]  sizes
---@return moonlet.Tensor
function ml.random_bits(key, shape) end

---Where the standard normal distribution, cut to low..high, has u (0 to 1, else NaN) of its probability below it; as
---exact in the tails as u is.
---@param u moonlet.Tensor
---@param low number|nil  -inf unless given
---@param high number|nil  inf unless given
---@return moonlet.Tensor
function ml.normal_quantile(u, low, high) end

---Per row of logits (B, V) the id whose cumulative probability first passes uniform[b], ids in order; entries of +inf
---share all of the probability. -1 where there is none to draw: NaN among the logits, or all of them -inf.
---@param logits moonlet.Tensor
---@param uniform moonlet.Tensor
---@return moonlet.Tensor
function ml.categorical(logits, uniform) end

---Runs fn(...) and frees every tensor made inside that is not returned (in tables too) or kept, on errors as well. fn
---may yield: what others make meanwhile is not the scope's.
---@param fn function
---@return any ...  what fn returns
function ml.scope(fn, ...) end

---Takes a tensor, or the tensors of a table, out of the scope that would free them. Returns its argument.
function ml.keep(x) end

---A function that records fn once for each combination of argument types (shape, dtype, layout, device), non-tensor
---values and default device, and from then on replays the plan. Of the values 2 and 2.0 are two: of integers x, x * 2 is
---integers and x * 2.0 float32. A state that it is given, a function, a weight in a file's blocks have a plan each,
---which is dropped once they are gone and another plan is made. So has a module, for as long as it holds what it held:
---its parameters are constants of the plan, and where one is another tensor, a field has another value, or training is
---switched, another plan is made. Other tables with a metatable (objects of whatever class) are an error. Tensors that
---fn reads without being given them (of a module, upvalues) are constants of the plan, with the value that they had when
---it was made, views of a state and what was still to be computed too: to see a new value, give them as arguments, or
---make them state that is written in place. A state that it captures stays for as long as the plan does, also when its
---handle is closed. What else fn reads without being given it (a number, whether a module trains) is what it was when
---the plan was made. Of what fn is given or captures it changes states alone in place. What fn draws it draws anew with
---every call, as it would uncompiled. An error that fn raises while it is recorded leaves all states as they were. Give
---what changes from call to call, such as a learning rate, as a tensor: a plain number makes a plan for each of its
---values. The plans that were used last are kept, with the memory that each works in.
---@param fn function  of tensors, trees of tensors, and plain values
---@param opts table|nil  plans: how many are kept (64)
---@return function
function ml.compile(fn, opts) end

---The plan of fn(...) as text. First, how many steps it has, how often threads wait for one another (barriers), the
---bytes of intermediates (the arena) and of outputs, and how many of both hold values at one time at the most. Then a
---line a step: what it is, dtype and shape of its first result, the bytes that it reads and writes, what it computes (of
---products the units, which share an input), what it saves over a step for each operation, the path of its module. At
---the end the bytes of all, and what each pass of the planner saved.
---@param fn function
---@return string
function ml.explain(fn, ...) end

---Runs fn(...), and gives as text how long the steps of each plan took that ran meanwhile, compiled or not: the plans by
---the time that they took, and of each the ten kinds of step that took longest (steps that compute the same on the same
---shapes are one kind), with their time in a run, how many there are, the bytes a second that they read and write
---(beside what attention reads from caches), the share that this is of what the device's memory gives, where that is
---known, and operations a second of products. Steps run one after another then, with clocks between them, so that a run
---takes longer than it does otherwise.
---@param fn function
---@return string
function ml.profile(fn, ...) end

---Runs fn(...). Nothing is recorded for gradients in this version.
---@param fn function
function ml.no_grad(fn, ...) end

---x, which no gradient passes.
---@param x moonlet.Tensor
---@return moonlet.Tensor
function ml.stop_gradient(x) end

---A function that gives the gradient of fn. No operation has one in this version: calling it raises "unsupported".
---@param fn function  of tensors or trees of tensors
---@return function
function ml.grad(fn) end

---The same with fn's value before the gradient; "unsupported" in this version.
---@param fn function
---@return function
function ml.value_and_grad(fn) end

---fn's value and its vector-Jacobian products; "unsupported" in this version.
---@param fn function
---@param primals table  fn's arguments
function ml.vjp(fn, primals) end

---fn's value and its Jacobian-vector products; "unsupported" in this version.
---@param fn function
---@param primals table  fn's arguments
function ml.jvp(fn, primals) end

---fn, computed again when gradients are taken; "unsupported" in this version.
function ml.checkpoint() end

---fn with a gradient of its own; "unsupported" in this version.
function ml.custom_vjp() end

---Whether x is a tensor.
---@param x any
---@return boolean
function ml.is_tensor(x) end

---A flag to hand to generate: token:cancel() ends it.
---@return table  {cancelled = false, cancel = function}
function ml.cancel_token() end

---A tokenizer from a directory, a tokenizer.json, a .gguf file, or a hub name in the local cache; nil, message, code
---when it cannot be. Tokens that tokenizer_config.json, special_tokens_map.json and added_tokens.json list beside a
---tokenizer.json are added as transformers adds them: with their flags, and with the next free ids where the vocabulary
---has none for them.
---@param path string
---@return moonlet.Tokenizer|nil
function ml.tokenizer(path) end

---Another engine behind the same model interface: {load = function(path, opts)}.
---@param name string  for load's option `backend`
---@param backend table
function ml.register_backend(name, backend) end

---Names of the engines that models can run on.
---@return string[]
function ml.backends() end

---A model: its config, family, weights, tokenizer and template. nil, message, code when it cannot be.
---@param path string  a directory with config.json, a .gguf file, or a hub name in the local cache
---@param opts table|nil  {device, dtype, precision = "fast", family, max_context, threads, progress, strict, random, quantize, backend, cache_dtype, share}. `share` is what `m:share()` of another engine of this process gave: its weights are used, and the path may be left out: load {share = token}.
---@return moonlet.Model|nil, string|nil, string|nil
function ml.load(path, opts) end

---Models in a directory: {path, format, model_type} each; nil, message, code when it cannot be read. Without a
---directory, those in the local hub cache, which also have their hub name as `name`.
---@param dir string|nil
---@return table[]|nil
function ml.discover(dir) end

---Tensors of a .safetensors file by name, and the file's metadata, {text = text}.
---@param path string
---@return table|nil tensors
---@return table|string metadata  or the message of the failure
---@return string|nil code
function ml.load_safetensors(path) end

---Tensors of a GGUF file by name, and its metadata; block formats stay quantised (`:dequantize()`), shapes row-major.
---@param path string
---@return table|nil tensors
---@return table|string metadata  or the message of the failure
---@return string|nil code
function ml.load_gguf(path) end

---Writes tensors in the order of `order`, or of their names. True, or nil, message, code.
---@param path string
---@param tensors table<string, moonlet.Tensor>
---@param metadata table<string, string>|nil
---@param order string[]|nil  names
function ml.save_safetensors(path, tensors, metadata, order) end

---Writes a tensor as NumPy reads it. True, or nil, message, code.
---@param path string
---@param x moonlet.Tensor
function ml.save_npy(path, x) end

---The tensor of a .npy file; nil, message, code when it cannot be read.
---@param path string
---@return moonlet.Tensor|nil
function ml.load_npy(path) end

---The value of a tensor of one element: an integer, a float or a boolean, by its dtype.
---@param x moonlet.Tensor
function ml.item(x) end

---The values as nested lists; of a tensor without axes the value itself.
---@param x moonlet.Tensor
function ml.tolist(x) end

---The values in row-major order, little-endian, as a string; of block formats the blocks of the file.
---@param x moonlet.Tensor
function ml.tobytes(x) end

---Computes the tensors given, together, and keeps their values.
function ml.eval(...) end

---Counts since the start, and how many tensors there are now, those included that others are yet to be computed of.
---@return table: {traces, plans, replays, allocations, bytes_moved, tensors}
function ml.stats() end

---The devices that this process can use.
---@return table[]: {name, description, threads, memory, available, asynchronous, missing} each
function ml.devices() end

---What is known of a device; raises "device" when it is not there.
---@return table: {name, description, threads, memory, available, asynchronous, missing}; memory in bytes, and what of it is free now (0: unknown), missing: operations without a kernel
function ml.device(name) end

---The device on which tensors are made; with a name, sets it. Within a callback or a module's forward, where it is that
---of the model or of what the module is given, a name holds until that returns; in a function that is compiled it is an
---error.
---@return string: its name
function ml.default_device(name) end

---How many threads compute; with a number, sets it.
---@return integer
function ml.threads(n) end

---@class moonlet.Module
local module = {}

---Calls fn(owner, key, value, path) for every parameter, in order of assignment.
function module:each_parameter(fn) end

---{path = tensor}, and the paths in order.
function module:parameters() end

---A list of {path, module}, this one first.
function module:named_modules() end

---Replaces parameters by path: {["layers.0.weight"] = tensor}. All of them, or where one is unknown or does not fit (by
---its shape, or integers for floats), which is an error, none.
---@param tree table<string, moonlet.Tensor>
function module:update(tree) end

---Calls fn(tensor, path) for every parameter and keeps what it returns.
function module:apply(fn) end

---Replaces parameters by the tensors of a .safetensors file: by all of them, or where one is unknown or does not fit by
---none. The module, or nil, message, code.
---@param path string
function module:load_weights(path) end

---Writes the parameters to a .safetensors file, each in its own dtype; it holds no block formats. True, or nil, message,
---code.
---@param path string
function module:save_weights(path) end

---Switches training on (Dropout drops), here and in all modules below.
---@param on boolean|nil  true unless given
function module:train(on) end

---Switches training off.
function module:eval() end

---Whether training is on.
---@return boolean
function module:is_training() end

---The float dtype to compute in, here and in all modules below: what embeddings give, and so what is computed of it.
---Norms, products, rotary embeddings and attention keep the dtype that they are given, whatever that of their weights.
---@param dtype string  "float32", "float16" or "bfloat16"
function module:compute_in(dtype) end

---The name by which plans and messages call the module.
---@param name string
function module:set_name(name) end

---@class moonlet.nn
local nn = {}

---A parameter that has a shape and no value yet, for a field of a module.
---@param shape integer[]
---@param kind string  "matrix" (of products and look-ups, or one an expert; packed when it is loaded) or "vector"
---@param init string|nil  "normal" unless given; "ones", "zeros"
function nn.parameter(shape, kind, init, ...) end

---A class of modules: `local C = nn.class "C"; function C:init(...) end; function C:forward(...) end`.
---@param name string
function nn.class(name) end

---The class of a family: the model types that it serves, to be returned by its file.
---@param model_type string
---@param ... string  further model types
function nn.model(model_type, ...) end

---y = x W' + b; weight (outputs, inputs): opts {bias = false}.
function nn.Linear(inputs, outputs, opts, ...) end

---Rows of weight (count, size) by id, in the dtype that `compute_in` names; `as_linear` multiplies with the same weight
---(tied output head).
function nn.Embedding(count, size, ...) end

---x / rms(x) times (offset + weight): opts {eps = 1e-5, offset = 0}.
function nn.RMSNorm(size, opts, ...) end

---(x - mean) / deviation times weight, plus bias: opts {eps = 1e-5, bias = true}.
function nn.LayerNorm(size, opts, ...) end

---Runs fn(...), which builds a model: what its modules share is shared with no other, so that it can be freed with it.
---@param fn function|table  what makes the model: a function, or a module's class
function nn.build(fn, ...) end

---Rotary embedding of heads of `size` elements: opts {theta = 10000, scaling, partial = 1, interleaved = false}.
---`scaling` is the config's table; of each head the share `partial` is turned.
function nn.RoPE(size, opts, ...) end

---While training, sets elements to 0 with probability p (0.5) and scales the rest by 1 / (1 - p); else x as it is.
function nn.Dropout(p, ...) end

---Whether x is a module.
---@return boolean
function nn.is_module(x) end

---Whether x is a parameter without a value.
---@return boolean
function nn.is_parameter(x) end

---@class moonlet.random
local random = {}

---A key: two uint32 words.
---@param seed integer
---@return moonlet.Tensor
function random.key(seed) end

---Begins the sequence of calls that name no key anew.
---@param seed integer
function random.seed(seed) end

---n keys that are independent of each other and of the numbers of the one given. A list.
---@param key moonlet.Tensor
---@param n integer|nil  2 unless given
---@return moonlet.Tensor[]
function random.split(key, n) end

---Uniform in [low, high): high never occurs, whatever the dtype rounds to. With low = high that one number. Of float64
---numbers in [0, 1) all multiples of 2^-53 occur, of others those of 2^-24.
---@param shape integer[]|integer
---@param opts table|nil  {low = 0, high = 1, dtype = "float32", key}
---@return moonlet.Tensor
function random.uniform(shape, opts) end

---Normally distributed. A negative `std` is an error.
---@param shape integer[]|integer
---@param opts table|nil  {mean = 0, std = 1, dtype = "float32", key}
---@return moonlet.Tensor
function random.normal(shape, opts) end

---Of the standard normal distribution between low and high, both included; exact in the tails too.
---@param low number
---@param high number
---@param shape integer[]|integer
---@param opts table|nil  {dtype = "float32", key}
---@return moonlet.Tensor
function random.truncated_normal(low, high, shape, opts) end

---Integers from low up to, not including, high; a dtype that does not hold them all is an error, and so are 2^63 of them
---or more. Of n < 2^32 integers any set has its share of the probability to within 2^-33, of more to within 2^-67.
---@param low integer
---@param high integer
---@param shape integer[]|integer
---@param opts table|nil  {dtype = "int32", key}
---@return moonlet.Tensor
function random.randint(low, high, shape, opts) end

---True with probability p, which is compared with 53 random bits. A number that is no probability is an error; of a
---tensor, entries above 1 count as 1, and those below 0 and NaN as 0.
---@param p number|moonlet.Tensor
---@param shape integer[]|integer|nil  p's unless given
---@param opts table|nil  {key}
---@return moonlet.Tensor
function random.bernoulli(p, shape, opts) end

---Of the Gumbel distribution: -log(-log(u)).
---@param shape integer[]|integer
---@param opts table|nil  {dtype = "float32", key}
---@return moonlet.Tensor
function random.gumbel(shape, opts) end

---Per row of logits (..., V) one 0-based id, with the probabilities of softmax; entries of +inf share all of the
---probability. -1 where there is nothing to draw: NaN among the logits, or all of them -inf.
---@param logits moonlet.Tensor
---@param opts table|nil  {key}
---@return moonlet.Tensor  (...) int32
function random.categorical(logits, opts) end

---0 .. n-1 in random order (int32), or the entries of a tensor along its first axis.
---@param n integer|moonlet.Tensor
---@param opts table|nil  {key}
---@return moonlet.Tensor
function random.permutation(n, opts) end

---@class moonlet.Session
---@field tokens integer[]
---@field length integer
---@field messages table[]
---@field forgotten integer
local s = {}

---Adds a user turn and gives the answer's tokens; the answer becomes a turn when it ends, as far as it came. A turn that
---failed, or was cancelled before any text came, is taken back.
---@param text string
---@param opts table|nil  as of m:generate, and {defaults = "model"}
function s:send(text, opts) end

---Goes on behind what the session holds; `prompt` is put there as it is (text gets special tokens at the session's
---beginning alone).
---@param prompt string|integer[]
---@param opts table|nil  as of m:generate
function s:generate(prompt, opts) end

---Keeps the first n tokens. Messages stay: the next `send` computes again what they need.
---@param n integer
function s:trim(n) end

---Takes back the last turn, and gives what the user said in it; nil where there is none. The tokens of those before it
---stay.
---@return string|nil
function s:undo() end

---A session that goes on from here on its own. Nothing of the cache is copied until one of the two writes to it.
function s:fork() end

---Writes tokens, messages and the cache to a safetensors file, with a fingerprint of model and tokenizer. True, or nil,
---message, code.
---@param path string
function s:save(path) end

---Whether a file holds a saved session, of whatever model.
---@param path string
---@return boolean
function s:is_saved(path) end

---Goes on with a saved session: true, or nil, message, code ("mismatch" where model or tokenizer is another), the
---session being as it was. Options such as tools stay those of this session. A cache of another precision is computed
---again.
---@param path string
function s:load(path) end

---Frees the cache; twice is harmless. An answer that makes a token now, and closes the session from a callback, frees it
---when that returns.
function s:close() end

---@class moonlet.Stream
local stream = {}

---The text that this id completes, "" while a character is incomplete.
function stream:push(id) end

---The rest of the text, mostly "": an incomplete character as U+FFFD.
function stream:finish() end

---Frees the stream; twice is harmless.
function stream:close() end

---@class moonlet.Tokenizer
local t = {}

---Text to 0-based ids.
---@param text string
---@param opts table|nil  {add_special_tokens = true, parse_special = true}
---@return integer[]
function t:encode(text, opts) end

---Ids to text. Ids from 0 that the vocabulary has not, as of rows that a model has beyond it, have none.
---@param ids integer[]
---@param opts table|nil  {skip_special_tokens = false}
---@return string
function t:decode(ids, opts) end

---An object with :push(id) -> text ("" while a character is incomplete) and :finish() -> the rest.
---@param opts table|nil  {skip_special_tokens = false}
function t:stream(opts) end

---The id of a piece as the vocabulary spells it, or nil.
---@param piece string
---@return integer|nil
function t:id(piece) end

---The piece of an id as the vocabulary spells it, or nil.
---@param id integer
---@return string|nil
function t:piece(id) end

---Frees it; twice is harmless.
function t:close() end

---Messages to text through the checkpoint's template; nil, message, code when the template refuses.
---@param messages table  a list of {role =, content =}
---@param opts table|nil  {add_generation_prompt, continue_final_message, tools, documents, template (a name or a source), template_vars, now}
---@return string|nil
function t:apply_chat_template(messages, opts) end

---Messages to ids: text of messages never becomes a control token, unless parse_special.
---@param messages table
---@param opts table|nil  apply_chat_template's, and {parse_special = false}
---@return integer[]
function t:encode_chat(messages, opts) end

---Texts of the special tokens.
function t:control_tokens() end

---Ids that end an answer: those that end a text, and the one with which the chat template closes a turn.
---@param template string|nil  a name or a source; the checkpoint's own otherwise
---@return integer[]
function t:ends(template) end

---@class moonlet.Template
local template = {}

---Renders the template. The second result tells where text came from, as lists of byte ranges {first, last}: `data`
---(with the option `track`) and `generation` (with the option `generation`: text inside {% generation %}).
---@param vars table  names to values: Lua's own, `null`, and tables: with the metatable name "moonlet.json.array" or "moonlet.json.object" (walked by `pairs`) or unmarked (a sequence or empty: a list; text keys: a dict in their order)
---@param options moonlet.RenderOptions?
---@return string? text
---@return table|string info  or the message of the failure
---@return string? code
function template:render(vars, options) end

---@class moonlet.CancelToken
local token = {}

---Ends what the token was handed to; `token.cancelled` is true from then on.
function token:cancel() end

---@class moonlet.Tensor
---@field shape integer[]
---@field ndim integer
---@field size integer
---@field dtype string
---@field device string
---@field nbytes integer
local x = {}

---The last two axes with zeros above diagonal k.
---@param k integer|nil  0 unless given
---@return moonlet.Tensor
function x:tril(k) end

---The last two axes with zeros below diagonal k.
---@param k integer|nil  0 unless given
---@return moonlet.Tensor
function x:triu(k) end

---Axes first to last as one.
---@param first integer|nil  1 unless given
---@param last integer|nil  -1 unless given
---@return moonlet.Tensor
function x:flatten(first, last) end

---One axis as several of the sizes given, one of which may be -1.
---@param axis integer
---@param shape integer[]
---@return moonlet.Tensor
function x:unflatten(axis, shape) end

---Without axes of size 1: those named, or all.
---@param axes integer|integer[]|nil
---@return moonlet.Tensor
function x:squeeze(axes) end

---With axes of size 1 at the places that they have in the result.
---@param axes integer|integer[]
---@return moonlet.Tensor
function x:expand_dims(axes) end

---Two axes exchanged.
---@param a integer
---@param b integer
---@return moonlet.Tensor
function x:swapaxes(a, b) end

---One axis moved to another place, the others keeping their order.
---@param from integer
---@param to integer
---@return moonlet.Tensor
function x:moveaxis(from, to) end

---The same values in row-major storage of their own.
---@return moonlet.Tensor
function x:contiguous() end

---Parts along an axis, a list: n equal ones, or parts that end at the positions given (inclusive; the last part is the
---rest).
---@param parts integer|integer[]
---@param axis integer|nil  1 unless given
---@return moonlet.Tensor[]
function x:split(parts, axis) end

---In reverse order along the axes named, or all.
---@param axes integer|integer[]|nil
---@return moonlet.Tensor
function x:flip(axes) end

---Moved by `shift` places along an axis, what leaves at one end coming in at the other; of the flattened values without
---one.
---@param shift integer
---@param axis integer|nil
---@return moonlet.Tensor
function x:roll(shift, axis) end

---Repeated as a whole: counts for the last axes.
---@param counts integer|integer[]
---@return moonlet.Tensor
function x:tile(counts) end

---Each entry n times in a row along an axis; of the flattened values without one.
---@param n integer
---@param axis integer|nil
---@return moonlet.Tensor
function x:repeat_interleave(n, axis) end

---Edges of `value` around it.
---@param widths integer[]|integer[][]  one pair {before, after} for all axes, or a list of as many pairs as axes
---@param value number|nil  0 unless given
---@return moonlet.Tensor
function x:pad(widths, value) end

---Of a vector the matrix that has it on diagonal k, of a matrix its diagonal k.
---@param k integer|nil  0 unless given; 1 is the diagonal above
---@return moonlet.Tensor
function x:diag(k) end

---Heads apart: (B, T, n d) -> (B, n, T, d).
---@param n integer
---@return moonlet.Tensor
function x:split_heads(n) end

---Heads together: (B, n, T, d) -> (B, T, n d).
---@return moonlet.Tensor
function x:merge_heads() end

---Not below low and not above high; either may be nil.
---@param low number|moonlet.Tensor|nil
---@param high number|moonlet.Tensor|nil
---@return moonlet.Tensor
function x:clip(low, high) end

---x to the power y.
---@return moonlet.Tensor
function x:power(y) end

---NaN and infinities replaced: 0 and the dtype's largest and smallest numbers unless given.
---@param nan number|nil
---@param high number|nil  for infinity
---@param low number|nil  for minus infinity
---@return moonlet.Tensor
function x:nan_to_num(nan, high, low) end

---Inverse of the error function, to about 1e-6 of the value; infinite at -1 and 1, NaN beyond.
---@return moonlet.Tensor
function x:erfinv() end

---The device or dtype named: x:to "float16", x:to "cpu".
---@param what string
---@return moonlet.Tensor
function x:to(what) end

---Values of a quantised or packed weight as float32.
---@return moonlet.Tensor
function x:dequantize() end

---A weight (outputs, inputs) in the layout that products on its device read fastest, the same values: `linear`,
---`linear_transposed`, `embedding`, `dequantize`, `unpack` and reading take it, every other operation refuses it. Values
---of blocks are read from what `dequantize` gives. Of float32, bfloat16 or float16, or of blocks as a file has them. One
---of (experts, outputs, inputs) is what `gather_linear` reads: `dequantize`, `unpack` and reading take it too, and
---`w[i]` is the i-th expert's matrix, in the same storage.
---@param opts table|nil  {precision = "exact"}: "fast" lets products round what they multiply with quantised weights
---@return moonlet.Tensor
function x:pack(opts) end

---A packed weight in the layout that it had before: floats, or a file's blocks.
---@return moonlet.Tensor
function x:unpack() end

---A copy of x in storage of its own, which `assign` and in-place operations write. `assign` to a view of it writes the
---part that the view shows, and where an operation had nothing to do (`astype` to the dtype that x has) what it gave is
---such a view; the view keeps the values that it showed, and an in-place operation on it changes that handle alone.
---@return moonlet.Tensor
function x:state() end

---Entry at 1-based positions: x:at(i, j) is x[i][j].
---@param ... integer
---@return moonlet.Tensor
function x:at(...) end

---Entries of x along an axis at 0-based `index`, a tensor, a table or a number; the axis is replaced by index's shape.
---@param index moonlet.Tensor|table|integer
---@param axis integer|nil  1 unless given
---@return moonlet.Tensor
function x:take(index, axis) end

---Per position, the entry of x along `axis` that `index` (0-based, as many axes as x) names.
---@param index moonlet.Tensor|table
---@param axis integer|nil  -1 unless given
---@return moonlet.Tensor
function x:take_along_axis(index, axis) end

---The same as take_along_axis.
---@param index moonlet.Tensor|table
---@param axis integer|nil  -1 unless given
---@return moonlet.Tensor
function x:gather(index, axis) end

---x with `values` written along `axis` at 0-based `index` (as many axes as x); of an index named twice the last value
---stays.
---@param index moonlet.Tensor|table
---@param values moonlet.Tensor|number  broadcast to index's shape
---@param axis integer|nil  -1 unless given
---@return moonlet.Tensor
function x:put_along_axis(index, values, axis) end

---The same as put_along_axis.
---@param index moonlet.Tensor|table
---@param values moonlet.Tensor|number
---@param axis integer|nil  -1 unless given
---@return moonlet.Tensor
function x:scatter(index, values, axis) end

---x with `values` added along `axis` at 0-based `index`; entries named twice get both.
---@param index moonlet.Tensor|table
---@param values moonlet.Tensor|number  broadcast to index's shape
---@param axis integer|nil  -1 unless given
---@return moonlet.Tensor
function x:scatter_add(index, values, axis) end

---x with the entries of a slice replaced.
---@param ranges table  as of slice: {first, last, step} for each axis, 1-based, inclusive
---@param values moonlet.Tensor|number  broadcast to the slice's shape
---@return moonlet.Tensor
function x:slice_update(ranges, values) end

---Entries of x's row-major values at offset + i1 stride1 + i2 stride2 + ..; a copy.
---@param shape integer[]
---@param strides integer[]|nil  in elements; those of row-major order unless given
---@param offset integer|nil  in elements, 0 unless given
---@return moonlet.Tensor
function x:as_strided(shape, strides, offset) end

---Values along an axis in an order in which entry k (0-based) is where sorting would put it: sorted, here. A k that the
---axis does not have is an error.
---@param k integer
---@param axis integer|nil  -1 unless given
---@return moonlet.Tensor
function x:partition(k, axis) end

---0-based indices of `partition`.
---@param k integer
---@param axis integer|nil  -1 unless given
---@return moonlet.Tensor
function x:argpartition(k, axis) end

---Where values would have to go into x (one axis, ascending, NaN last) to keep its order: the number of smaller entries,
---int32 (int64 where that does not hold their number). Plain numbers, and those of a table, are compared as they are.
---@param values moonlet.Tensor|table|number
---@param opts table|nil  {right = false}: behind equal entries
---@return moonlet.Tensor
function x:searchsorted(values, opts) end

---The different values in ascending order, for each entry of x the 0-based index of its value, and how often each comes
---(int32). Reads x; NaN is one value.
---@return moonlet.Tensor values
---@return moonlet.Tensor inverse  in x's shape
---@return moonlet.Tensor counts
function x:unique() end

---Matrix product over the last two axes, leading axes broadcast; a vector is a row on the left, a column on the right.
---Integers give integers (exact below 2^53), integers with floats floats.
---@param b moonlet.Tensor
---@return moonlet.Tensor
function x:matmul(b) end

---Sum of products over pairs of axes: the last n of a with the first n of b, or {{axes of a}, {axes of b}}.
---@param b moonlet.Tensor
---@param axes integer|integer[][]|nil  2 unless given
---@return moonlet.Tensor
function x:tensordot(b, axes) end

---Products of all entries of x with all entries of y: (x.size, y.size).
---@param y moonlet.Tensor
---@return moonlet.Tensor
function x:outer(y) end

---Sum of products over the last axes of both.
---@param y moonlet.Tensor
---@return moonlet.Tensor
function x:inner(y) end

---alpha a b + beta c, a b being the matrix product; float16 and bfloat16 are computed in float32 and rounded once.
---@param a moonlet.Tensor
---@param b moonlet.Tensor
---@param alpha number|nil  1 unless given
---@param beta number|nil  1 unless given
---@return moonlet.Tensor
function x:addmm(a, b, alpha, beta) end

---Convolution along the middle axis: x (B, T, inputs), weight (outputs, width, inputs / groups) -> (B, T', outputs),
---with T' = (T + 2 padding - dilation (width - 1) - 1) // stride + 1. The weight is not reversed (cross-correlation).
---float16 and bfloat16 are computed in float32 and rounded once.
---@param weight moonlet.Tensor
---@param opts table|nil  {stride = 1, padding = 0, dilation = 1, groups = 1}
---@return moonlet.Tensor
function x:conv1d(weight, opts) end

---The same values in row-major storage of their own.
---@return moonlet.Tensor
function x:copy() end

---The values converted to `dtype`; floats are truncated towards zero into integers (NaN is 0; what lies outside is taken
---to the nearest 64-bit integer, then wrapped).
---@param dtype string  dtype
---@return moonlet.Tensor
function x:astype(dtype) end

---Minus x.
---@return moonlet.Tensor
function x:neg() end

---Absolute value.
---@return moonlet.Tensor
function x:abs() end

----1, 0 or 1.
---@return moonlet.Tensor
function x:sign() end

---x times x.
---@return moonlet.Tensor
function x:square() end

---e to the power x.
---@return moonlet.Tensor
function x:exp() end

---exp(x) - 1, exact for small x.
---@return moonlet.Tensor
function x:expm1() end

---Natural logarithm.
---@return moonlet.Tensor
function x:log() end

---log(1 + x), exact for small x.
---@return moonlet.Tensor
function x:log1p() end

---Logarithm to base 2.
---@return moonlet.Tensor
function x:log2() end

---Square root.
---@return moonlet.Tensor
function x:sqrt() end

---1 / sqrt(x).
---@return moonlet.Tensor
function x:rsqrt() end

---1 / x.
---@return moonlet.Tensor
function x:reciprocal() end

---Sine, x in radians.
---@return moonlet.Tensor
function x:sin() end

---Cosine, x in radians.
---@return moonlet.Tensor
function x:cos() end

---Tangent, x in radians.
---@return moonlet.Tensor
function x:tan() end

---Hyperbolic sine.
---@return moonlet.Tensor
function x:sinh() end

---Hyperbolic cosine.
---@return moonlet.Tensor
function x:cosh() end

---Hyperbolic tangent.
---@return moonlet.Tensor
function x:tanh() end

---Inverse sine, in radians.
---@return moonlet.Tensor
function x:arcsin() end

---Inverse cosine, in radians.
---@return moonlet.Tensor
function x:arccos() end

---Inverse tangent, in radians.
---@return moonlet.Tensor
function x:arctan() end

---Error function.
---@return moonlet.Tensor
function x:erf() end

---1 / (1 + exp(-x)).
---@return moonlet.Tensor
function x:sigmoid() end

---x sigmoid(x).
---@return moonlet.Tensor
function x:silu() end

---x times the normal distribution function of x (exact, by erf).
---@return moonlet.Tensor
function x:gelu() end

---GELU by its tanh approximation.
---@return moonlet.Tensor
function x:gelu_tanh() end

---The larger of x and 0.
---@return moonlet.Tensor
function x:relu() end

---Largest integer not above x.
---@return moonlet.Tensor
function x:floor() end

---Smallest integer not below x.
---@return moonlet.Tensor
function x:ceil() end

---Nearest integer, halves to even.
---@return moonlet.Tensor
function x:round() end

---Whether x is not a number.
---@return moonlet.Tensor
function x:isnan() end

---Whether x is infinite.
---@return moonlet.Tensor
function x:isinf() end

---Whether x is neither infinite nor NaN.
---@return moonlet.Tensor
function x:isfinite() end

---Whether x is zero.
---@return moonlet.Tensor
function x:logical_not() end

---a + b.
---@param b moonlet.Tensor
---@return moonlet.Tensor
function x:add(b) end

---a - b.
---@param b moonlet.Tensor
---@return moonlet.Tensor
function x:sub(b) end

---a times b.
---@param b moonlet.Tensor
---@return moonlet.Tensor
function x:mul(b) end

---a / b; integers give float32.
---@param b moonlet.Tensor
---@return moonlet.Tensor
function x:div(b) end

---floor(a / b); an integer divided by zero gives 0. Floats as NumPy: (a - a % b) / b.
---@param b moonlet.Tensor
---@return moonlet.Tensor
function x:floordiv(b) end

---The remainder of a by b with the sign of b, exact; an integer modulo zero gives 0.
---@param b moonlet.Tensor
---@return moonlet.Tensor
function x:mod(b) end

---a to the power b; an integer to a negative power is truncated towards zero.
---@param b moonlet.Tensor
---@return moonlet.Tensor
function x:pow(b) end

---The larger; NaN when either is NaN; of 0.0 and -0.0 either.
---@param b moonlet.Tensor
---@return moonlet.Tensor
function x:maximum(b) end

---The smaller; NaN when either is NaN; of 0.0 and -0.0 either.
---@param b moonlet.Tensor
---@return moonlet.Tensor
function x:minimum(b) end

---The angle of the point (b, a), in radians.
---@param b moonlet.Tensor
---@return moonlet.Tensor
function x:arctan2(b) end

---log(exp(a) + exp(b)).
---@param b moonlet.Tensor
---@return moonlet.Tensor
function x:logaddexp(b) end

---a = b, elementwise. Lua's own == compares handles and is false for two tensors of equal values: a:eq(b):all():item()
---says whether all are equal.
---@param b moonlet.Tensor
---@return moonlet.Tensor
function x:eq(b) end

---a differs from b.
---@param b moonlet.Tensor
---@return moonlet.Tensor
function x:ne(b) end

---a < b.
---@param b moonlet.Tensor
---@return moonlet.Tensor
function x:lt(b) end

---a <= b.
---@param b moonlet.Tensor
---@return moonlet.Tensor
function x:le(b) end

---a > b.
---@param b moonlet.Tensor
---@return moonlet.Tensor
function x:gt(b) end

---a >= b.
---@param b moonlet.Tensor
---@return moonlet.Tensor
function x:ge(b) end

---Both are not zero.
---@param b moonlet.Tensor
---@return moonlet.Tensor
function x:logical_and(b) end

---One is not zero.
---@param b moonlet.Tensor
---@return moonlet.Tensor
function x:logical_or(b) end

---Bits set in both integers.
---@param b moonlet.Tensor
---@return moonlet.Tensor
function x:bitwise_and(b) end

---Bits set in either integer.
---@param b moonlet.Tensor
---@return moonlet.Tensor
function x:bitwise_or(b) end

---Bits set in one integer alone.
---@param b moonlet.Tensor
---@return moonlet.Tensor
function x:bitwise_xor(b) end

---a moved up by b bits.
---@param b moonlet.Tensor
---@return moonlet.Tensor
function x:left_shift(b) end

---a moved down by b bits, the sign kept.
---@param b moonlet.Tensor
---@return moonlet.Tensor
function x:right_shift(b) end

---a where condition is not zero, else b.
---@param a moonlet.Tensor
---@param b moonlet.Tensor
---@return moonlet.Tensor
function x:where(a, b) end

---The values in row-major order under another shape; one -1 is worked out.
---@param shape integer[]  sizes
---@return moonlet.Tensor
function x:reshape(shape) end

---Axes in another order; without `axes`, reversed.
---@param axes integer|integer[]|nil  axis or axes; all unless given
---@return moonlet.Tensor
function x:transpose(axes) end

---Axes of size 1, and missing leading ones, repeated.
---@param shape integer[]  sizes
---@return moonlet.Tensor
function x:broadcast_to(shape) end

---A range of each axis.
---@param ranges integer[][]  {first, last, step} for each axis
---@return moonlet.Tensor
function x:slice(ranges) end

---Sum over axes; of bool, int8, uint8, int16 and uint16 as int32, in float32 for narrow floats. Integers wrap.
---@param axis integer|integer[]|nil  axis or axes; all unless given
---@param keepdims boolean|nil  false unless given
---@return moonlet.Tensor
function x:sum(axis, keepdims) end

---Mean over axes; of integers as float32, from a sum that does not wrap.
---@param axis integer|integer[]|nil  axis or axes; all unless given
---@param keepdims boolean|nil  false unless given
---@return moonlet.Tensor
function x:mean(axis, keepdims) end

---Product over axes, in the dtypes of `sum`.
---@param axis integer|integer[]|nil  axis or axes; all unless given
---@param keepdims boolean|nil  false unless given
---@return moonlet.Tensor
function x:prod(axis, keepdims) end

---Largest over axes; NaN wins.
---@param axis integer|integer[]|nil  axis or axes; all unless given
---@param keepdims boolean|nil  false unless given
---@return moonlet.Tensor
function x:max(axis, keepdims) end

---Smallest over axes; NaN wins.
---@param axis integer|integer[]|nil  axis or axes; all unless given
---@param keepdims boolean|nil  false unless given
---@return moonlet.Tensor
function x:min(axis, keepdims) end

---Whether none is zero.
---@param axis integer|integer[]|nil  axis or axes; all unless given
---@param keepdims boolean|nil  false unless given
---@return moonlet.Tensor
function x:all(axis, keepdims) end

---Whether one is not zero.
---@param axis integer|integer[]|nil  axis or axes; all unless given
---@param keepdims boolean|nil  false unless given
---@return moonlet.Tensor
function x:any(axis, keepdims) end

---0-based index of the first largest along one axis, or of the flattened values.
---@param axis integer|integer[]|nil  axis or axes; all unless given
---@param keepdims boolean|nil  false unless given
---@return moonlet.Tensor
function x:argmax(axis, keepdims) end

---0-based index of the first smallest along one axis, or of the flattened values.
---@param axis integer|integer[]|nil  axis or axes; all unless given
---@param keepdims boolean|nil  false unless given
---@return moonlet.Tensor
function x:argmin(axis, keepdims) end

---Variance over axes: the mean of squared distances from the mean, with n - `ddof` (0 at the least) for n.
---@param axis integer|integer[]|nil  axis or axes; all unless given
---@param keepdims boolean|nil  false unless given
---@param ddof number|nil  0 unless given
---@return moonlet.Tensor
function x:var(axis, keepdims, ddof) end

---Standard deviation over axes: the square root of `var`, which a dtype narrower than float64 need not hold itself.
---@param axis integer|integer[]|nil  axis or axes; all unless given
---@param keepdims boolean|nil  false unless given
---@param ddof number|nil  0 unless given
---@return moonlet.Tensor
function x:std(axis, keepdims, ddof) end

---Euclidean norm over axes: the square root of the sum of squares, which a dtype narrower than float64 need not hold
---itself.
---@param axis integer|integer[]|nil  axis or axes; all unless given
---@param keepdims boolean|nil  false unless given
---@return moonlet.Tensor
function x:norm(axis, keepdims) end

---log of the sum of exp over axes.
---@param axis integer|integer[]|nil  axis or axes; all unless given
---@param keepdims boolean|nil  false unless given
---@return moonlet.Tensor
function x:logsumexp(axis, keepdims) end

---Running sum along an axis, in the dtypes of `sum`.
---@param axis integer|nil  axis; -1 unless given
---@return moonlet.Tensor
function x:cumsum(axis) end

---Running product along an axis, in the dtypes of `sum`.
---@param axis integer|nil  axis; -1 unless given
---@return moonlet.Tensor
function x:cumprod(axis) end

---Running maximum along an axis.
---@param axis integer|nil  axis; -1 unless given
---@return moonlet.Tensor
function x:cummax(axis) end

---Running minimum along an axis.
---@param axis integer|nil  axis; -1 unless given
---@return moonlet.Tensor
function x:cummin(axis) end

---Ascending along an axis; NaN last.
---@param axis integer|nil  axis; -1 unless given
---@return moonlet.Tensor
function x:sort(axis) end

---0-based indices that sort along an axis, ascending and stable; NaN last.
---@param axis integer|nil  axis; -1 unless given
---@return moonlet.Tensor
function x:argsort(axis) end

---The k largest along an axis, in descending order: values, and their 0-based indices. NaN is never among the largest;
---of equal ones the first comes first.
---@param k integer
---@param axis integer|nil  axis; -1 unless given
---@return moonlet.Tensor values
---@return moonlet.Tensor indices
function x:topk(k, axis) end

---exp(x - max) over its sum, along an axis.
---@param axis integer|nil  axis; -1 unless given
---@return moonlet.Tensor
function x:softmax(axis) end

---log of softmax, along an axis.
---@param axis integer|nil  axis; -1 unless given
---@return moonlet.Tensor
function x:log_softmax(axis) end

---x / sqrt(mean(x^2) + eps) times (offset + weight), along the last axis.
---@param weight moonlet.Tensor|nil
---@param eps number|nil  1e-5 unless given
---@param offset number|nil  0 unless given
---@return moonlet.Tensor
function x:rms_norm(weight, eps, offset) end

---(x - mean) / sqrt(variance + eps) times weight plus bias, along the last axis.
---@param weight moonlet.Tensor|nil
---@param bias moonlet.Tensor|nil
---@param eps number|nil  1e-5 unless given
---@return moonlet.Tensor
function x:layer_norm(weight, bias, eps) end

---x times the transpose of weight (outputs, inputs), which may be quantised; in the dtype of x, sums in float32. Of
---bfloat16 by bfloat16, numbers smaller than 2^-126 may count as 0.
---@param weight moonlet.Tensor
---@return moonlet.Tensor
function x:linear(weight) end

---y times weight (outputs, inputs), which may be quantised: what a gradient sends back through linear.
---@param weight moonlet.Tensor
---@return moonlet.Tensor
function x:linear_transposed(weight) end

---Rows of weight (which may be quantised) at 0-based ids, as float32, float16 or bfloat16: what is computed of them has
---that dtype.
---@param ids moonlet.Tensor
---@param dtype string|nil  dtype; float32 unless given
---@return moonlet.Tensor
function x:embedding(ids, dtype) end

---Rows of x times the transposes of the matrices of weight (experts, outputs, inputs), which may be quantised, that
---0-based ids name: x (..., inputs) with ids (..., k) gives (..., k, outputs), each row multiplied by k experts; with
---ids (...) it gives (..., outputs), each row by its own; in the dtype of x, sums in float32, as `linear` gives them.
---Only experts that are named are read.
---@param weight moonlet.Tensor
---@param ids moonlet.Tensor
---@return moonlet.Tensor
function x:gather_linear(weight, ids) end

---Cosines and sines (B, T, 2 n) of whole positions (B, T) times n frequencies, both times scale.
---@param frequencies moonlet.Tensor
---@param scale number|nil  1 unless given
---@return moonlet.Tensor
function x:rope_table(frequencies, scale) end

---Rotates the first 2 n entries of the last axis of x (B, H, T, d) by the table's angles; pairs are (i, i + n), or
---neighbours when interleaved.
---@param table moonlet.Tensor
---@param interleaved boolean|nil  false unless given
---@return moonlet.Tensor
function x:rope(table, interleaved) end

---softmax(q k' scale) v by heads: q (B, H, T, d), k and v (B, KV heads, S, d), the last query beside the last key. With
---`pages`, a table of whole numbers (rows, n), k and v are pools of pages (pages, KV heads, positions, d), and those of
---row slots[b] hold a sequence's keys in order (b itself unless given): the first query is at position start[b], and
---what lies behind the last is none. Queries from count[b] on, where given, are none and give 0. With `offsets` (n + 1),
---q is (1, H, N, d), and so are k and v without pages: sequence r has tokens offsets[r] to offsets[r + 1] - 1.
---@param k moonlet.Tensor
---@param v moonlet.Tensor
---@param pages moonlet.Tensor|nil
---@param slots moonlet.Tensor|nil
---@param start moonlet.Tensor|nil
---@param count moonlet.Tensor|nil
---@param offsets moonlet.Tensor|nil
---@param mask moonlet.Tensor|nil
---@param sinks moonlet.Tensor|nil
---@param scale number
---@param causal boolean|nil  true unless given
---@param window integer|nil  0 unless given
---@param softcap number|nil  0 unless given
---@return moonlet.Tensor
function x:attention(k, v, pages, slots, start, count, offsets, mask, sinks, scale, causal, window, softcap) end

---Writes x (B, KV heads, T, d) to pages of a pool (pages, KV heads, positions, d): token t < count[b] of sequence b to
---its position start[b] + t, which lies in the page that the table `pages` (rows, n) has in row slots[b] (b itself
---unless given) for it. With `offsets` x is (1, KV heads, N, d), its sequences end to end, as in `attention`. Where it
---fails half way, or what it writes does, some entries may be written: those behind what a sequence held before are of
---no use then.
---@param x moonlet.Tensor
---@param pages moonlet.Tensor
---@param slots moonlet.Tensor|nil
---@param start moonlet.Tensor
---@param count moonlet.Tensor|nil
---@param offsets moonlet.Tensor|nil
---@return moonlet.Tensor
function x:cache_append(x, pages, slots, start, count, offsets) end

---Writes values, of the same shape and dtype, over the storage of target: a state, or a view of one. It happens when
---something is evaluated next, which raises where it fails; the states that were to be written then have no values until
---they are assigned. What the next whole assignment writes over before anybody has read it is not made.
---@param values moonlet.Tensor
---@return moonlet.Tensor
function x:assign(values) end

---Writes ids[b] to ring[b, position[b] mod n]; a negative position writes nothing.
---@param ids moonlet.Tensor
---@param position moonlet.Tensor
---@return moonlet.Tensor
function x:ring_push(ids, position) end

---Ids in recent (B, n; negative: none) have positive logits divided by and negative ones multiplied by penalty, then
---presence and count times frequency subtracted. by_row (B, 3) float64 has all three for each row.
---@param recent moonlet.Tensor
---@param penalty number|nil  1 unless given
---@param presence number|nil  0 unless given
---@param frequency number|nil  0 unless given
---@param by_row moonlet.Tensor|nil
---@return moonlet.Tensor
function x:repeat_penalty(recent, penalty, presence, frequency, by_row) end

---All but the k largest become -inf (ties with the k-th stay, and NaN); 0 keeps all. by_row (B) float64 has k for each
---row.
---@param k integer|nil  0 unless given
---@param by_row moonlet.Tensor|nil
---@return moonlet.Tensor
function x:top_k_mask(k, by_row) end

---Keeps the likeliest entries whose exclusive cumulative probability is at most p: with 0 the likeliest alone, with 1
---all. by_row (B) float64 has p for each row.
---@param p number|nil  1 unless given
---@param by_row moonlet.Tensor|nil
---@return moonlet.Tensor
function x:top_p_mask(p, by_row) end

---Keeps entries at least p times as likely as the likeliest. by_row (B) float64 has p for each row.
---@param p number|nil  0 unless given
---@param by_row moonlet.Tensor|nil
---@return moonlet.Tensor
function x:min_p_mask(p, by_row) end

---logits / t. A row that float32 would not hold is moved so that its largest is 0, which leaves the probabilities as
---they are. by_row (B) float64 has t for each row; 0, and less than a normal float32, keeps the likeliest alone, of
---equal ones the first.
---@param t number|nil  1 unless given
---@param by_row moonlet.Tensor|nil
---@return moonlet.Tensor
function x:temperature(t, by_row) end

---uint32 numbers from a key of two or three uint32 words by Philox 4x32-10: the same on every device. Of keys (B, words)
---each gives the entry of the first axis in its place what it gives alone.
---@param shape integer[]  sizes
---@return moonlet.Tensor
function x:random_bits(shape) end

---Where the standard normal distribution, cut to low..high, has u (0 to 1, else NaN) of its probability below it; as
---exact in the tails as u is.
---@param low number|nil  -inf unless given
---@param high number|nil  inf unless given
---@return moonlet.Tensor
function x:normal_quantile(low, high) end

---Per row of logits (B, V) the id whose cumulative probability first passes uniform[b], ids in order; entries of +inf
---share all of the probability. -1 where there is none to draw: NaN among the logits, or all of them -inf.
---@param uniform moonlet.Tensor
---@return moonlet.Tensor
function x:categorical(uniform) end

---The value of a tensor of one element: an integer, a float or a boolean, by its dtype.
function x:item() end

---The values as nested lists; of a tensor without axes the value itself.
function x:tolist() end

---The values in row-major order, little-endian, as a string; of block formats the blocks of the file.
function x:tobytes() end

---Lets go of the value at once; using the tensor afterwards raises. Twice is harmless.
function x:close() end

return ml
