-- Messages of misuse: each names the function that was called, the argument or option, what was expected and what was
-- found, at the caller's own line.
local ml = require "moonlet"
local fn = require "moonlet.fn"
local nn = require "moonlet.nn"
local S = require "moonlet.sample"
local tiny = require "tests.tiny"
local t = require "tests.lua.harness"

t.leak_check = function() return ml.memory.active() end

-- The whole message, behind the place of the caller.
local function says(call, message)
  local passed, err = pcall(call)
  t.ok(not passed, "an error")
  local place, text = tostring(err):match "^(%S+:%d+): (.*)$"
  t.eq(place and place:match "[^/]+$":match "^[^:]+", "test_messages.lua", "the caller's file")
  t.eq(text, message)
end

local function group(name, cases)
  t.test(name, function()
    for _, case in ipairs(cases) do says(case[1], case[2]) end
  end)
end

local function attend(opts) ml.attention(ml.ones {1, 1, 1, 4}, ml.ones {1, 1, 1, 4}, ml.ones {1, 1, 1, 4}, opts) end

local endless = setmetatable({}, {__index = function() return 1 end})

group("making", {
  {function() ml.zeros {-1} end, "zeros: shape: size 1: expected an integer from 0, found -1"},
  {function() ml.full(endless, 1) end,
    "full: shape: expected a list of sizes, found a table whose metatable gives it entries"},
  {function() ml.zeros "a" end, 'zeros: shape: expected a list of sizes, found "a"'},
  {function() ml.ones({2}, {dtype = "foo"}) end, 'ones: dtype: expected a name such as "float32", found "foo"'},
  {function() ml.full({2}) end, "full: value: expected a number, a boolean or a tensor, found nothing"},
  {function() ml.arange() end, "arange: stop: expected a finite number, found nothing"},
  {function() ml.eye(-1) end, "eye: n: expected an integer from 0, found -1"},
  {function() ml.from_bytes("abc", {1}, "float32") end, "from_bytes: expected 4 bytes, found 3"},
  {function() ml.from_bytes(3, {1}, "float32") end, "from_bytes: bytes: expected a string, found 3"},
  {function() ml.tensor {ml.ones {2}, ml.ones {2}} end,
    "tensor: expected numbers or booleans, found a tensor; ml.stack joins tensors"},
  {function() ml.random.normal "a" end, 'random.normal: shape: expected a list of sizes, found "a"'},
})

