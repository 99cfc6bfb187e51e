-- Every function of the interface with operands that its own tests do not give it: a plain number first, and tensors of
-- a device that is not the default one. New functions are called too, or are an error here.
local core = require "moonlet.core"
local fn = require "moonlet.fn"
local ml = require "moonlet"
local nn = require "moonlet.nn"
local random = require "moonlet.random"
local sample = require "moonlet.sample"
local t = require "tests.lua.harness"

t.leak_check = function()
  local sum = 0
  for _, device in ipairs(ml.devices()) do sum = sum + ml.memory.active(device.name) end
  return sum
end

local names = {}
for i, device in ipairs(ml.devices()) do names[i] = device.name end

-- What a call gives or raises, in a form that can be compared.
local function outcome(f, ...)
  local results = table.pack(pcall(f, ...))
  if not results[1] then
    t.eq(type(results[2]), "table", tostring(results[2]))
    return results[2].reason
  end
  for i = 2, results.n do
    local list = type(results[i]) == "table" and results[i] or {results[i]}
    for k, x in ipairs(list) do
      if ml.is_tensor(x) then list[k] = {x:tobytes(), x.shape, x.dtype} end
    end
    results[i] = list
  end
  return results
end

-- ---- a plain number first ----

t.test("a plain number first is what ml.tensor makes of it, in everything that is written in Lua", function()
  local v = ml.tensor {0.5, 1.5, 2.5}
  local more = {{}, {v}, {0.0, 1.0}, {1, 1}, {1}, {{1}}, {{0}, 1}, {{1, 1}}, {"float32"}}
  local called, gave = 0, {}
  for name in pairs(core.methods) do
    local f = rawget(ml, name)
    if f and core.source(f) and name ~= "state" then -- whose number is a size
      for _, args in ipairs(more) do
        for _, x in ipairs {2.5, 3} do
          local got = outcome(f, x, table.unpack(args))
          t.eq(got, outcome(f, ml.tensor(x), table.unpack(args)), name)
          gave[name] = gave[name] or type(got) == "table"
          called = called + 1
        end
      end
    end
  end
  t.ok(called > 500, called)
  for _, name in ipairs {"power", "clip", "nan_to_num", "erfinv", "flatten", "inner", "outer"} do
    t.ok(gave[name], name)
  end
  local half = v:astype "float16"
  t.eq({ml.power(2, half).dtype, ml.clip(2, half, nil).dtype}, {"float16", "float16"}) -- as in 2 ^ half
  t.eq(ml.power(2, v):tolist(), (2 ^ v):tolist())
  t.raises(function() ml.power("2", v) end, "power: x: expected a tensor or a number", "usage")
  t.raises(function() ml.tril(3) end, "tril: expected at least 2 axes, found 0", "mismatch")
end)

-- ---- another device ----

-- Arguments to try a function with, for tensors brought to a device by `on`.
local function attempts(on)
  local x = on((ml.arange(24) * 0.37 % 1 - 0.25):reshape {4, 6})
  local n, square = on(ml.tensor {3, 1, 2, 0}), x:slice {{}, {1, 4}}
  return {
    {x}, {x, 0.5}, {x, x}, {n}, {n, 1}, {n, n}, {x, 2}, {x, 1}, {x, 1, 2}, {x, {1, 1}}, {square, square},
    {x, "float64"}, {x, {24}}, {x, {2, 1}}, {x:gt(0), 1.0, x}, {{x, x}}, {2.0, x},
  }
end

-- Of functions that need more than that. Keys and indices may be tables.
local cases = {}
local function case(name, make) cases[name] = make end
local function X(on, ...) return on((ml.arange(24) * 0.37 % 1):reshape {...}) end
local function I(on, list) return on(ml.tensor(list, {dtype = "int32"})) end
local ids = {{0}, {1}, {2}, {0}}
for _, name in ipairs {"take_along_axis", "gather"} do
  case(name, function(on) return {X(on, 4, 6), ids, 2}, {X(on, 4, 6), I(on, ids), 2} end)
end
for _, name in ipairs {"put_along_axis", "scatter", "scatter_add"} do
  local function make(on)
    return {X(on, 4, 6), ids, 5, 2}, {X(on, 4, 6), I(on, ids), X(on, 4, 6):slice {{}, {1, 1}}, 2}
  end
  case(name, make)
  case(name .. "_", make)
