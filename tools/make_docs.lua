-- make_docs.lua [FOLDER]: writes docs/lua/*.md, docs/lua/moonlet.d.lua and lua/docs.lua (below FOLDER, . unless given).
--
-- Sources: the table of operations (src/tensor/ops.def, as the running binary has it) and the `---` comments of
-- lua/*.lua.
-- A comment block that stands directly above a function (or a field that is one) describes it: text, then @param and
-- @return lines. Functions without a block are not part of the surface and appear nowhere. Run it by the binary that
-- was just built: `make docs`.
local core = require "moonlet.core"
local ml = require "moonlet"
local util = require "moonlet.util"

local root = arg[1] or "."

local function read(path)
  local file <close> = assert(io.open(path, "rb"))
  return file:read "a"
end

-- ---- what there is: entries {name, method, params, returns, text, area} ----

local entries, by_name = {}, {}

local function add(entry)
  local key = entry.owner .. (entry.method and ":" or ".") .. entry.name
  if by_name[key] or (entry.owner == "ml" and ml[entry.name] == nil) then return end
  by_name[key] = entry
  entries[#entries + 1] = entry
end

-- Which page tells of an operation or a method, where its kind or file does not say so.
local areas = {}
local of_networks = "softmax log_softmax rms_norm layer_norm linear embedding rope_table rope attention silu gelu "
  .. "gelu_tanh relu"
for name in of_networks:gmatch "%S+" do areas[name] = "fn" end
for name in ("repeat_penalty top_k_mask top_p_mask min_p_mask temperature categorical"):gmatch "%S+" do
  areas[name] = "sampling"
end
for name in ("cache_append assign ring_push"):gmatch "%S+" do areas[name] = "tensors" end
areas.random_bits = "random"
local of_axes = "sum mean prod max min all any argmax argmin logsumexp cumsum cumprod cummax cummin var std norm"
for name in of_axes:gmatch "%S+" do
  areas[name] = "reductions"
end
for name in ("take take_along_axis put_along_axis slice sort argsort topk"):gmatch "%S+" do areas[name] = "indexing" end
for name in ("clip power nan_to_num erfinv"):gmatch "%S+" do areas[name] = "elementwise" end

-- One block of --- lines.
local function parse_block(lines)
  local entry = {params = {}, returns = {}, text = {}}
  local in_return = false
  for _, line in ipairs(lines) do
    local name, optional, rest = line:match "^@param%s+([%w_.]+)(%??)%s+(.*)$"
    local returned = line:match "^@return%s+(.*)$"
    local kind = line:match "^@type%s+(.*)$"
    if name then
      in_return = false
      local type_text, note = rest:match "^(.-)%s%s+(.*)$"
      entry.params[#entry.params + 1] = {name = name .. optional, type = type_text or rest, note = note}
    elseif returned then
      entry.returns[#entry.returns + 1] = returned
      in_return = true
    elseif kind then entry.kind = kind
    elseif line:find "^%s%s" and in_return then -- goes on with the value above
      entry.returns[#entry.returns] = entry.returns[#entry.returns] .. " " .. line:match "^%s*(.*)$"
    elseif line:find "^%s%s" and #entry.params > 0 then -- goes on with the parameter above
      local last = entry.params[#entry.params]
      last.note = (last.note and last.note .. " " or "") .. line:match "^%s*(.*)$"
    elseif not line:find "^@" then entry.text[#entry.text + 1] = line end
  end
  entry.text = table.concat(entry.text, " "):gsub("%s+", " ")
  return entry
end

-- `---@type fun(a: T, b: U): R` of a field.
local function read_fun(entry)
  local params, returned = entry.kind:match "^fun%((.-)%)%s*:?%s*(.*)$"
  for name, kind in (params or ""):gmatch "([%w_]+)%s*:%s*([^,]+)" do
    entry.params[#entry.params + 1] = {name = name, type = kind}
  end
  if returned and returned ~= "" then entry.returns[1] = returned end
end

-- owners: what a file's local names are called outside: {M = "ml", Model = "m"}; a name with a colon in front has
-- methods.
local function read_file(path, area, owners)
  local block, source = {}, read(path) .. "\n"
  for line in source:gmatch "(.-)\n" do
    local comment = line:match "^%-%-%-(.*)$"
    if comment then block[#block + 1] = comment
    else
      local owner, separator, name, args = line:match "^function%s+([%w_]+)([.:])([%w_]+)(%b())"
      local field_owner, field = line:match "^([%w_]+)%.([%w_]+)%s*="
      local class = line:match '^local%s+([%w_]+)%s*=%s*M%.class'
      local public = owners[owner or field_owner or ""]
      local found = name or field or class
      if #block > 0 and (public or (class and owners.class)) and found and not found:find "^_" then
        local entry = parse_block(block)
        if entry.kind then read_fun(entry) end
        if class then
          entry.owner, entry.name = owners.class, class
          entry.args = source:match("\nfunction " .. class .. ":init(%b())") or "(...)"
        else
          entry.owner, entry.name = public:gsub("^:", ""), name or field
          entry.method = public:find "^:" ~= nil
          entry.args = args
          if entry.method and separator == "." then entry.args = args:gsub("^%([%w_]+%s*,?%s*", "(") end
        end
        if not entry.args then
          local names = {}
          for i, p in ipairs(entry.params) do names[i] = p.name:gsub("%?$", "") end
          entry.args = "(" .. table.concat(names, ", ") .. ")"
        end
        entry.area = area == "tensors" and areas[entry.name] or area
        local is_function = name or class or (entry.kind and entry.kind:find "^fun")
        if entry.text ~= "" and is_function then add(entry) end
      end
      block = {}
    end
  end
end

local types = {T = "moonlet.Tensor", W = "moonlet.Tensor", ["T?"] = "moonlet.Tensor|nil", ["T*"] = "moonlet.Tensor[]",
  f = "number", i = "integer", b = "boolean", A = "integer", X = "integer|integer[]|nil", S = "integer[]", D = "string",
  L = "integer[][]"}
local meanings = {A = "axis", X = "axis or axes; all unless given", S = "sizes", D = "dtype",
  L = "{first, last, step} for each axis"}
local of_kind = {unary = "elementwise", binary = "elementwise", ternary = "elementwise"}

local function read_operations()
  for _, op in ipairs(core.op_list()) do
    local entry = {name = op.name, owner = "ml", params = {}, returns = {"moonlet.Tensor"}, text = op.doc,
      area = areas[op.name] or of_kind[op.kind] or "tensors"}
    local names, results = {}, {}
    for name in op.signature:gmatch "([%w_]+):R" do results[#results + 1] = "moonlet.Tensor " .. name end
    if results[1] then entry.returns = results end
    for name, kind, default in op.signature:gmatch "([%w_]+):([%w?*]+)=?(%S*)" do
      if kind == "R" then break end
      names[#names + 1] = name
      local note = meanings[kind]
      if default ~= "" and default ~= "nil" then note = (note and note .. "; " or "") .. default .. " unless given" end
      local type_text = types[kind] .. ((default ~= "" and default ~= "nil") and "|nil" or "")
      entry.params[#entry.params + 1] = {name = name, type = type_text, note = note}
    end
    entry.args = "(" .. table.concat(names, ", ") .. ")"
    entry.tensor_first = op.signature:find "^[%w_]+:[TW]%f[^%w*?]" ~= nil
    if entry.text ~= "" and not by_name["ml:" .. entry.name] and not by_name["x:" .. entry.name] then add(entry) end
  end
end

read_file("lua/tensor.lua", "tensors", {ml = "ml", methods = ":x"})
read_file("lua/indexing.lua", "indexing", {ml = "ml", methods = ":x"})
read_file("lua/einsum.lua", "products", {ml = "ml", methods = ":x"})
read_operations()
read_file("lua/compile.lua", "evaluation", {M = "ml"})
read_file("lua/cancel.lua", "evaluation", {M = "ml", Token = ":token"})
read_file("lua/load.lua", "models", {M = "ml"})
read_file("lua/model.lua", "models", {Model = ":m"})
read_file("lua/generate.lua", "models", {Generation = ":g"})
read_file("lua/session.lua", "sessions", {Session = ":s"})
read_file("lua/sample.lua", "sampling", {M = "S"})
read_file("lua/tokenizer.lua", "text", {Tokenizer = ":t"})
read_file("lua/templates/jinja.lua", "text", {M = "jinja", Template = ":template"})
read_file("lua/templates/chat.lua", "text", {M = "chat"})
read_file("lua/nn.lua", "nn", {M = "nn", Module = ":module", class = "nn"})
read_file("lua/fn.lua", "fn", {M = "fn"})
read_file("lua/random.lua", "random", {M = "random"})
read_file("lua/files.lua", "files", {M = "ml"})

-- ---- what C brings, beside the operations: written here, since ops.def has no rows for it ----

local function native(area, owner, method, name, args, text, returned)
  add {owner = owner, method = method, name = name, args = args, text = text, area = area, params = {},
    returns = {returned}}
end
native("tensors", "x", true, "item", "()",
  "The value of a tensor of one element: an integer, a float or a boolean, by its dtype.")
native("tensors", "x", true, "tolist", "()", "The values as nested lists; of a tensor without axes the value itself.")
native("tensors", "x", true, "tobytes", "()",
  "The values in row-major order, little-endian, as a string; of block formats the blocks of the file.")
native("tensors", "x", true, "close", "()",
  "Lets go of the value at once; using the tensor afterwards raises. Twice is harmless.")
native("text", "stream", true, "push", "(id)",
  "The text that this id completes, \"\" while a character is incomplete.")
native("text", "stream", true, "finish", "()", "The rest of the text, mostly \"\": an incomplete character as U+FFFD.")
native("text", "stream", true, "close", "()", "Frees the stream; twice is harmless.")
native("evaluation", "ml", false, "eval", "(...)", "Computes the tensors given, together, and keeps their values.")
native("evaluation", "ml", false, "stats", "()",
  "Counts since the start, and how many tensors there are now, those included that others are yet to be computed of.",
  "table: {traces, plans, replays, allocations, bytes_moved, tensors}")
native("memory", "ml", false, "devices", "()", "The devices that this process can use.",
  "table[]: {name, description, threads, memory, available, asynchronous, missing} each")
native("memory", "ml", false, "device", "(name)", "What is known of a device; raises \"device\" when it is not there.",
  "table: {name, description, threads, memory, available, asynchronous, missing}; memory in bytes, and what of it " ..
    "is free now (0: unknown), missing: operations without a kernel")
native("memory", "ml", false, "default_device", "(name)", "The device on which tensors are made; with a name, sets it. "
  .. "Within a callback or a module's forward, where it is that of the model or of what the module is given, a name "
  .. "holds until that returns; in a function that is compiled it is an error.",
  "string: its name")
native("memory", "ml", false, "threads", "(n)", "How many threads compute; with a number, sets it.", "integer")
local of_memory = {
  active = "Bytes that live tensors hold.",
  peak = "The largest number of bytes held at once since the last reset_peak.",
  cached = "Bytes kept for reuse.", reset_peak = "Begins to measure the peak anew.",
  limit = "The largest number of bytes that tensors may hold; with a number, sets it. Beyond it, \"limit\" is " ..
    "raised; 0, as at first, is no limit.",
  cache_limit = "The largest number of bytes kept for reuse; with a number, sets it.",
  clear = "Frees what is kept for reuse.",
}
for _, name in ipairs(util.sorted_keys(of_memory)) do
  if core.memory[name] then
    native("memory", "memory", false, name, name:find "limit" and "(bytes)" or "()", of_memory[name])
  end
end
local function known(name, args, text)
  if core.json[name] then native("files", "json", false, name, args, text) end
end
known("decode", "(text)", "The value of a JSON text; nil, message, code when it is none. Null is json.null, and an "
  .. "object keeps the order of its keys.")
known("encode", "(value, opts)", "The JSON text of a value. Raises on NaN and on what JSON cannot say.")
known("array", "(table)", "Marks a table as a JSON array, also when it is empty, and returns it.")
known("object", "(table)", "Marks a table as a JSON object, also when it is empty, and returns it.")

-- ---- writing ----

local pages = {
  {"tensors", "Tensors", [[
`local ml = require "moonlet"`. A function `ml.NAME(x, ...)` whose first argument is a tensor is also the method
`x:NAME(...)`. Operations are lazy: a value is computed when it is read, or by `ml.eval`. Parameters can be given in
order, or the last ones by name in a table: `x:sum {axis = 2, keepdims = true}`. Names that a function does not know,
arguments beyond its last and names in a table that is a list (`ml.zeros {3, dtype = "int8"}`) are errors.

Positions are 1-based, and -1 is the last: axes, `x[i]`, slices (inclusive). What a tensor holds is data and
0-based: `argmax`, `topk`'s indices, the index tensors of `take`, `gather`, `scatter`.

Fields: `x.shape` (a fresh table), `x.ndim`, `x.size`, `x.dtype`, `x.device`, `x.nbytes`, and
`x.layout` ("strided"; of weights also "packed" for products and "blocks" as files have them). `#x` is the size of the
first axis, and `x[i]` its i-th entry, a tensor; `x[#x + 1]` is nil, so that `ipairs` ends, and other positions out of
range raise, as do both for a tensor without axes, whose value is `x:item()`. Operators: `+ - * / // % ^` and unary
minus, elementwise, broadcasting; comparisons are methods (`x:lt(y)`). Lua's own `==` and `~=` ask whether two handles
are the same one, so that tensors of equal values differ, and a tensor from every number; `<` and `<=` raise. In a
condition a tensor is true whatever it holds: write `if x:eq(y):all():item() then`. Entries are not assigned:
`slice_update` and `put_along_axis` give changed copies.

Each elementwise operation has a form that ends in `_` (`x:add_(y)`, `x:clip_(0, 1)`), and so have slice_update,
scatter, scatter_add and put_along_axis: the handle holds the new value from then on, in its shape and dtype. Views
and copies taken before keep what they had.

Dtypes: where two meet, the result is the smallest that holds both integers (uint64 with a signed one: the larger of
the two, uint64 where it is the larger), the wider float (float32 of float16 and bfloat16), and the float of an integer
and a float. A plain number takes the tensor's dtype; but a float beside integers is float32, an integer beside booleans
int32 (int64 where it has to be). A plain integer that the tensor's dtype does not hold is compared by its value, and an
error where the result would have to hold it. Booleans count as int32 in arithmetic. Division and functions such as
`exp` give float32 of integers and booleans. float16 and bfloat16 are computed in float32 and rounded once; integers
wrap. [Beside NumPy](numpy.md) lists what differs there.

What is raised is an object: `err.code` is a word ("mismatch" for shapes that do not fit, "usage" for arguments that
are none, "limit" and "memory" when a value does not fit into memory), `err.message` the text with the place in front;
`tostring(err)`, `print(err)` and `..` give the text. `item` and `tolist` give uint64 from 2^63 on as Lua's integers,
which are negative then; printing shows the number.]]},
  {"elementwise", "Elementwise operations",
    "Operands are tensors or numbers, and broadcast; each operation but `astype`, `copy` and `where` has an in-place "
      .. "form that ends in `_`. See [tensors](tensors.md)."},
  {"reductions", "Reductions and statistics",
    "Over the axes named, or all. See [tensors](tensors.md) for how axes are counted."},
  {"indexing", "Looking up, writing, ordering", [[
Positions are 1-based, indices held in tensors and tables 0-based. `x:slice {{first, last, step}, ...}` takes what there
is of a range, as NumPy does: of three entries `{2, 100}` are the last two, `{-100, 2}` the first two, `{7, 9}` none. A
first position or a step of 0, what is no integer, and more than three entries or more ranges than axes are errors.]]},
  {"products", "Products", nil},
  {"numpy", "Beside NumPy", [[
Tensors compute what NumPy 2 computes (ml_dtypes for bfloat16): dtypes, shapes and bits, functions such as `exp` and
sums of floats within a few units of the last place (`logsumexp` of float32 and narrower within those of the largest
element and 1, which is more than of a result near 0). A NaN that an operation gives may have either sign and any
payload. This is all that is meant to differ; `make check-numbers` holds the two against each other and counts the cases
of each entry.

**Booleans.** They count as int32 in arithmetic, running extremes included, where NumPy keeps bool or refuses; of
shifts of booleans the result is bool, where NumPy's is int8.

**Integers with floats.** The result has the float's dtype: float32 of int32 and float32, float16 of int32 and float16,
where NumPy goes to float64.

**Plain numbers.** Beside booleans plain integers are int32 (int64 where they have to be), beside integers and booleans
plain floats are float32, but float64 in comparisons; NumPy takes int64 and float64. So do `tensor`, `arange`,
`linspace` and `tri` by themselves; `tensor` of an integer beyond int32 is an error without a dtype, `arange` takes
int64.

**Functions of integers.** `/`, functions such as `exp`, `mean`, `var`, `std`, `norm` and `logsumexp` give float32 of
integers and booleans, where NumPy gives float64 (float16 of small ones).

**uint64 with signed integers.** Arithmetic of them is uint64, with int64 int64, where NumPy's is float64; comparisons
are by value in both.

**float16 with bfloat16.** They meet in float32, and bfloat16 meets every integer; NumPy refuses float16, and integers
of more than 8 bits. Integers and float64 become bfloat16 in one rounding; ml_dtypes rounds them to float32 first.

**Sums and products.** `sum`, `prod`, `cumsum` and `cumprod` of booleans, int8, uint8, int16 and uint16 are int32; of
other integers they keep the dtype. NumPy gives int64 or uint64.

**Indices and counts.** `argmax`, `argsort`, `topk`, `searchsorted`, `unique` give int32 where that holds all of them,
where NumPy gives int64 always.

**Floats out of an integer dtype's range.** Converted, they become the nearest 64-bit integer, which wraps to the dtype,
and NaN becomes 0; NumPy's result depends on the machine. Written as plain numbers (`slice_update` and the like)
they are an error.

**Negative powers.** An integer to a negative power is truncated towards zero, where NumPy raises.

**Fractions.** `tensor`, `full` and `pad` refuse a plain number with a fraction for integers and booleans, where NumPy
truncates it.

**In place.** `x:add_(y)` and the like convert the value to x's dtype, where NumPy refuses a value of another kind.

**Zeros.** Of 0.0 and -0.0 a maximum or minimum may be either; NumPy's depends on the machine.

**Indices out of range.** They are errors, negative ones too, which NumPy counts from the end.

**Matrix products of integers.** `matmul`, `einsum` and `tensordot` of integers are exact as long as sums of magnitudes
stay below 2^53; NumPy's wrap.]]},
  {"evaluation", "Evaluation: plans, compiled functions, cancelling", [[
Operations record what is to be computed; reading a value, or `ml.eval`, makes a plan of it and runs that. No
operation has a gradient in this version: `grad`, `value_and_grad`, `vjp` and `jvp` raise "unsupported", and name the
operation that was asked.]]},
  {"models", "Models", [[
`m = assert(ml.load(path, opts))`: what opens a path returns `nil, message, code` when it cannot. A hub name
(`org/name`) is looked for in the local cache of the Hugging Face hub, as its own tools leave it (`HF_HUB_CACHE`,
`HF_HOME`, `XDG_CACHE_HOME`); nothing is downloaded, and `ml.discover()` lists what is there.

Options of `load`: `device`, `dtype` (to compute in: "float32", the default, "bfloat16" or "float16"), `precision`
("fast", the default, rounds activations to 8-bit blocks against quantised weights, and keeps the keys and values of a
model that has such weights in float16 where float32 is computed in; "exact" keeps all of them in `dtype`),
`cache_dtype` (that of keys and values, whatever the others say), `family` (a Lua file, a module, or a model class),
`max_context`
(tokens; beyond the model's own it is a warning, and the model's stays), `progress` (a function of a share
from 0 to 1 and a name), `strict` (a key of the config that nobody reads is an error),
`random` (a seed: weights at true shapes from the config alone), `quantize` ({bits = 4 or 8}, or {format}: rounds the
matrices of a directory's float weights, or of random ones). `device`, the default one unless given, is this model's
alone; `threads` is what `ml.threads` sets: it holds for every model from then on, and a load without it leaves it as it
is (to begin with, all cores).

With `dtype` "bfloat16" or "float16" what embeddings give, norms, products, attention and caches have that dtype: each
operation rounds its result to it, sums inside are float32. Norm weights and rotary angles stay float32; logits are
rounded like every product, and made float32 for sampling, `logits` and `perplexity`. bfloat16 is the faster one where
the processor multiplies it and the weights have it. float16 ends at 65,504: a model whose values go beyond, such as
Gemma 3, has no logits in it, which is an error that says so. What a dtype costs in quality a text tells:

    moonlet perplexity -m MODEL --file book.txt --dtype bfloat16

    for tok in m:generate("The Moon is", {max_tokens = 20, temperature = 0.7, seed = 1}) do io.write(tok.text) end
    print(m:complete({{role = "user", content = "Why do tides rise?"}}, {max_tokens = 60}))

`m.info`: `{model_type, family, layers, hidden_size, vocab_size, parameters, quantization, dtype (that of most
of the weights), compute_dtype, context (tokens), bytes, path, warnings}`; `quantization`, nil of weights in no block
format, is
`{format (the one with most bytes), bits, group_size, formats (all of them)}`. `m.metrics`, of the last call that
computed something: `{prompt_tokens, cached_tokens, generated_tokens, prefill_seconds, decode_seconds, total_seconds,
prefill_tokens_per_second, decode_tokens_per_second, peak_bytes, active_bytes, finish_reason}`; `finish_reason` is
"stop", "length", "cancelled", "deadline" or "error", and nil of `logits`, `perplexity`, `score`, `classify` and
`embed`, whose `cached_tokens` are those computed once for several texts. Parts: `m.tokenizer`, `m.config`, `m.net`,
`m.generation_config` (empty where the checkpoint has none, as GGUF files), `m.device`.]]},
  {"sessions", "Sessions", [[
`s = m:session {system = "Be brief."}` keeps its cache from turn to turn: only what is new, or has changed, is
computed. `s.tokens` are the ids that it holds, `s.length` is how many, `s.messages` the conversation so far. A full
context raises "limit"; with `forget = true` the oldest turns leave the conversation instead, never the system text, and
`s.forgotten` counts them.

    for tok in s:send "Why do tides rise?" do io.write(tok.text) end
    for tok in s:send "And twice a day?" do io.write(tok.text) end

A second `s:send` ends an answer that is still on its way: its `finish_reason` is then "cancelled".]]},
  {"sampling", "Sampling", [[
`local S = require "moonlet.sample"`. `S.chain {...}` runs steps in the order written; behind the last, one id is drawn
(behind `S.greedy()` or `S.temperature(0)`, the likeliest is taken). Options of `generate` without a chain mean the
order of mlx-lm: bias and penalties, top-p, min-p, xtc, top-k, temperature.

    local chain = S.chain {S.repeat_penalty(1.1, 64), S.top_k(40), S.temperature(0.7)}
    for tok in m:generate("The Moon is", {sampler = chain, seed = 1}) do io.write(tok.text) end

`top_k = 0`, `min_p = 0` and `top_p = 1` change nothing; `top_p = 0` leaves the likeliest token. Among logits of +inf
the choice is even, one of -inf is never chosen. Where the model's logits hold a NaN or are all -inf, generation ends
with an error of code "corrupt"; where the steps leave nothing, of code "usage".

A function of your own, of `(logits, state)`, may stand anywhere, or be the sampler itself. It runs exactly once for
every token of every sequence, in Lua, with values to read, and gives new logits (1, V). The last step may give the id
instead, as a number or as integers (1). It may keep state of its own, yield and raise. Tensors that it is given or
makes live until it returns; `ml.keep(x)` keeps one for the next token. It gets

- `logits` (1, V) float32, as the steps before it leave them;

- `state.ids`, a list of the sequence's ids so far, the prompt's first;

- `state.recent` (1, n) int32, the last n of them, newest last, -1 where there are none yet; n is the chain's `last_n`,
  64 unless given, or the context's length where that is less;

- `state.uniform()` (1) float32, fresh random numbers in [0, 1) from the call's seed.

    local function colder(logits, state) -- a schedule: less and less is left to chance
      return logits * (1 + #state.ids / 100)
    end
    for tok in m:generate("The Moon is", {sampler = S.chain {S.top_p(0.9), colder}}) do io.write(tok.text) end

`S.traced(fn)` marks a function that is made of tensor operations alone. It is recorded once and becomes part of the
plan, so that no Lua runs between tokens: what it reads that is no tensor (a counter, the time) keeps the value that it
had then. It works on B rows, one a sequence: logits (B, V), `state.recent` (B, n), `state.uniform()` (B); it has no
`state.ids`, and reading a value in it is an error. Ids that it gives are integers (B).

    local fresh = S.traced(function(logits, state) -- never the same id twice in a row
      local last = state.recent:slice {{}, {-1, -1}} -- (B, 1)
      return ml.where(ml.arange(logits.shape[2]):eq(last), -math.huge, logits)
    end)

With the option `logprobs = n` a token has `logprob` and `top_logprobs`, a list of the n likeliest `{id, logprob}`, and
the result of `complete` has `logprobs`, a list of `{id, logprob, top_logprobs}` for its ids. They are natural
logarithms of the model's own probabilities, before bias, penalties, temperature and every other step, whatever token
was chosen; beside logits of +inf, which share alike, others have -inf. In fast mode, where activations are rounded to
8 bits against quantised weights, they are those of the model so computed: they differ a little
from the exact ones, which `load`'s `precision = "exact"` gives.]]},
  {"text", "Tokenizers and templates", [[
`t = m.tokenizer`, or `t = assert(ml.tokenizer(path))`. Fields: `t.vocab_size`, `t.bos_id`, `t.eos_ids` (every id that
ends a text), `t.chat_template`. Ids are 0-based.

Templates without a tokenizer: `local jinja = require "moonlet.templates.jinja"` compiles and renders any template,
`local chat = require "moonlet.templates.chat"` renders conversations as the reference does.]]},
  {"nn", "nn: modules", [[
`local nn = require "moonlet.nn"`. Fields of a module that are parameters or modules form its tree; their paths are
the names that checkpoints use, and the i-th member of a list has the component i - 1. See
[add-a-family](../add-a-family.md). A class is called to make a module, and a module is called to compute:
`m(x)`, by which plans and messages know its path. `m:forward(x)` computes the same and leaves m's part out of it.]]},
  {"fn", "fn: functions of model files", [[
`local fn = require "moonlet.fn"`. Entries of `ml` here are operations that models are made of; `fn` has rope, softmax,
log_softmax, silu, gelu, gelu_tanh and relu under the same name.]]},
  {"random", "Random numbers", [[
`ml.random`, or `require "moonlet.random"`. Each function takes `{key = k}`: the same key gives the same numbers. Of a
draw in float64 each number has 53 random bits, and all that follows is computed in float64; of other dtypes it has 24,
is computed in float32, and rounded to float16 or bfloat16 once.]]},
  {"files", "Files and JSON", [[
What opens, reads or writes a path returns `nil, message, code` when it cannot. `json` is `ml.json`, which has
`json.null` as well.]]},
  {"memory", "Memory and devices", [[
Devices are called `cpu`, `cuda:0`, `cuda:1` and so on; `cuda` is the first GPU. A build that was made without nvcc has
no kernels for GPUs, and says so where it is asked for one.

`memory` is `ml.memory`; its functions take a device's name last, and are about the default device without one.]]},
}

local function title(e)
  local call = (e.owner == "" and "" or e.owner .. (e.method and ":" or ".")) .. e.name .. e.args
  return call
end

-- The text of help(x): signature, description, parameters.
local function help_of(e)
  local out = {title(e), "  " .. e.text}
  for _, p in ipairs(e.params) do
    out[#out + 1] = ("    %s: %s%s"):format(p.name, p.type, p.note and ", " .. p.note or "")
  end
  for _, r in ipairs(e.returns) do out[#out + 1] = "  returns " .. r:gsub("%s%s+", ": ") end
  return table.concat(out, "\n")
end

-- Prose at most 118 columns wide.
local function wrap(text, indent)
  local lines, line = {}, indent or ""
  for word in text:gmatch "%S+" do
    if utf8.len(line) + utf8.len(word) + 1 > 118 and line:find "%S" then
      lines[#lines + 1] = line
      line = (indent or ""):gsub("%S", " ")
    end
    local space = line ~= "" and line:sub(-1) ~= " " and " " or ""
    line = line .. space .. word
  end
  lines[#lines + 1] = line
  return table.concat(lines, "\n")
end

local function write(path, text)
  local file <close> = assert(io.open(root .. "/" .. path, "wb"))
  assert(file:write(text))
end

local function entries_of(area)
  local list = {}
  for _, e in ipairs(entries) do
    if e.area == area then list[#list + 1] = e end
  end
  table.sort(list, function(a, b)
    if a.owner ~= b.owner and not (a.owner == "x" or a.owner == "ml") then return a.owner < b.owner end
    if a.owner ~= b.owner and not (b.owner == "x" or b.owner == "ml") then return a.owner < b.owner end
    return a.name < b.name
  end)
  return list
end

local function write_page(area, heading, about)
  local list = entries_of(area)
  local out = {"# " .. heading, "", "<!-- written by `make docs` from the sources; changes here are lost -->", ""}
  for paragraph in ((about or "") .. "\n\n"):gmatch "(.-)\n\n+" do
    local code = paragraph:find "^    "
    if paragraph ~= "" then out[#out + 1], out[#out + 2] = code and paragraph or wrap(paragraph), "" end
  end
  for _, e in ipairs(list) do
    out[#out + 1], out[#out + 2] = "## " .. title(e), ""
    out[#out + 1], out[#out + 2] = wrap(e.text), ""
    for _, p in ipairs(e.params) do
      out[#out + 1] = wrap(("`%s` %s%s"):format(p.name, p.type, p.note and ": " .. p.note or ""), "- ")
    end
    for _, r in ipairs(e.returns) do out[#out + 1] = wrap("returns " .. r:gsub("%s%s+", ": "), "- ") end
    if #e.params + #e.returns > 0 then out[#out + 1] = "" end
  end
  write("docs/lua/" .. area .. ".md", (table.concat(out, "\n"):gsub("%s+$", "")) .. "\n")
  return #list
end

local function write_index()
  local out = {"# The Lua reference", "", "<!-- written by `make docs` from the sources; changes here are lost -->", ""}
  for _, page in ipairs(pages) do out[#out + 1] = ("- [%s](%s.md)"):format(page[2], page[1]) end
  out[#out + 1] = ""
  out[#out + 1] = wrap("Editors that read LuaCATS annotations take them from [moonlet.d.lua](moonlet.d.lua). At "
    .. "the prompt, `help(ml.zeros)` prints an entry.")
  write("docs/lua/README.md", table.concat(out, "\n") .. "\n")
end

-- ---- lua/docs.lua ----

local function quoted(text) return (("%q"):format(text):gsub("\\\n", "\\n")) end

-- The text of help "TOPIC": what the page says first, and the calls that it explains.
local function topic_of(area, heading, about)
  local out = {heading, ""}
  for paragraph in ((about or "") .. "\n\n"):gmatch "(.-)\n\n+" do
    paragraph = paragraph:gsub("%[([^%]]+)%]%([^)]*%)", "%1") -- links
    if paragraph ~= "" then out[#out + 1], out[#out + 2] = paragraph, "" end
  end
  for _, e in ipairs(entries_of(area)) do out[#out + 1] = "  " .. title(e) end
  return table.concat(out, "\n")
end

local function write_docs()
  local texts = {}
  for _, e in ipairs(entries) do
    local text = help_of(e)
    texts[e.owner .. "." .. e.name] = text
    if e.owner == "x" and not e.name:find "_$" then texts["ml." .. e.name] = text end
    if texts[e.name] == nil or e.owner == "ml" or e.owner == "x" then texts[e.name] = text end
  end
  local out = {"---What help(x) prints, by name. Written by `make docs`; changes here are lost.",
    "-- luacheck: no max line length", "return {"}
  for _, key in ipairs(util.sorted_keys(texts)) do
    out[#out + 1] = ("  [%q] = %s,"):format(key, quoted(texts[key]))
  end
  out[#out + 1] = "  topics = {"
  for _, page in ipairs(pages) do
    local text = topic_of(page[1], page[2], page[3])
    out[#out + 1] = ("    {name = %q, title = %q, text = %s},"):format(page[1], page[2], quoted(text))
  end
  out[#out + 1] = "  },"
  out[#out + 1] = "}"
  write("lua/docs.lua", table.concat(out, "\n") .. "\n")
end

-- ---- docs/lua/moonlet.d.lua ----

local classes = {ml = "moonlet", x = "moonlet.Tensor", m = "moonlet.Model", s = "moonlet.Session",
  t = "moonlet.Tokenizer", g = "moonlet.Generation", nn = "moonlet.nn", fn = "moonlet.fn", S = "moonlet.sample",
  random = "moonlet.random",
  memory = "moonlet.memory", json = "moonlet.json", module = "moonlet.Module", jinja = "moonlet.jinja",
  template = "moonlet.Template", chat = "moonlet.chat", token = "moonlet.CancelToken", stream = "moonlet.Stream"}
local fields = {
  x = {"shape integer[]", "ndim integer", "size integer", "dtype string", "device string", "nbytes integer"},
  m = {"info table", "metrics table", "tokenizer moonlet.Tokenizer|nil", "config table", "net moonlet.Module",
    "generation_config table", "device string"},
  s = {"tokens integer[]", "length integer", "messages table[]", "forgotten integer"},
  ml = {"random moonlet.random", "memory moonlet.memory", "json moonlet.json", "version string"},
}

local function stub_of(e, owner, method)
  local out = {}
  for line in wrap(e.text):gmatch "[^\n]+" do out[#out + 1] = "---" .. line end
  local names = {}
  for name in e.args:gmatch "[%w_.]+" do names[#names + 1] = name end
  local skip = method and not e.method and 1 or 0 -- a function whose first argument becomes self
  if not method and e.method then
    table.insert(names, 1, "x")
    out[#out + 1] = "---@param x moonlet.Tensor"
  end
  local taken = {}
  for i = 1 + skip, #names do taken[names[i]] = true end
  for i, p in ipairs(e.params) do
    if i > skip and taken[p.name:gsub("%?$", "")] then
      out[#out + 1] = ("---@param %s %s%s"):format(p.name, p.type, p.note and "  " .. p.note or "")
    end
  end
  for _, r in ipairs(e.returns) do out[#out + 1] = "---@return " .. r end
  local list = table.concat(names, ", ", 1 + skip)
  out[#out + 1] = ("function %s%s%s(%s) end"):format(owner, method and ":" or ".", e.name, list)
  return table.concat(out, "\n")
end

local function write_stub()
  local out = {"---@meta", "---LuaCATS annotations for editors. Written by `make docs`; changes here are lost.", ""}
  local owners = {}
  for _, e in ipairs(entries) do owners[e.owner] = true end
  for _, owner in ipairs(util.sorted_keys(owners)) do
    out[#out + 1] = "---@class " .. (classes[owner] or "moonlet." .. owner)
    for _, field in ipairs(fields[owner] or {}) do out[#out + 1] = "---@field " .. field end
    out[#out + 1], out[#out + 2] = ("local %s = {}"):format(owner), ""
    for _, e in ipairs(entries) do
      if e.owner == owner then out[#out + 1], out[#out + 2] = stub_of(e, owner, e.method), "" end
      if owner == "x" and e.owner == "ml" and e.tensor_first then
        out[#out + 1], out[#out + 2] = stub_of(e, "x", true), ""
      end
      if owner == "ml" and e.owner == "x" and not e.text:find "^Lets go" and not e.name:find "_$" then
        out[#out + 1], out[#out + 2] = stub_of(e, "ml", false), ""
      end
    end
  end
  out[#out + 1] = "return ml"
  write("docs/lua/moonlet.d.lua", table.concat(out, "\n") .. "\n")
end

assert(os.execute(("mkdir -p '%s/docs/lua' '%s/lua'"):format(root, root)))
local count = 0
for _, page in ipairs(pages) do count = count + write_page(page[1], page[2], page[3]) end
write_index()
write_docs()
write_stub()
if count ~= #entries then error(("%d entries, %d on pages"):format(#entries, count)) end
print(("%d entries on %d pages"):format(count, #pages))