group("operations", {
  {function() ml.softmax "a" end, 'softmax: x: expected a tensor or a number, found "a"'},
  {function() ml.tril "a" end, 'tril: x: expected a tensor or a number, found "a"'},
  {function() return ml.zeros {2} + {} end, "add: b: expected a tensor or a number, found a table"},
  {function() ml.ones {3}:matmul(3) end, "matmul: expected one axis or more, found (3) and ()"},
  {function() ml.ones {3, 4}:unflatten(2, {3, -1}) end, "unflatten: shape (3, 4) does not fit (3, 3, -1)"},
  {function() ml.rms_norm(ml.ones {2}, nil, -1) end, "rms_norm: eps: expected 0 or more, found -1"},
  {function() ml.layer_norm(ml.ones {2}, {eps = -1}) end, "layer_norm: eps: expected 0 or more, found -1"},
  {function() ml.zeros {2}:matmul(ml.zeros {3}) end, "matmul: shapes (2) and (3): inner sizes 2 and 3 differ"},
  {function() ml.einsum("ij,jk->ik", ml.zeros {2, 2}, ml.zeros {2, 2}) end,
    "einsum: 1 arguments too many"},
  {function() ml.einsum("ij", ml.zeros {2, 2}) end,
    "einsum: operands: expected a list of tensors, {a, b}, found a tensor (2, 2), float32"},
  {function() ml.zeros {2}:sum "a" end, 'sum: axis: expected an integer, found "a"'},
  {function() ml.zeros {2}:norm(7) end, "norm: axis 7 is out of range for 1 axes"},
  {function() ml.zeros {2}:to(3) end, "to: expected a dtype or a device, found 3"},
  {function() ml.zeros {2}:to "gpu" end, 'to: expected a dtype or a device, found "gpu"'},
  {function() ml.zeros {4}:split "a" end, 'split: parts: expected a count or a list of positions, found "a"'},
  {function() ml.zeros {5}:split(2.5) end, "split: parts: expected an integer from 1, found 2.5"},
  {function() ml.tensor {1, 2, [4] = 9} end, "tensor: expected a list, found the key 4 in it"},
  {function() ml.zeros {2, [1.5] = 3} end, "zeros: shape: expected a list of sizes, found the key 1.5 in it"},
  {function() ml.tensor {1, 2}:split {1, [3] = 2} end,
    "split: parts: expected a count or a list of positions, found the key 3 in it"},
  {function() ml.zeros {4}:squeeze "a" end, 'squeeze: axes: expected an integer or a list of them, found "a"'},
  {function() ml.scope(3) end, "scope: expected a function, found 3"},
  {function() ml.grad(function(x) return (x * 2):sum() end)(ml.zeros {2}) end,
    "grad: operation sum has no gradient in this version"},
  {function() fn.attention(3) end, "attention: q: expected a tensor (B, heads, T, d), found 3"},
  {function() attend {scale = 1, window = -1} end, "attention: window: expected 0 or more, found -1"},
  {function() attend {scale = 1, softcap = -5} end, "attention: softcap: expected 0 or more, found -5"},
  {function() attend {scale = 1 / 0} end, "attention: scale: expected a finite number, found inf"},
})

local T = ml.tensor
local v, square = T {3, 1, 2}, T {{1, 2}, {3, 4}}

t.test("functions in Lua take arguments by name as operations do", function()
  local function same(a, b) t.eq(a:tolist(), b:tolist()) end
  same(v:flip {axes = 1}, T {2, 1, 3})
  same(T({{1}, {2}}):squeeze {axes = 2}, T {1, 2})
  same(v:pad {widths = {1, 0}, value = 7}, T {7, 3, 1, 2})
  same(v:pad({1, 0}, {value = 7}), T {7, 3, 1, 2})
  same(v:expand_dims {axes = 1}, T {{3, 1, 2}})
  same(v:tile {counts = 2}, T {3, 1, 2, 3, 1, 2})
  same(v:take {index = 1}, T(1))
  same(v:gather {index = {0}}, T {3})
  same(v:roll {shift = 1}, T {2, 3, 1})
  same(square:roll(1, {axis = 2}), T {{2, 1}, {4, 3}})
  same(v:topk(2, {axis = 1}), T {3, 2})
  same(v:clip {low = 2}, T {3, 2, 2})
  same(T {3, 1, 2}:clip_ {high = 1}, T {1, 1, 1})
  same(square:tril {k = -1}, T {{0, 0}, {3, 0}})
  same(T {0 / 0, 2.0}:nan_to_num {nan = 1}, T {1.0, 2.0})
  same(T {1, 2, 2}:searchsorted {values = 2, right = true}, T(3))
  same(T {1.0, 1.0}:softmax {axis = 1}, T {0.5, 0.5})
  same(ml.eye(2, {m = 3, dtype = "int8"}), T {{1, 0, 0}, {0, 1, 0}})
  same(ml.arange(1, {stop = 4, dtype = "int8"}), T {1, 2, 3})
  same(ml.full({2}, {value = 4, dtype = "int8"}), T {4, 4})
  same(fn.mse(T {1.0}, {y = T {3.0}}), T(4.0))
  t.eq(ml.random.bernoulli(1, {shape = {2}, key = ml.random.key(1)}):tolist(), {true, true})
  same(ml.concat(table.pack(v, v)), T {3, 1, 2, 3, 1, 2})
  same(v:sum(nil, {axis = 1}), T(6))
end)