end
case("take", function(on) return {X(on, 4, 6), {0, 1}, 1}, {X(on, 4, 6), 1, 1}, {X(on, 4, 6), I(on, {0, 2})} end)
for _, name in ipairs {"slice_update", "slice_update_"} do
  case(name, function(on) return {X(on, 4, 6), {{1, 2}, {}}, 5}, {X(on, 4, 6), {{1, 1}, {}}, X(on, 4, 6)[2]} end)
end
case("slice", function(on) return {X(on, 4, 6), {{1, 2}, {1, 3, 2}}} end)
case("as_strided", function(on) return {X(on, 4, 6), {2, 2}, {1, 3}, 1} end)
case("searchsorted", function(on) return {X(on, 24), {0.5, 0.1}}, {X(on, 24), 0.3}, {X(on, 24), X(on, 24)} end)
case("unflatten", function(on) return {X(on, 4, 6), 2, {2, 3}} end)
case("broadcast_to", function(on) return {X(on, 24), {2, 24}} end)
case("pad", function(on) return {X(on, 4, 6), {{1, 1}, {0, 2}}, 1} end)
case("addmm", function(on) return {X(on, 4, 6)[1], X(on, 4, 6), X(on, 6, 4):slice {{}, {1, 1}}, 2, 3} end)
case("conv1d", function(on) return {X(on, 2, 4, 3), X(on, 4, 2, 3), {padding = 1}} end)
case("einsum", function(on)
  return {"ij,ij->i", {X(on, 4, 6), X(on, 4, 6)}}, {"ii->i", {X(on, 4, 6):slice {{}, {1, 4}}}}, {"ij->", {I(on, ids)}}
end)
case("tensordot", function(on) return {X(on, 4, 6), X(on, 6, 4), 1} end)
case("merge_heads", function(on) return {X(on, 2, 2, 3, 2)} end)
case("split_heads", function(on) return {X(on, 2, 2, 6), 3} end)
case("full", function(on) return {{2}, I(on, {3})} end)
case("diag", function(on) return {X(on, 24)}, {X(on, 4, 6), 1} end)
case("pack", function(on) return {X(on, 4, 6)}, {X(on, 4, 6), {precision = "fast"}} end)
case("embedding", function(on) return {X(on, 4, 6):pack(), I(on, {1, 2})} end)
for _, name in ipairs {"dequantize", "unpack"} do case(name, function(on) return {X(on, 4, 6):pack()} end) end
case("linear", function(on) return {X(on, 4, 6), X(on, 4, 6):pack()} end)
case("linear_transposed", function(on) return {X(on, 6, 4), X(on, 4, 6):pack()} end)
case("gather_linear", function(on) return {X(on, 4, 6), X(on, 2, 2, 6):pack(), I(on, {{0}, {1}, {1}, {0}})} end)
case("rms_norm", function(on) return {X(on, 4, 6), X(on, 4, 6)[1]} end)
case("layer_norm", function(on) return {X(on, 4, 6), X(on, 4, 6)[1], X(on, 4, 6)[2]} end)
case("attention", function(on)
  local q, mask = X(on, 1, 2, 3, 4), on(ml.ones({3, 3}, {dtype = "bool"}))
  return {q, q, q, nil, nil, nil, nil, nil, mask, nil, {scale = 1}}, {q, q, q, {scale = 1, window = 2}}
end)
case("fn.attention", function(on)
  local q, mask = X(on, 1, 2, 3, 4), on(ml.ones({3, 3}, {dtype = "bool"}))
  return {q, q, q, {mask = mask, sinks = X(on, 24):slice {{1, 2}}}}, {q, q, q, {window = 2}}
end)
local function angles(on) return {I(on, {0, 1, 2}):reshape {1, 3}, on(ml.tensor {1.0, 0.1})} end
local function rope(on) return {X(on, 1, 2, 3, 4), ml.rope_table(table.unpack(angles(on)))} end
case("fn.before", function(on) return {X(on, 1, 3, 8), 2} end)
case("rope", rope)
case("fn.rope", rope)
case("rope_table", angles)
case("cache_append", function(on)
  local one = {I(on, {{0}}), I(on, {0}), I(on, {0}), I(on, {3})}
  return {ml.state(X(on, 1, 2, 3, 4)), X(on, 1, 2, 3, 4), table.unpack(one)}
end)
case("ring_push", function(on) return {ml.state(I(on, {{1, 2}})), I(on, {3}), I(on, {1})} end)
case("assign", function(on) return {ml.state(X(on, 24)), X(on, 24)} end)
case("repeat_penalty", function(on) return {X(on, 4, 6), I(on, {{1}, {2}, {3}, {-1}}), 1.1} end)
case("categorical", function(on) return {X(on, 4, 6), X(on, 24):slice {{1, 4}}} end)
case("random_bits", function(on) return {random.key(1):to(on(random.key(1)).device), {3}} end)
for _, name in ipairs {"left_shift", "right_shift", "bitwise_and", "bitwise_or", "bitwise_xor"} do
  case(name, function(on) return {I(on, ids), I(on, ids)}, {I(on, ids), 1} end)
  case(name .. "_", function(on) return {I(on, ids), I(on, ids)}, {I(on, ids), 1} end)
end
for _, op in ipairs {"eq", "ne", "lt", "le", "gt", "ge"} do
  case(op .. "_", function(on) return {X(on, 4, 6), 0.5} end)
end
case("topk", function(on) return {X(on, 4, 6), 2} end)
case("state", function(on) return {X(on, 4, 6)} end)
case("to", function(on) return {X(on, 4, 6), "float16"} end)
case("stack", function(on) return {{X(on, 24), X(on, 24)}} end)
case("fn.cross_entropy", function(on)
  local mask = on(ml.tensor {true, false, true, true})
  return {X(on, 4, 6), I(on, {1, 2, 3, 0}), {mask = mask, label_smoothing = 0.1}}, {X(on, 4, 6), I(on, {1, 2, 3, 0})}
end)
case("fn.kl_div", function(on) return {X(on, 4, 6):log_softmax(), X(on, 4, 6):log_softmax()} end)
case("fn.mse", function(on) return {X(on, 24), X(on, 24)}, {I(on, ids):astype "int64", I(on, ids):astype "int64"} end)
case("fn.dropout", function(on) return {X(on, 24), 0.5} end)
local function keyed(make)
  return function(on) return make({key = on(random.key(5))}, on) end
end
case("random.uniform", keyed(function(k) return {{3}, k}, {{3}, {low = -1, high = 3, key = k.key}} end))
case("random.normal", keyed(function(k, on)
  return {{24}, k}, {{24}, {mean = X(on, 24), key = k.key}}, {{24}, {std = X(on, 24)}}, {{24}, {mean = X(on, 24)}}
end))
case("random.randint", keyed(function(k) return {0, 9, {3}, k}, {0, 1 << 40, {3}, {dtype = "int64", key = k.key}} end))
case("random.truncated_normal", keyed(function(k) return {-1, 1, {3}, k} end))
case("random.gumbel", keyed(function(k) return {{3}, k} end))
case("random.bernoulli", keyed(function(k, on) return {0.5, {3}, k}, {X(on, 24)}, {X(on, 24), k} end))
case("random.categorical", keyed(function(k, on) return {X(on, 4, 6)}, {X(on, 4, 6), k} end))
case("random.permutation", keyed(function(k, on) return {5, k}, {X(on, 4, 6)}, {X(on, 4, 6), k} end))
case("random.split", keyed(function(k) return {k.key}, {k.key, 3} end))

-- What makes or takes no tensors to lie beside, or reads them.
local without = {}
for name in ([[
  arange checkpoint close compile custom_vjp default_device device devices eval explain eye from_bytes grad is_tensor
  item jvp keep linspace no_grad ones profile scope stats stop_gradient threads tobytes tolist tri value_and_grad vjp
  zeros random.key random.seed fn.activation load discover tokenizer register_backend backends load_safetensors
  save_safetensors load_gguf load_npy save_npy cancel_token
]]):gmatch "%S+" do without[name] = true end

-- Every function by name.
local function functions()
  local out = {}
  for name, f in next, ml do
    if type(f) == "function" then out[name] = f end
  end
  for name, f in next, core.methods do out[name] = out[name] or f end
  for prefix, module in pairs {["fn."] = fn, ["random."] = random} do
    for name, f in next, module do out[prefix .. name] = f end
  end
  return out
end

-- The devices of all tensors of a result.
local function check_places(what, value, device)
  if ml.is_tensor(value) then
    t.eq(value.device, device, what)
    ml.eval(value)
  elseif type(value) == "table" then
    for _, part in ipairs(value) do check_places(what, part, device) end
  end
end

local function with_default(device, f)
  local before = ml.default_device(ml.default_device(device) and device)
  local _ <close> = setmetatable({}, {__close = function() ml.default_device(names.first) end})
  return f(before)
end
names.first = ml.default_device()

local function test_pair(name, pair)
  if not names[2] then return end -- which FILE@twin has
  t.test(name, function()
    for i = 1, 2 do with_default(names[i], function() pair(names[i], names[3 - i]) end) end
  end)