t.test("nil at the end is what is not given", function()
  t.eq(T {1.0, 1.0}:softmax(1, nil):tolist(), {0.5, 0.5})
  t.eq(ml.log_softmax(T {1.0}, nil, nil):tolist(), {0.0})
  t.eq(v:flip(1, nil):tolist(), {2, 1, 3})
  t.eq(ml.zeros({1}, nil, nil):tolist(), {0.0})
  t.eq(T(2):item(nil), 2)
  t.eq(ml.is_tensor({}, nil), false)
  t.eq(ml.state({1}, "int32", nil):tolist(), {0})
  t.eq(ml.devices(nil)[1].name, "cpu")
end)

group("arguments that a function does not have", {
  {function() v:flip {bogus = 1} end, 'flip: no option "bogus"'},
  {function() v:unique {axis = 1} end, 'unique: no option "axis"'},
  {function() v:flip(1, 2) end, "flip: 1 arguments too many"},
  {function() v:flip(1, {junk = 1}) end, 'flip: no option "junk"'},
  {function() v:flip(1, {axes = 1}) end, "flip: axes is given twice"},
  {function() v:sum(1, {axis = 1}) end, "sum: axis is given twice"},
  {function() v:clip_ {bogus = 1} end, 'clip_: no option "bogus"'},
  {function() ml.linspace(0, 1, 3, {dtype = "uint8"}) end, 'linspace: no option "dtype"'},
  {function() ml.tri(2, 2, 0, {junk = 1}) end, 'tri: no option "junk"'},
  {function() square:tril(0, {junk = 1}) end, 'tril: no option "junk"'},
  {function() square:triu(0, {junk = 1}) end, 'triu: no option "junk"'},
  {function() ml.stack({v}, 1, {junk = 1}) end, 'stack: no option "junk"'},
  {function() ml.stack {v, nil, v} end, "stack: entry 2: expected a tensor, found nothing"},
  {function() ml.from_bytes("a", {1}, "int8", {junk = 1}) end, 'from_bytes: no option "junk"'},
  {function() fn.mse(v, v, {junk = 1}) end, 'mse: no option "junk"'},
  {function() fn.mse(1, 2) end, "mse: x: expected a tensor, found 1"},
  {function() ml.zeros({1}, {}, 3) end, "zeros: 1 arguments too many"},
  {function() ml.ones({1}, nil, 3) end, "ones: 1 arguments too many"},
  {function() ml.full({1}, 1, {}, 3) end, "full: 1 arguments too many"},
  {function() ml.arange(1, 2, 1, {}, 3) end, "arange: 1 arguments too many"},
  {function() ml.eye(1, 2, {}, 3) end, "eye: 1 arguments too many"},
  {function() ml.tensor(1, {}, 3) end, "tensor: 1 arguments too many"},
  {function() ml.random.uniform({2}, {low = 0}, 3) end, "random.uniform: 1 arguments too many"},
  {function() ml.random.permutation(2, {}, 3, 4) end, "random.permutation: 2 arguments too many"},
  {function() ml.zeros {3, dtype = "int8"} end,
    'zeros: shape: expected a list of sizes, found the name "dtype" in it'},
  {function() ml.tensor {1, 2, dtype = "int8"} end, 'tensor: expected a list, found the name "dtype" in it'},
  {function() ml.tensor {{1}, {2, x = 1}} end, 'tensor: expected a list, found the name "x" in it'},
  {function() v:pad {{1, 1}, value = 7} end,
    'pad: widths: expected {before, after}, or such a pair an axis, found the name "value" in it'},
  {function() v:tile {2, axis = 1} end,
    'tile: counts: expected an integer or a list of them, found the name "axis" in it'},
  {function() v:reshape {3, 1, order = "C"} end, 'reshape: shape: expected a list, found the name "order" in it'},
  {function() ml.zeros {1}:squeeze {1, 1} end, "squeeze: axis 1 is named twice"},
  {function() square:flip {2, -1} end, "flip: axis 2 is named twice"},
  {function() square:expand_dims {1, 1} end, "expand_dims: axis 1 is named twice"},
  {function() T(1):item(1) end, "item: 1 arguments too many"},
  {function() v:tolist(1, 2) end, "tolist: 2 arguments too many"},
  {function() v:tolist {depth = 1} end, 'tolist: no option "depth"'},
  {function() v:tobytes "float32" end, "tobytes: 1 arguments too many"},
  {function() v:close(true) end, "close: 1 arguments too many"},
  {function() ml.state(v, "float32") end, "state: 1 arguments too many"},
  {function() ml.state({2}, "float32", 3) end, "state: 1 arguments too many"},
  {function() ml.state(v, {dtype = "float32"}) end, "state: 1 arguments too many"},
  {function() ml.state(v, {junk = 1}) end, 'state: no option "junk"'},
  {function() ml.stats(1) end, "stats: 1 arguments too many"},
  {function() ml.stats {reset = true} end, 'stats: no option "reset"'},
  {function() ml.devices "cpu" end, "devices: 1 arguments too many"},
  {function() ml.device("cpu", 1) end, "device: 1 arguments too many"},
  {function() ml.default_device("cpu", 1) end, "default_device: 1 arguments too many"},
  {function() ml.threads(ml.threads(), 1) end, "threads: 1 arguments too many"},
  {function() ml.is_tensor(v, v) end, "is_tensor: 1 arguments too many"},
  {function() ml.memory.active("cpu", 1) end, "active: 1 arguments too many"},
  {function() ml.memory.peak("cpu", 1) end, "peak: 1 arguments too many"},
  {function() ml.memory.cached("cpu", 1) end, "cached: 1 arguments too many"},
  {function() ml.memory.reset_peak("cpu", 1) end, "reset_peak: 1 arguments too many"},
  {function() ml.memory.limit(nil, "cpu", 1) end, "limit: 1 arguments too many"},
  {function() ml.memory.cache_limit(nil, "cpu", 1) end, "cache_limit: 1 arguments too many"},
  {function() ml.memory.clear("cpu", 1) end, "clear: 1 arguments too many"},
  {function() ml.json.decode("1", 2) end, "json.decode: 1 arguments too many"},
  {function() ml.json.decode("1", {big = true}) end, 'json.decode: no option "big"'},
  {function() ml.json.encode(1, {}, 2) end, "json.encode: 1 arguments too many"},
  {function() ml.json.array({}, 2) end, "json.array: 1 arguments too many"},
  {function() ml.json.object({}, 2) end, "json.object: 1 arguments too many"},
})

local unread =
  "a value is read while a plan is recorded, which happens once for each shape and before there are values"
local once = "state: a plan is recorded, which would make it once and not again: make it before"
group("what is not done while a plan is recorded", {
  {function() ml.compile(ml.state)(v) end, once},
  {function() ml.compile(v.state)(v) end, once},
  {function() ml.compile(function() return ml.state({2}, "float32") * 1 end)() end, once},
  {function() ml.compile(ml.pack)(ml.zeros {2, 32}) end, "pack: " .. unread},
  {function() ml.compile(ml.unpack)(ml.pack(ml.zeros {2, 32})) end, "unpack: " .. unread},
})

local packs = "pack: expected a weight of float32, float16, bfloat16, q4_0, q4_1, q5_0, q5_1, q8_0, q4_k, q5_k, " ..
  "q6_k, affine codes, found "
group("what pack takes", {
  {function() ml.pack(ml.zeros({2, 32}, {dtype = "int32"})) end, packs .. "int32"},
  {function() ml.pack(ml.zeros({2, 32}, {dtype = "float64"})) end, packs .. "float64"},
  {function() ml.pack(ml.zeros {32}) end, "pack: expected 2 or 3 axes, found 1"},
  {function() ml.zeros {2, 32}:pack {precision = "high"} end,
    'pack: precision: expected "exact" or "fast", found "high"'},
})