end

test_pair("every function works on another device, and gives what lies there", function(a, b)
  local function here(x) return x:to(a) end
  local function there(x) return x:to(b) end
  for name, f in pairs(functions()) do
    local make = cases[name] or cases[name:gsub("^fn%.", "")]
    local calls = 0
    local tried = make and {make(here)} or not without[name] and attempts(here) or {}
    local again = make and {make(there)} or not without[name] and attempts(there) or {}
    for i, args in ipairs(tried) do
      local ok, why = pcall(f, table.unpack(args, 1, 11))
      if make then t.ok(ok, name .. ": " .. tostring(why)) end
      if ok then
        local results = table.pack(pcall(f, table.unpack(again[i], 1, 11)))
        t.ok(results[1], ("%s, call %d: %s"):format(name, i, tostring(results[2])))
        for k = 2, results.n do check_places(name, results[k], b) end
        calls = calls + 1
      end
    end
    t.ok(calls > 0 or without[name], name .. ": is called by no case")
    t.eq(ml.default_device(), a)
  end
end)

test_pair("modules and steps of a sampling chain work where their tensors are", function(_, b)
  local Net = nn.class "Net"
  function Net:init()
    self.e, self.norm, self.l = nn.Embedding(10, 8), nn.RMSNorm(8), nn.LayerNorm(8)
    self.q, self.rope, self.drop = nn.Linear(8, 16, {bias = true}), nn.RoPE(8), nn.Dropout(0.5)
  end
  function Net:forward(tokens)
    local q = self.rope(self.q(self.l(self.norm(self.drop(self.e(tokens))))):split_heads(2))
    return self.e:as_linear(fn.attention(q, q, q):merge_heads():slice {{}, {}, {1, 8}})
  end
  local tokens = ml.tensor({{1, 2, 3}}, {device = b})
  local function check(net)
    check_places("Net", net(tokens), b)
    check_places("Net, training", net:train()(tokens), b)
    check_places("Net, compiled", ml.compile(function(x) return net(x) end)(tokens), b)
  end
  check(Net()) -- whose parameters come to be where they are first needed
  local moved = Net()
  moved:parameters()
  moved:apply(function(p) return p:to(b) end)
  check(moved)
  local turn = moved.rope
  local x = (ml.arange(48) * 0.1):reshape {1, 2, 3, 8}
  t.close(turn(x):to(b), turn(x:to(b)), 1e-5) -- here and there in turn
  local logits = (ml.arange(12) * 0.3 % 1):reshape {2, 6}
  for _, brought in ipairs {logits:to(b), logits} do
    local state = {recent = ml.tensor({{1}, {2}}, {device = brought.device})}
    function state.uniform() return ml.tensor({0.1, 0.9}, {device = brought.device}) end
    for name, step in pairs {greedy = sample.greedy(), temperature = sample.temperature(0.7), top_k = sample.top_k(2),
      top_p = sample.top_p(0.5), min_p = sample.min_p(0.1), xtc = sample.xtc(0.5, 0.1),
      repeat_penalty = sample.repeat_penalty(1.2), presence = sample.presence(0.1, 0.2)} do
      check_places(name, step(brought, state), brought.device)
    end
  end
  local bias = sample.logit_bias {[1] = 2.0, [3] = math.huge} -- one step, on either device
  for _ = 1, 2 do
    check_places("logit_bias", bias(logits:to(b)), b)
    check_places("logit_bias", bias(logits), logits.device)
  end
end)

t.test("draws of equal keys are the same on every device", function()
  local first
  for i = 1, #names do
    local key = random.key(11):to(names[i])
    local draws = {
      ml.random_bits(key, {5, 3}):tolist(), random.uniform({5, 3}, {key = key}):tolist(),
      random.uniform({7}, {low = -2, high = 5, dtype = "float16", key = key}):tolist(),
      random.uniform({7}, {dtype = "float64", key = key}):tolist(),
      random.randint(-5, 1 << 20, {9}, {key = key}):tolist(),
      random.randint(0, 1 << 40, {9}, {dtype = "int64", key = key}):tolist(),
      random.bernoulli(0.3, {40}, {key = key}):tolist(), random.permutation(12, {key = key}):tolist(),
    }
    for _, k in ipairs(random.split(key, 3)) do draws[#draws + 1] = k:tolist() end
    first = first or draws
    t.eq(draws, first, names[i])
  end
end)

t.done()