group("positions and counts that there are not", {
  {function() v:slice {{0, 2}} end, "slice: expected a first position from 1, or from -1 at the end, found 0"},
  {function() v:slice {{1, -1, step = 2}} end, 'slice: expected a list, found the name "step" in it'},
  {function() v:slice {{1, 2, 1, 1}} end, "slice: expected {first, last, step}, found 4 entries"},
  {function() ml.ones {2, 2, 2}:pad {{1, 1}, {1, 1}} end,
    "pad: widths: expected {before, after}, or such a pair an axis, found 2 pairs for 3 axes"},
  {function() v:pad {1, 2, 3} end,
    "pad: widths: expected {before, after}, or such a pair an axis, found 3 entries"},
  {function() square:tensordot(square, {{1}, {1}, {2}}) end, "tensordot: axes: expected two lists, found 3"},
  {function() v:partition(7) end, "partition: k: expected an integer from 0 to 2, found 7"},
  {function() v:argpartition(-1) end, "argpartition: k: expected an integer from 0 to 2, found -1"},
  {function() ml.zeros {1, 5, 2}:conv1d(ml.zeros {3, 2, 2}, {padding = -1}) end,
    "conv1d: padding: expected an integer from 0, found -1"},
  {function() ml.zeros {1, 5, 2}:conv1d(ml.zeros {3, 2, 2}, {stride = 0}) end,
    "conv1d: stride: expected an integer from 1, found 0"},
  {function() square:tensordot(square, {1, 1}) end,
    "tensordot: axes: expected a count, or a list of axes of each, {{1}, {2}}, found 1"},
  {function() square:tensordot(square, {{1, 1}, {1, 2}}) end, "tensordot: axis 1 is named twice"},
  {function() square:tensordot(square, 3) end, "tensordot: axes: expected an integer from 0 to 2, found 3"},
  {function() v:as_strided({5}, {1 << 30}) end, "as_strided: entries 0 to 4294967296 of 3"},
  {function() ml.arange(0, 2.5, 0.5, {dtype = "int32"}) end, "arange: 0.5 is no value of dtype int32"},
  {function() ml.random.categorical(T {{}}) end,
    "random.categorical: logits: expected a last axis with entries, found shape (1, 0)"},
  {function() ml.random.normal({2}, {std = -1}) end, "random.normal: std: expected a number from 0, found -1"},
  {function() ml.random.bernoulli(2.0) end, "random.bernoulli: p: expected a number from 0 to 1, found 2.0"},
  {function() ml.random.randint(0, 5, {3}, {dtype = "bool"}) end, "random.randint: 4 does not fit dtype bool"},
})

group("a tensor's entries", {
  {function() return ml.zeros {2, 2}[{1, 2}] end,
    "x[i]: expected an integer (x:at(i, j) and x:slice take several positions), found a table"},
  {function() return ml.zeros {2}[5] end, "x[i]: index 5 is out of range for size 2"},
  {function() return #ml.tensor(3) end, "#x: expected a tensor with axes, found one of shape ()"},
})

group("modules", {
  {function() nn.Linear(3) end, "Linear: outputs: expected an integer from 1 to 2147483647, found nothing"},
  {function() nn.Linear(3, 3, {bais = true}) end, 'Linear: no option "bais"'},
  {function() nn.RoPE(4)(3) end, "RoPE: RoPE: x: expected a tensor or a table, found number"},
})

-- What is raised inside a module's forward begins with the module's path.
t.test("a module's path", function()
  local Block = nn.class "Block"
  function Block:init() self.norm = nn.RMSNorm(4) end
  function Block:forward(x) return self.norm(x):split_heads(3) end -- luacheck: ignore self
  says(function() Block()(ml.zeros {1, 2, 4}) end, "Block: split_heads: shape (1, 2, 4) does not divide into 3 heads")
  says(function() Block()(ml.zeros {1, 2, 3}) end, "Block.norm: rms_norm: weight: expected shape (3), found (4)")
end)

local linear, gone = nn.Linear(2, 3), ml.ones {3, 2}
gone:close()
group("modules", {
  {function() linear:update() end, "update: expected a table {path = tensor}, found nothing"},
  {function() linear:update "x" end, 'update: expected a table {path = tensor}, found "x"'},
  {function() linear:update {weight = 3} end, "update: weight: expected a tensor, found 3"},
  {function() linear:update {weight = "x"} end, 'update: weight: expected a tensor, found "x"'},
  {function() linear:update {weight = false} end, "update: weight: expected a tensor, found false"},
  {function() linear:update {weight = gone} end, "update: weight: expected a tensor, found a closed tensor"},
  {function() linear:update {weight = ml.arange(6):reshape {3, 2}} end,
    "update: weight: expected floats, found a tensor (3, 2), int32"},
  {function() linear:update {weight = ml.ones {2, 3}} end, "update: weight: expected shape (3, 2), found (2, 3)"},
  {function() linear:update {wait = ml.ones {3, 2}} end, "update: wait: the module has no such parameter"},
  {function() linear.update {weight = ml.ones {3, 2}} end,
    "update: expected a module, found a table: methods are called with a colon, module:update(...)"},
  {function() linear:apply() end, "apply: fn: expected a function, found nothing"},
  {function() linear:each_parameter() end, "each_parameter: fn: expected a function, found nothing"},
  {function() ml.cancel_token().cancel() end,
    "cancel: expected a token, found nothing: methods are called with a colon, token:cancel(...)"},
})

t.test("models, sessions and tokenizers", function()
  local m <close> = assert(ml.load(tiny.write_directory "messages"))
  local s <close> = m:session {}
  local k = m.tokenizer
  local function complete(result)
    return function() m:complete("x", {max_tokens = 3, sampler = function() return result end}) end
  end
  for _, case in ipairs {
    {function() m:generate {} end, "generate: the prompt is empty: expected at least one token"},
    {function() m:complete(("x "):rep(3000)) end, "generate: the prompt has 6000 tokens, the context holds 256"},
    {function() s:generate {} end, "generate: the prompt is empty: expected at least one token"},
    {function() m.generate "x" end,
      'generate: expected a model, found "x": methods are called with a colon, model:generate(...)'},
    {function() m:generate("x", {max_tokens = "3"}) end,
      'generate: max_tokens: expected an integer from 0, found "3"'},
    {function() m:generate("x", {top_p = 2}) end, "generate: top_p: expected a number from 0 to 1, found 2"},
    {function() m:generate("x", {logit_bias = {[1] = "a"}}) end,
      'generate: logit_bias: id 1: expected a number, found "a"'},
    {function() m:generate("x", {repeat_penalty = 0}) end,
      "generate: repeat_penalty: expected a number above 0, found 0"},
    {function() m:generate("x", {repeat_penalty = -1}) end,
      "generate: repeat_penalty: expected a number above 0, found -1"},
    {function() m:generate("x", {stop = {""}}) end, "generate: stop: a string must not be empty"},
    {function() m:generate("x", {ignore_eos = "yes"}) end, 'generate: ignore_eos: expected true or false, found "yes"'},
    {function() m:generate("x", {cancel = {}}) end,
      "generate: cancel: expected a token of ml.cancel_token(), found a table"},
    {function() m:perplexity("a b c", {context = "1"}) end,
      'perplexity: context: expected an integer from 2, found "1"'},
    {function() m:logits "x" end, 'logits: expected a list of token ids, or of such lists, found "x"'},
    {complete "a", 'sampler: expected logits (1, 131), integer ids (1), or an id as a number, found "a"'},
    {complete(3.5), "sampler: an id: expected an integer from 0 to 130, found 3.5"},
    {complete(ml.tensor {1, 2}),
      "sampler: expected logits (1, 131), integer ids (1), or an id as a number, found a tensor (2), int32"},
    {function() s:send(3) end, "send: expected text, found 3"},
    {function() m:session {system = 3} end, "session: system: expected text, found 3"},
    {function() k:encode(3) end, "encode: text: expected a string, found 3"},
    {function() k:encode("a", {foo = 1}) end, 'encode: no option "foo"'},
    {function() k.encode "a" end,
      'encode: expected a tokenizer, found "a": methods are called with a colon, tokenizer:encode(...)'},
    {function() m:complete {role = "user", content = "x"} end,
      "messages: expected a list of messages {role =, content =}, found one message"},
    {function() m:chat {role = "user", content = "x"} end,
      "messages: expected a list of messages {role =, content =}, found one message"},
    {function() m:generate {prompt = "x"} end,
      'generate: expected a list of token ids, found the name "prompt" in it'},
    {function() m:session {messages = {role = "user", content = "x"}} end,
      "session: messages: expected a list of messages {role =, content =}, found one message"},
    {function() m:session {messages = {{role = "user"}}} end,
      "session: messages[1]: content: expected a string or a list, found nothing"},
    {function() m:session {messages = 3} end,
      "session: messages: expected a list of messages {role =, content =}, found number"},
    {function() S.chain(S.top_k(4), S.temperature(1)) end, "sample.chain: expected a list of steps, found a step"},
    {function() S.chain(S.chain {}) end, "sample.chain: expected a list of steps, found a chain"},
    {function() S.chain {3} end, "sample.chain: step 1: expected a function or a step, found 3"},
  } do says(case[1], case[2]) end
end)

t.test("a context beyond the model's own is warned of", function()
  local m <close> = assert(ml.load(tiny.write_directory "messages", {max_context = 1 << 20}))
  t.ok(table.concat(m.info.warnings, "\n"):find("max_context: 1048576 is beyond the model's own", 1, true))
end)

t.test("a checkpoint without generation_config.json has an empty one", function()
  local path = tiny.write_directory "messages-bare"
  os.remove(path .. "/generation_config.json")
  local m <close> = assert(ml.load(path))
  t.eq(m.generation_config, {})
  t.eq(m:generation_defaults {temperature = 1}, {temperature = 1})
end)

t.test("a module in a list is called by its place, though nobody has walked the tree", function()
  local Rows = nn.class "Rows"
  function Rows:init() self.layers = {nn.Linear(8, 16), nn.Linear(16, 8)} end
  function Rows:forward(x)
    for _, layer in ipairs(self.layers) do x = layer(x) end
    return x
  end
  local rows, x = Rows(), ml.zeros {2, 8}
  ml.eval(rows(x))
  local text = ml.explain(function(y) return rows(y) end, x)
  for _, path in ipairs {"Rows.layers.0\n", "Rows.layers.1\n"} do t.ok(text:find(path, 1, true), text) end
  says(function() rows(ml.zeros {2, 9}) end, "Rows.layers.0: linear: last axis 9, weight wants 8")
end)

t.test("what a family's init raises names the family's line", function()
  local folder = tiny.folder "messages-family"
  local file <close> = assert(io.open(folder .. "/mine.lua", "w"))
  file:write 'local nn = require "moonlet.nn"\nlocal M = nn.model "llama"\n\n'
  file:write "function M:init(c) self.out = nn.Linear(c.hidden_size, 3, {bais = true}) end\n"
  file:write "function M.forward() end\nreturn M\n"
  file:close()
  t.fails('mine.lua:4: Linear: no option "bais"', "usage",
    ml.load(tiny.write_directory "messages", {family = folder .. "/mine.lua"}))
end)

t.done()
